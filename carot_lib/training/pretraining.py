"""Pre-training the miniature's CLIP on an endless stream of captioned pictures in every style.

Source: Radford et al. 2021, Section 2.3 (the loss), at the scale of minutes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from carot_lib.data.datasets import normalise
from carot_lib.data.prompts import clip_templates, medium_of, tokenize_prompts
from carot_lib.methods.base import clamp_logit_scale
from carot_lib.methods.losses import contrastive_loss
from carot_lib.models.clip import Clip, build_clip
from carot_lib.progress import track
from carot_lib.schema import Fraction, StrictParams
from carot_lib.sources.miniature import PictogramParams, World
from carot_lib.sources.pictograms import GlyphBank, Pictogram
from carot_lib.training.optimizer import learning_rate_factor


class SmallClipParams(StrictParams):
    """A small convolutional image tower from timm and a small text transformer."""

    vision: str  # a timm architecture
    text_width: PositiveInt
    text_heads: PositiveInt
    text_layers: PositiveInt
    context_length: PositiveInt  # tokens
    embed_dim: PositiveInt
    initial_logit_scale: PositiveFloat

    def config(self, image_size: int) -> dict:
        """Keyword arguments of `open_clip.CLIP`."""
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": {
                "timm_model_name": self.vision,
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "image_size": image_size,
            },
            "text_cfg": {
                "context_length": self.context_length,
                "vocab_size": 49408,  # of CLIP's byte-pair encoding
                "width": self.text_width,
                "heads": self.text_heads,
                "layers": self.text_layers,
            },
        }


class PretrainingParams(StrictParams):
    """`pretrained:` of the miniature."""

    kind: Literal["pretrain"]
    seed: int
    model: SmallClipParams
    steps: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat  # peak
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    weight_decay: NonNegativeFloat
    max_logit_scale: PositiveFloat
    warmup_steps: NonNegativeInt
    mix: dict[str, Annotated[float, Field(gt=0, le=1)]]  # share of each recipe in a batch
    threads: PositiveInt  # of the CPU; their number decides the last digits


class CaptionStream:
    """An endless stream of captioned pictures of pictograms.

    A caption's template fits the medium of its picture, and its name the pictogram. No pictogram is
    shown twice in a batch, as on the web, where two pictures of a batch hardly ever show the same
    thing: the loss takes the captions of all other pictures for wrong ones.

    Raises:
        ValueError: the mix names a recipe that is not there, or a batch is too small for it or has
            more pictures than there are pictograms.
    """

    def __init__(
        self,
        params: PretrainingParams,
        data: PictogramParams,
        world: World,
        pictograms: Sequence[Pictogram],
    ):
        if unknown := sorted(set(params.mix) - set(world.recipes)):
            raise ValueError(f"pretrained.mix: no recipes named {unknown}")
        self.params, self.data, self.world = params, data, world
        if min(self._counts(params.batch_size).values()) < 1:
            size = params.batch_size
            raise ValueError(f"pretrained.batch_size: {size} pictures are too few for the mix")
        if params.batch_size > len(pictograms):
            raise ValueError(
                f"pretrained.batch_size: {params.batch_size}, but there are {len(pictograms)} "
                "pictograms, and none is shown twice in a batch"
            )
        self.glyphs = GlyphBank(pictograms, world.faces, torch.float32)
        templates = clip_templates()
        names = [pictogram.name for pictogram in pictograms]
        self.prompts = tokenize_prompts(names, templates, params.model.context_length)
        self.templates_of = {
            medium: torch.tensor([i for i, t in enumerate(templates) if medium_of(t) == medium])
            for medium in ("photo", "poster", "pencil")
        }

    def draw(
        self, n: int, generator: Generator
    ) -> tuple[Float[Tensor, "n 3 size size"], Int[Tensor, "n context"]]:
        """Pictures in the shares of the mix, and their captions."""
        concepts = torch.randperm(len(self.prompts), generator=generator)[:n]
        counts, pictures, captions = self._counts(n), [], []
        for name, concept in zip(counts, concepts.split(list(counts.values())), strict=True):
            recipe = self.world.recipes[name]
            pictures.append(self.glyphs.draw(concept, recipe, self.data.image_size, generator))
            fitting = self.templates_of[recipe.medium]
            template = fitting[torch.randint(len(fitting), concept.shape, generator=generator)]
            captions.append(self.prompts[concept, template])
        return normalise(torch.cat(pictures)), torch.cat(captions)

    def _counts(self, n: int) -> dict[str, int]:
        """Number of pictures of each recipe; the last one takes the remainder of rounding."""
        total = sum(self.params.mix.values())
        counts = {name: round(n * share / total) for name, share in self.params.mix.items()}
        last = list(counts)[-1]
        counts[last] += n - sum(counts.values())
        return counts


def pretrain(
    params: PretrainingParams,
    data: PictogramParams,
    world: World,
    pictograms: Sequence[Pictogram],
    log: Callable[[dict[str, float]], None],
) -> Clip:
    """Train a CLIP from scratch by the contrastive loss.

    `log` receives step, learning rate, loss and logit scale of every step.

    Raises:
        FloatingPointError: the loss is not finite; the message names the step.
    """
    generator = Generator().manual_seed(params.seed)
    stream = CaptionStream(params, data, world, pictograms)
    with torch.random.fork_rng():
        torch.manual_seed(params.seed)
        clip = build_clip(params.model.config(data.image_size)).train()
    with torch.no_grad():
        clip.model.logit_scale.fill_(math.log(params.model.initial_logit_scale))
    optimizer = torch.optim.AdamW(
        _parameter_groups(clip, params.weight_decay),
        lr=params.learning_rate,
        betas=params.betas,
        fused=True,
    )
    for step in track(range(1, params.steps + 1), params.steps, "pre-training", "steps"):
        factor = learning_rate_factor(step - 1, params.warmup_steps, params.steps)
        rate = params.learning_rate * factor
        for group in optimizer.param_groups:
            group["lr"] = rate
        images, captions = stream.draw(params.batch_size, generator)
        loss = contrastive_loss(clip.similarity_logits(images, captions))
        if not loss.isfinite():
            raise FloatingPointError(f"pre-training: the loss is {loss.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        clamp_logit_scale(clip, params.max_logit_scale)
        scale = clip.logit_scale.item()
        log({"step": step, "learning_rate": rate, "contrastive": loss.item(), "logit_scale": scale})
    return clip.eval()


def _parameter_groups(clip: Clip, weight_decay: float) -> list[dict[str, Any]]:
    """Weights with decay; gains, biases and the logit scale without.

    Source: Radford et al. 2021, Section 2.5; the training of open_clip.
    """
    weights = [p for p in clip.parameters() if p.ndim >= 2]
    others = [p for p in clip.parameters() if p.ndim < 2]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
