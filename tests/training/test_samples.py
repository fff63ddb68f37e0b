"""Which images stand under which templates in which batch, and whose share they are."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from carot_lib.data.datasets import ArrayImages
from carot_lib.training.samples import Draws, batches, draw_epochs, draw_pairs


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 9), st.integers(0, 99))
def test_an_epoch_holds_every_image_once(n_images, epochs, size, seed):
    draws = draw_epochs(n_images, 5, epochs, size, rng(seed))
    steps = math.ceil(n_images / size)
    assert len(draws.images) == len(draws.templates) == epochs * steps
    for epoch in range(epochs):
        parts = draws.images[epoch * steps : (epoch + 1) * steps]
        assert sorted(np.concatenate(parts)) == list(range(n_images))
        assert [len(part) for part in parts[:-1]] == [size] * (steps - 1)
        assert len(parts[-1]) == n_images - (steps - 1) * size
    for images, templates in zip(draws.images, draws.templates, strict=True):
        assert len(images) == len(templates)
        assert ((templates >= 0) & (templates < 5)).all()


def test_epochs_are_shuffled_anew_and_use_all_templates():
    draws = draw_epochs(100, 5, 2, 100, rng())
    assert not np.array_equal(draws.images[0], draws.images[1])
    assert not np.array_equal(draws.images[0], np.arange(100))
    assert set(draws.templates[0]) == set(range(5))


@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 9), st.integers(0, 99))
def test_no_pair_comes_twice(n_images, epochs, size, seed):
    n_templates = 40
    draws = draw_pairs(n_images, n_templates, epochs, size, rng(seed))
    steps = epochs * math.ceil(n_images / size)
    assert [len(images) for images in draws.images] == [size] * steps
    assert [len(templates) for templates in draws.templates] == [size] * steps
    images, templates = np.concatenate(draws.images), np.concatenate(draws.templates)
    assert len(set(zip(images, templates, strict=True))) == steps * size
    assert images.min() >= 0
    assert images.max() < n_images
    assert templates.min() >= 0
    assert templates.max() < n_templates


def test_all_pairs_can_be_drawn_and_no_more():
    # 2 epochs of 3 batches of 4 = 24 pairs = 12 images x 2 templates
    draws = draw_pairs(12, 2, 2, 4, rng())
    met = Counter(
        pair
        for images, templates in zip(draws.images, draws.templates, strict=True)
        for pair in zip(images.tolist(), templates.tolist(), strict=True)
    )
    assert met == {(image, template): 1 for image in range(12) for template in range(2)}
    with pytest.raises(ValueError, match=r"9 steps of 4 need 36 .* are 24: .*sampling: epochs"):
        draw_pairs(12, 2, 3, 4, rng())
    with pytest.raises(ValueError, match=r"6 steps of 4 need 24 .* are 22"):
        draw_pairs(11, 2, 2, 4, rng())  # a batch is never small here


def test_pairs_are_spread_evenly_over_images_and_templates():
    draws = draw_pairs(200_000, 80, 1, 500, rng())
    images, templates = np.concatenate(draws.images), np.concatenate(draws.templates)
    assert len(np.unique(images * 80 + templates)) == 200_000
    # 200,000 / 80 each on average; standard deviation of a count: about 50
    assert np.bincount(templates, minlength=80) == pytest.approx([2500] * 80, abs=250)
    quarters = np.bincount(images // 50_000, minlength=4)
    assert quarters == pytest.approx([50_000] * 4, abs=1000)


def test_batches_come_in_the_drawn_order():
    pictures = rng().integers(0, 256, size=(5, 4, 4, 3), dtype=np.uint8)
    images, labels = ArrayImages(pictures), np.array([10, 11, 12, 13, 14])
    draws = Draws(
        [np.array([4, 0, 4]), np.array([2])],
        [np.array([7, 8, 9]), np.array([6])],
    )
    first, second = batches(images, labels, draws, workers=0)
    assert torch.equal(first.images, images[[4, 0, 4]])
    assert first.labels.tolist() == [14, 10, 14]
    assert first.templates.tolist() == [7, 8, 9]
    assert torch.equal(second.images, images[[2]])
    assert second.labels.tolist() == [12]
    assert second.templates.tolist() == [6]


class Noise(Dataset):
    """Images that are nothing but what the transform draws."""

    def __getitem__(self, indices: list[int]) -> torch.Tensor:
        return torch.rand(len(indices), 3, 2, 2)


def noise(draws: Draws, **options: int) -> list[torch.Tensor]:
    labels = np.arange(100)
    return [batch.images for batch in batches(Noise(), labels, draws, **{"workers": 0, **options})]


def test_what_a_transform_draws_depends_on_seed_and_step_alone():
    draws = draw_epochs(10, 2, 2, 4, rng())
    state = torch.get_rng_state()
    whole = noise(draws, seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # the run's own generator is left alone
    assert all(map(torch.equal, noise(draws, seed=1, start_step=4), whole[4:]))
    assert all(map(torch.equal, noise(draws, seed=1, workers=2), whole))
    assert not any(map(torch.equal, noise(draws, seed=2), whole))
    assert not torch.equal(whole[0], whole[1])
    first, second = (noise(draws, seed=1, rank=rank, world_size=2) for rank in (0, 1))
    assert not torch.equal(first[0], second[0])


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_the_shares_of_all_devices_are_the_batch(n_images, size, devices, seed):
    draws = draw_epochs(n_images, 5, 2, size, rng(seed))
    if min(map(len, draws.images)) < devices:
        with pytest.raises(ValueError, match=f"{devices} devices cannot share a batch of "):
            draws.share(0, devices)
        return
    shares = [draws.share(device, devices) for device in range(devices)]
    for name in ("images", "templates"):
        for step, row in enumerate(getattr(draws, name)):
            parts = [getattr(share, name)[step] for share in shares]
            assert np.array_equal(np.concatenate(parts), row)
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_share_knows_the_size_of_its_batch():
    draws = Draws([np.arange(5), np.arange(3)], [np.zeros(5, int), np.zeros(3, int)])
    pictures = rng().integers(0, 256, size=(5, 4, 4, 3), dtype=np.uint8)
    parts = list(batches(ArrayImages(pictures), np.arange(5), draws, 0, rank=1, world_size=2))
    assert [part.labels.tolist() for part in parts] == [[3, 4], [2]]
    assert [part.global_size for part in parts] == [5, 3]
