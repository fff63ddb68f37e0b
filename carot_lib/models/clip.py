"""CLIP and the classifiers made from it: encode, build heads, save and load.

Weights are stored as safetensors next to a JSON file from which the model is rebuilt, so that no
file can carry code and the architecture is stored with its weights.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.transform import PreprocessCfg
from open_clip.transformer import text_global_pool
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from carot_lib.files import atomic_write, read_json, reading, write_json

TEXT_BATCH_SIZE = 1024  # prompts encoded together for a head; bounds the memory


class Clip(nn.Module):
    """An open_clip model with unit-length features and, where that is exact, trimmed texts.

    `trims_texts` says whether texts are encoded up to their end token only. That is exact if
    attention is causal and the feature is read at the end token, which then does not depend on
    anything behind it. For `config` see `build_clip`.
    """

    def __init__(self, model: open_clip.CLIP | open_clip.CustomTextCLIP, config: Mapping[str, Any]):
        super().__init__()
        self.model, self.config = model, dict(config)
        self.embed_dim, self.context_length = config["embed_dim"], model.context_length
        self.preprocessing = preprocessing_of(config)
        tower = self._text_tower
        pool = getattr(tower, "pool_type", None) or getattr(tower, "text_pool_type", None)
        self.trims_texts = (
            tower.attn_mask is not None
            and pool == "argmax"
            and getattr(tower, "cls_emb", None) is None
        )

    @property
    def _text_tower(self) -> nn.Module:
        """The module with the parts of the text encoder."""
        return getattr(self.model, "text", self.model)

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """Factor on the cosine similarities: exp of the trained parameter."""
        return self.model.logit_scale.exp()

    def encode_images(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch embed"]:
        """Unit-length image features."""
        return F.normalize(self.model.visual(images), dim=-1)

    def encode_texts(self, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch embed"]:
        """Unit-length features of texts, which may be shorter than the model's context."""
        tokens = tokens.long()
        if not self.trims_texts:
            padded = F.pad(tokens, (0, self.context_length - tokens.shape[1]))
            return F.normalize(self.model.encode_text(padded), dim=-1)
        tower = self._text_tower
        ends = tokens.argmax(dim=-1)  # the end token has the largest id
        context = int(ends.max()) + 1
        tokens = tokens[:, :context]
        x = tower.token_embedding(tokens) + tower.positional_embedding[:context]
        x = tower.transformer(x, attn_mask=tower.attn_mask[:context, :context])
        x = text_global_pool(tower.ln_final(x), tokens, "argmax")
        projection = tower.text_projection
        if isinstance(projection, nn.Linear):
            x = projection(x)
        elif projection is not None:
            x = x @ projection
        return F.normalize(x, dim=-1)

    def similarity_logits(
        self, images: Float[Tensor, "batch 3 height width"], tokens: Int[Tensor, "batch context"]
    ) -> Float[Tensor, "batch batch"]:
        """Scaled similarities of each image (row) to each text (column)."""
        return self.logit_scale * self.encode_images(images) @ self.encode_texts(tokens).T

    @torch.no_grad()
    def head_weights(
        self, class_prompts: Int[Tensor, "classes templates context"]
    ) -> Float[Tensor, "classes embed"]:
        """Zero-shot head: per class, the unit-length mean of its prompts' features, scaled.

        Source: Radford et al. 2021, Section 3.1.4; WiSE-FT and FLYP multiply the scale in.
        """
        classes, templates, context = class_prompts.shape
        prompts = class_prompts.reshape(classes * templates, context)
        order = prompts.argmax(dim=-1).argsort(stable=True)  # similar lengths together
        features = torch.cat([self.encode_texts(t) for t in prompts[order].split(TEXT_BATCH_SIZE)])
        features = torch.empty_like(features).index_copy_(0, order, features)
        means = F.normalize(features.view(classes, templates, -1).mean(dim=1), dim=-1)
        return self.logit_scale * means

    def zero_shot_classifier(
        self, class_prompts: Int[Tensor, "classes templates context"]
    ) -> "ImageClassifier":
        """A copy of the image tower with a head from the text tower; shares no memory."""
        was_training = self.training
        weights = self.eval().head_weights(class_prompts)
        self.train(was_training)
        return ImageClassifier(copy.deepcopy(self.model.visual), weights, self.config)


