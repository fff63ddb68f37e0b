"""Pre-training: the pictures and their captions, and the training."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Generator, Tensor

from carot_lib.data.prompts import clip_templates, medium_of
from carot_lib.models.clip import Clip, build_clip
from carot_lib.sources.miniature import PictogramParams, World
from carot_lib.sources.pictograms import read_pictograms
from carot_lib.training.optimizer import learning_rate_factor
from carot_lib.training.pretraining import (
    CaptionStream,
    PretrainingParams,
    SmallClipParams,
    pretrain,
)

ROOT = Path(__file__).parents[2]
TREE = yaml.safe_load((ROOT / "params.yaml").read_text())["miniature"]
ALL = read_pictograms(ROOT / "data" / "pictograms.csv")
PICTOGRAMS = [*ALL[:50], *ALL[-10:]]  # classes first; the others are in captions only
DATA = PictogramParams.model_validate(TREE["data"] | {"image_size": 32})
WORLD = World.model_validate(yaml.safe_load((ROOT / "data" / "miniature.yaml").read_text()))
TINY = {"text_width": 16, "text_heads": 2, "text_layers": 1, "embed_dim": 16}


def params(**changes: object) -> PretrainingParams:
    small = {"steps": 2, "batch_size": 20, "warmup_steps": 1}
    small["model"] = TREE["pretrained"]["model"] | TINY
    return PretrainingParams.model_validate(TREE["pretrained"] | small | changes)


def stream(**changes: object) -> CaptionStream:
    return CaptionStream(params(**changes), DATA, WORLD, PICTOGRAMS)


def pretrained(**changes: object) -> tuple[Clip, list[dict[str, float]]]:
    """The model and the records of a tiny pre-training."""
    records = []
    return pretrain(params(**changes), DATA, WORLD, PICTOGRAMS, records.append), records


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def named(one: CaptionStream, captions: Tensor) -> tuple[list[int], list[int]]:
    """Which pictogram and which template each caption is of, by its tokens."""
    same = (one.prompts[None] == captions[:, None, None]).all(dim=3)
    places = [row.nonzero()[0].tolist() for row in same]
    return [place[0] for place in places], [place[1] for place in places]


def test_a_caption_names_its_picture(monkeypatch: pytest.MonkeyPatch):
    one, drawn = stream(), []
    draw = one.glyphs.draw

    def recorded(pictograms: Tensor, *options: object) -> Tensor:
        drawn.extend(pictograms.tolist())
        return draw(pictograms, *options)

    monkeypatch.setattr(one.glyphs, "draw", recorded)
    images, captions = one.draw(20, seeded())
    assert len(images) == 20
    assert named(one, captions)[0] == drawn


def test_no_pictogram_is_shown_twice_in_a_batch():
    one = stream()
    concepts = named(one, one.draw(60, seeded())[1])[0]
    assert sorted(concepts) == list(range(60))  # also what is met in captions only
    with pytest.raises(ValueError, match=r"pretrained\.batch_size: 61, but there are 60 pictogr"):
        stream(batch_size=61)


@pytest.mark.parametrize(
    ("recipe", "medium"), [("photo", "photo"), ("rendition", "poster"), ("sketch", "pencil")]
)
def test_a_caption_speaks_of_the_medium_of_its_picture(recipe: str, medium: str):
    one = stream(mix={recipe: 1.0})
    images, captions = one.draw(60, seeded())
    templates = [clip_templates()[template] for template in named(one, captions)[1]]
    assert {medium_of(template) for template in templates} == {medium}
    assert len(set(templates)) > 5
    mean, std = (torch.tensor(x)[:, None, None] for x in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    channels = images * std + mean
    is_grey = (channels.amax(dim=1) - channels.amin(dim=1)).mean() < 0.05  # but for the noise
    assert is_grey == (medium == "pencil")


def test_the_shares_of_the_mix_by_hand():
    shares = {"photo": 0.2, "v2": 0.05, "rendition": 0.3, "sketch": 0.2, "scene": 0.25}
    # 256 pictures: 51.2, 12.8, 76.8, 51.2 and 64
    assert stream(mix=shares)._counts(256) == {
        "photo": 51,
        "v2": 13,
        "rendition": 77,
        "sketch": 51,
        "scene": 64,
    }
    # shares need not sum to 1: a quarter and three quarters of 10, 2.5 rounded to even
    assert stream(mix={"photo": 0.1, "sketch": 0.3})._counts(10) == {"photo": 2, "sketch": 8}


@given(
    st.dictionaries(st.sampled_from(list(WORLD.recipes)), st.floats(0.01, 1), min_size=1),
    st.integers(1, 300),
)
def test_a_batch_is_as_large_as_asked_for_whatever_the_mix(mix: dict[str, float], n: int):
    class Mixed:
        params = None

    mixed = Mixed()
    mixed.params = params(mix=mix)
    counts = CaptionStream._counts(mixed, n)
    assert sum(counts.values()) == n
    assert list(counts) == list(mix)
    total = sum(mix.values())
    for name in list(mix)[:-1]:
        assert abs(counts[name] - n * mix[name] / total) <= 0.5


def test_a_recipe_of_the_mix_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"pretrained\.mix: no recipes named \['oil', 'phto'\]"):
        stream(mix={"photo": 0.5, "phto": 0.4, "oil": 0.1})


@pytest.mark.parametrize(
    ("batch_size", "mix"),
    [
        (10, {"v2": 0.05, "photo": 0.95}),  # half a picture, rounded to none
        # .6 of a picture each, rounded to one: the last recipe would have to give one back
        (3, dict.fromkeys(["photo", "v2", "rendition", "sketch", "scene"], 0.2)),
    ],
)
def test_a_batch_too_small_for_its_mix_is_refused(batch_size: int, mix: dict[str, float]):
    with pytest.raises(ValueError, match=rf"pretrained\.batch_size: {batch_size} pictures are too"):
        stream(batch_size=batch_size, mix=mix)


def test_the_stream_depends_on_the_generator_alone():
    one = stream()
    first, again, other = (one.draw(20, seeded(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def state(clip: torch.nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in clip.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[key]) for key, value in first.items())


def test_pretraining_is_the_seeds_and_leaves_the_chances_of_others_alone():
    before = torch.random.get_rng_state()
    first = state(pretrained()[0])
    assert torch.equal(before, torch.random.get_rng_state())
    with torch.random.fork_rng():
        torch.manual_seed(99)
        again = state(pretrained()[0])
    assert equal(first, again)
    assert not equal(first, state(pretrained(seed=1)[0]))


def test_every_step_is_logged_with_its_rate(capsys: pytest.CaptureFixture[str]):
    clip, records = pretrained(steps=5)
    names = ["step", "learning_rate", "contrastive", "logit_scale"]
    assert all(list(record) == names for record in records)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5]
    peak = TREE["pretrained"]["learning_rate"]
    rates = [peak * learning_rate_factor(step, 1, 5) for step in range(5)]
    assert [record["learning_rate"] for record in records] == pytest.approx(rates)
    # a step of AdamW moves its logarithm by one rate at most
    start = TREE["pretrained"]["model"]["initial_logit_scale"]
    assert records[0]["logit_scale"] == pytest.approx(start, rel=2 * rates[0])
    assert clip.logit_scale.item() == records[-1]["logit_scale"]  # trained, and not set again
    assert not any(module.training for module in clip.modules())
    assert "pre-training: 5/5 steps" in capsys.readouterr().err


def test_the_logit_scale_stays_below_its_bound():
    _, records = pretrained(max_logit_scale=50.0)
    assert TREE["pretrained"]["model"]["initial_logit_scale"] > 50
    assert max(record["logit_scale"] for record in records) <= 50 * (1 + 1e-6)


def test_the_first_loss_is_that_of_knowing_nothing():
    # scale so small that all similarities are equal: log(batch) nats
    model = TREE["pretrained"]["model"] | TINY | {"initial_logit_scale": 1.0e-6}
    _, records = pretrained(model=model, steps=1)
    assert records[0]["contrastive"] == pytest.approx(math.log(20), abs=1e-4)


def test_pretraining_learns():
    _, records = pretrained(steps=16)
    losses = [record["contrastive"] for record in records]
    assert sum(losses[-4:]) / 4 < sum(losses[:4]) / 4 - 0.2


def test_a_loss_that_is_not_finite_stops_the_run_and_says_when():
    records = []
    with pytest.raises(FloatingPointError, match="pre-training: the loss is nan at step 2"):
        pretrain(
            params(learning_rate=1.0e38, warmup_steps=0), DATA, WORLD, PICTOGRAMS, records.append
        )
    assert [record["step"] for record in records] == [1]


def test_the_config_builds_the_model_it_states():
    small = SmallClipParams.model_validate(TREE["pretrained"]["model"])
    clip = build_clip(small.config(image_size=32))
    assert clip.context_length == 32
    assert clip.encode_images(torch.zeros(2, 3, 32, 32)).shape == (2, 64)
    assert clip.model.token_embedding.num_embeddings == 49408
    assert len(clip.model.transformer.resblocks) == 2
    visual = sum(weight.numel() for weight in clip.model.visual.parameters())
    assert 0.3e6 < visual < 0.6e6  # params.yaml: 0.4 million
