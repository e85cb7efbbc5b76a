"""Augmentation: what each kind does to an image of which that can be known, seeds, and options."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data.augment import KINDS, augment, parse_augmentations


def images(num: int = 64, size: int = 16) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(num, 3, size, size)).astype(np.float32))


def apply(name: str, amount: float | tuple[float, ...], given: torch.Tensor | None = None, **at: int) -> torch.Tensor:
    amounts = amount if isinstance(amount, tuple) else (amount, *KINDS[name].amount[1:])
    return augment(images() if given is None else given, {name: amounts}, **{"seed": 1, "epoch": 2, "batch": 3, **at})


@pytest.mark.parametrize("name", KINDS)
def test_draws_depend_on_seed_epoch_batch_and_rank_alone(name: str) -> None:
    given = images()
    before, random_state = given.clone(), torch.random.get_rng_state()
    first = apply(name, KINDS[name].amount, given)
    assert torch.equal(given, before), "the batch itself is not changed"
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert first.shape == given.shape
    assert first.dtype == torch.float32
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(first, given)
    assert torch.equal(first, apply(name, KINDS[name].amount))
    others: tuple[dict[str, Any], ...] = ({"seed": 9}, {"epoch": 9}, {"batch": 9}, {"rank": 1})
    for other in others:
        assert not torch.equal(first, apply(name, KINDS[name].amount, **other)), other


@pytest.mark.parametrize("name", KINDS)
def test_the_amount_that_changes_nothing(name: str) -> None:
    nothing = 1 if name == "crop" else 0
    assert torch.allclose(apply(name, nothing), images(), atol=1e-5)


def test_nothing_asked_for() -> None:
    assert torch.equal(augment(images(), {}, seed=0, epoch=0, batch=0), images())


def test_flip() -> None:
    result, given = apply("flip", 0.5), images()
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(result, given, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(result, given, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 20 < sum(mirrored) < 44
    assert torch.equal(apply("flip", 1), given.flip(3))


def test_shift() -> None:
    result, given = apply("shift", 2), images()
    seen = set()
    for moved, image in zip(result, given, strict=True):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        found = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(moved, padded[:, 2 - down : 18 - down, 2 - right : 18 - right])
        ]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) > 18, "of 25 ways"
    assert apply("shift", 40).abs().sum() < given.abs().sum(), "further than the image is wide"


def test_rotate_keeps_the_middle_and_turns_the_rest() -> None:
    given = torch.zeros(64, 3, 33, 33)
    given[:, :, 16, 16] = 1
    assert torch.allclose(apply("rotate", 45, given)[:, :, 16, 16], torch.ones(64, 3), atol=1e-3)
    bar = torch.zeros(64, 3, 33, 33)
    bar[:, :, 16, 24] = 1  # eight to the right of the middle
    weight = apply("rotate", 30, bar)[:, 0]
    rows, columns = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(33.0) - 16, indexing="ij")
    total = weight.sum((1, 2))
    y, x = (weight * rows).sum((1, 2)) / total, (weight * columns).sum((1, 2)) / total
    assert torch.allclose(torch.hypot(x, y), torch.full((64,), 8.0), atol=0.3)
    degrees = torch.rad2deg(torch.atan2(y, x))
    assert degrees.abs().max() < 31
    assert degrees.max() > 20
    assert degrees.min() < -20


def test_crop_shows_a_part_of_the_image_enlarged() -> None:
    ramp = torch.linspace(-1, 1, 32).expand(64, 3, 32, 32).contiguous()  # grows from left to right
    result = apply("crop", 0.25, ramp)
    assert result.min() >= -1 - 1e-5
    assert result.max() <= 1 + 1e-5
    spans = result[:, 0, 16, -1] - result[:, 0, 16, 0]
    assert 0.8 < spans.min() < 1.3, "a quarter of the area is about half of the width"
    assert spans.max() > 1.7
    assert torch.all(result[:, 0, 16].diff(dim=1) >= -1e-5), "never mirrored, never outside"


def test_crop_keeps_to_its_range_of_areas() -> None:
    ramp = torch.linspace(-1, 1, 32).expand(64, 3, 32, 32).contiguous()
    result = apply("crop", (0.2, 0.3), ramp)
    spans = result[:, 0, 16, -1] - result[:, 0, 16, 0]
    assert spans.max() < 2 * math.sqrt(0.3 * 4 / 3) + 0.1


def test_brightness_and_contrast() -> None:
    given = images()
    offsets = (apply("brightness", 0.4) - given).flatten(1)
    assert torch.allclose(offsets, offsets[:, :1].expand_as(offsets), atol=1e-5)
    assert 0.3 < offsets[:, 0].abs().max() <= 0.4
    result = apply("contrast", 0.3)
    assert torch.allclose(result.mean((1, 2, 3)), given.mean((1, 2, 3)), atol=1e-5)
    factors = result.std((1, 2, 3)) / given.std((1, 2, 3))
    assert 0.7 <= factors.min() < 0.8
    assert 1.2 < factors.max() <= 1.3 + 1e-4


def test_erase() -> None:
    blank = (apply("erase", 0.25) == 0).all(dim=1)
    shares = blank.float().mean((1, 2))
    assert 15 < (shares > 0).sum() < 45
    assert shares.max() <= 0.27
    for mask in blank[shares > 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum(), "a rectangle"


def test_one_more_kind_does_not_change_the_draws_of_another() -> None:
    both = augment(images(), {"brightness": (0.4,), "flip": (1.0,)}, seed=1, epoch=2, batch=3)
    assert torch.allclose(both, apply("brightness", 0.4).flip(3))


def test_options() -> None:
    assert parse_augmentations("") == {}
    assert parse_augmentations("flip, shift=2,rotate") == {"flip": (0.5,), "shift": (2.0,), "rotate": (15.0,)}
    assert parse_augmentations("crop")["crop"] == (0.5, 1)
    assert parse_augmentations("crop=0.2")["crop"] == (0.2, 1)
    assert parse_augmentations("crop=0.2:0.6")["crop"] == (0.2, 0.6)
    for text in (
        "blur",
        "flip,flip",
        "shift=far",
        "shift=-1",
        "flip=2",
        "crop=0",
        "rotate=nan",
        "flip=",
        "crop=0.6:0.2",
        "flip=0:1",
    ):
        with pytest.raises(BadInput, match="--augment") as caught:
            parse_augmentations(text)
        assert len(str(caught.value).splitlines()) == 1
