"""The trimmed text tower, heads and checkpoints against open_clip's own."""

from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, build_zero_shot_classifier
from torch import Tensor

from carot_lib.data.prompts import clip_templates, medium_of, tokenize_prompts
from carot_lib.models.clip import (
    Clip,
    build_clip,
    load_classifier,
    load_clip,
    save_classifier,
    save_clip,
)

NAMES = ["umbrella", "black chess queen", "digit six"]


@pytest.fixture(scope="module")
def prompts() -> Tensor:
    return tokenize_prompts(NAMES, clip_templates(), context_length=32)


@pytest.fixture
def clip(make_clip: Callable[[], Clip]) -> Clip:
    return make_clip().eval()


def text_of(clip_config: dict, **text: object) -> dict:
    """The tiny model's config with another text tower."""
    return {**clip_config, "text_cfg": {**clip_config["text_cfg"], **text}}


def test_trimmed_texts_have_the_features_and_gradients_of_the_full_context(
    clip_config: dict, prompts: Tensor
):
    for config in (
        clip_config,
        {**clip_config, "custom_text": True},
        {**text_of(clip_config, proj_bias=True), "custom_text": True, "quick_gelu": True},
    ):
        torch.manual_seed(0)
        clip = build_clip(config).eval()
        assert clip.trims_texts
        tokens = prompts[:, :5].flatten(0, 1)
        full = F.pad(tokens.long(), (0, 32 - tokens.shape[1]))
        weight = torch.randn(len(tokens), 16, generator=torch.Generator().manual_seed(0))
        gradients = []
        for features in (clip.encode_texts(tokens), clip.model.encode_text(full, normalize=True)):
            clip.zero_grad()
            (features * weight).sum().backward()
            gradients.append({k: p.grad for k, p in clip.named_parameters() if p.grad is not None})
        expected = clip.model.encode_text(full, normalize=True)
        torch.testing.assert_close(clip.encode_texts(tokens), expected, rtol=0, atol=1e-5)
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            # sums of float32 in another order, which each processor chooses for itself
            near = 1e-4 * gradient.abs().max().item()
            torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=near)


@pytest.mark.parametrize(
    "text",
    [
        {"no_causal_mask": True},
        {"pool_type": "last"},
        {"pool_type": "first"},
        {"no_causal_mask": True, "pool_type": "last"},
        {"embed_cls": True},
    ],
)
@pytest.mark.parametrize("custom_text", [False, True])
def test_texts_that_may_not_be_trimmed_are_encoded_in_the_full_context(
    clip_config: dict, prompts: Tensor, text: dict, custom_text: bool
):
    if "embed_cls" in text and not custom_text:
        return  # open_clip's CLIP has no such token
    clip = build_clip({**text_of(clip_config, **text), "custom_text": custom_text}).eval()
    assert not clip.trims_texts
    tokens = prompts[:, :5].flatten(0, 1)
    full = F.pad(tokens.long(), (0, 32 - tokens.shape[1]))
    expected = clip.model.encode_text(full, normalize=True)
    torch.testing.assert_close(clip.encode_texts(tokens), expected)


def test_images_have_open_clips_features(clip: Clip):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = clip.model.encode_image(images, normalize=True)
    torch.testing.assert_close(clip.encode_images(images), expected)


def test_the_head_is_open_clips_times_the_logit_scale(clip: Clip, prompts: Tensor):
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=32)
    with torch.no_grad():
        columns = build_zero_shot_classifier(
            clip.model, tokenizer, NAMES, clip_templates(), num_classes_per_batch=None
        )
        expected = clip.logit_scale * columns.T
    torch.testing.assert_close(clip.head_weights(prompts), expected, rtol=0, atol=1e-4)


def test_a_zero_shot_classifier_shares_no_memory_with_its_clip(clip: Clip, prompts: Tensor):
    classifier = clip.zero_shot_classifier(prompts)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = classifier.eval()(images)
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.add_(1.0)
    assert torch.equal(classifier(images), before)


def test_what_is_saved_comes_back_bit_by_bit(clip: Clip, prompts: Tensor, tmp_path: Path):
    classifier = clip.zero_shot_classifier(prompts)
    save_clip(clip, tmp_path)
    save_classifier(classifier, tmp_path)
    for saved, loaded in (
        (clip.model, load_clip(tmp_path).model),
        (classifier, load_classifier(tmp_path)),
    ):
        assert not loaded.training
        assert saved.state_dict().keys() == loaded.state_dict().keys()
        for name, value in saved.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name]), name
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}  # no pickle


def test_the_config_travels_with_the_weights(clip_config: dict, prompts: Tensor, tmp_path: Path):
    special = {
        **text_of(clip_config, no_causal_mask=True),
        "custom_text": True,
        "quick_gelu": True,
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "resize_mode": "squash"},
    }
    clip = build_clip(special).eval()
    save_clip(clip, tmp_path)
    save_classifier(clip.zero_shot_classifier(prompts), tmp_path)
    loaded, classifier = load_clip(tmp_path), load_classifier(tmp_path)
    assert isinstance(loaded.model, open_clip.CustomTextCLIP)
    assert not loaded.trims_texts
    assert torch.equal(loaded.encode_texts(prompts[0]), clip.encode_texts(prompts[0]))
    for one in (clip, loaded, classifier):
        assert one.preprocessing.size == 32
        assert list(one.preprocessing.mean) == [0.5, 0.5, 0.5]
        assert one.preprocessing.resize_mode == "squash"
    usual = build_clip(clip_config).preprocessing
    assert (usual.mean, usual.std) == (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    assert (usual.interpolation, usual.resize_mode) == ("bicubic", "shortest")


def test_the_templates_are_clips_and_tell_their_medium():
    templates = clip_templates()
    assert len(templates) == 80
    assert templates[0]("cat") == "a bad photo of a cat."
    media = [medium_of(template) for template in templates]
    assert {medium: media.count(medium) for medium in media} == {
        "photo": 46,
        "poster": 28,
        "pencil": 6,
    }