class ImageClassifier(nn.Module):
    """An image encoder and a linear head: the result of every method.

    The image tower is not copied. The rows of the head include the logit scale.
    """

    def __init__(
        self,
        visual: nn.Module,
        head_weights: Float[Tensor, "classes embed"],
        config: Mapping[str, Any],
    ):
        super().__init__()
        self.visual, self.config = visual, dict(config)
        self.preprocessing = preprocessing_of(config)
        classes, embed = head_weights.shape
        self.head = nn.Linear(embed, classes, device=head_weights.device)
        with torch.no_grad():
            self.head.weight.copy_(head_weights)
            self.head.bias.zero_()

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Class logits."""
        return self.head(F.normalize(self.visual(images), dim=-1))


def build_clip(config: Mapping[str, Any]) -> Clip:
    """A CLIP with random weights.

    The config holds keyword arguments of `open_clip.CLIP`, including the activation (`quick_gelu`),
    or, with `custom_text`, of `open_clip.CustomTextCLIP`; and optionally `preprocess_cfg`, see
    `preprocessing_of`.
    """
    arguments = copy.deepcopy(dict(config))
    arguments.pop("preprocess_cfg", None)
    custom_text = arguments.pop("custom_text", False)
    model = (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**arguments)
    # another memory format for the same numbers: 1.3x faster convolutions on a CPU
    model.visual.to(memory_format=torch.channels_last)
    return Clip(model, config)


def preprocessing_of(config: Mapping[str, Any]) -> PreprocessCfg:
    """How image files become what the image tower takes.

    Its image size with CLIP's mean, standard deviation, bicubic resize of the shorter side and
    centre crop, unless `preprocess_cfg` differs.
    """
    size = config["vision_cfg"].get("image_size", PreprocessCfg.size)
    return PreprocessCfg(**{"size": size, **config.get("preprocess_cfg", {})})


def interpolate(
    zero_shot: ImageClassifier, fine_tuned: ImageClassifier, alpha: float
) -> ImageClassifier:
    """WiSE-FT: (1 - alpha) * zero-shot + alpha * fine-tuned, over every tensor, head included.

    Running statistics of BatchNorm are averaged too; its step counter is the fine-tuned one's.

    Raises:
        ValueError: see `states_of`.

    Source: Wortsman et al. 2022, Eq. 1; CaRot, Section A.1.
    """
    start, end = states_of(zero_shot, fine_tuned)
    mixed = {
        key: torch.lerp(start[key], end[key], alpha) if end[key].is_floating_point() else end[key]
        for key in end
    }
    classifier = copy.deepcopy(fine_tuned)
    classifier.load_state_dict(mixed)
    return classifier


def states_of(
    one: ImageClassifier, other: ImageClassifier
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of both; a ValueError if they differ in name or shape."""
    states = one.state_dict(), other.state_dict()
    first, second = ({name: value.shape for name, value in state.items()} for state in states)
    if first != second:
        raise ValueError("the two classifiers do not have the same tensors")
    return states


def save_clip(clip: Clip, folder: Path) -> None:
    """Write `clip.safetensors` and `clip.json`."""
    _save(clip.model, clip.config, folder / "clip")


def load_clip(folder: Path) -> Clip:
    """Read what `save_clip` wrote, in evaluation mode; a ValueError names a damaged file."""
    clip = build_clip(read_json(folder / "clip.json"))
    with reading(folder / "clip.safetensors"):
        clip.model.load_state_dict(load_file(folder / "clip.safetensors"))
    return clip.eval()


def save_classifier(classifier: ImageClassifier, folder: Path) -> None:
    """Write `classifier.safetensors` and `classifier.json`."""
    _save(classifier, classifier.config, folder / "classifier")


def load_classifier(folder: Path) -> ImageClassifier:
    """Read what `save_classifier` wrote, in evaluation mode; a ValueError names a damaged file."""
    config = read_json(folder / "classifier.json")
    with reading(folder / "classifier.safetensors"):
        weights = load_file(folder / "classifier.safetensors")
        visual = build_clip(config).model.visual
        classifier = ImageClassifier(visual, weights["head.weight"], config)
        classifier.load_state_dict(weights)
    return classifier.eval()


def _save(model: nn.Module, config: dict[str, Any], stem: Path) -> None:
    with atomic_write(stem.with_suffix(".safetensors")) as temporary:
        state = model.state_dict()
        save_file({key: value.contiguous().cpu() for key, value in state.items()}, temporary)
    write_json(stem.with_suffix(".json"), config)
