"""Losses: against torch's formulas and by hand; parts of a batch add up to the whole."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tinyclf.base.errors import BadInput
from tinyclf.workstation.runs.config import config_from
from tinyclf.workstation.training.losses import Loss, make_loss, plain_loss

LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2], dtype=np.int64)
MANY = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=np.int64)


def loss_of(*overrides: str, labels: NDArray[np.int64] = LABELS) -> Loss:
    return make_loss(config_from(overrides=overrides), labels, num_classes=3, multi_label=labels.ndim > 1)


def logits(num: int) -> torch.Tensor:
    return torch.randn(num, 3, generator=torch.Generator().manual_seed(num)) * 3


def test_plain_losses() -> None:
    labels = torch.from_numpy(LABELS)
    assert torch.allclose(loss_of()(logits(10), labels), functional.cross_entropy(logits(10), labels))
    assert torch.equal(plain_loss(multi_label=False)(logits(10), labels), loss_of()(logits(10), labels))
    many = torch.from_numpy(MANY)
    due = functional.binary_cross_entropy_with_logits(logits(4), many.float())
    assert torch.equal(loss_of(labels=MANY)(logits(4), many), due)
    assert torch.equal(plain_loss(multi_label=True)(logits(4), many), due)


def test_label_smoothing() -> None:
    labels = torch.from_numpy(LABELS)
    due = functional.cross_entropy(logits(10), labels, label_smoothing=0.2)
    assert torch.allclose(loss_of("label_smoothing=0.2")(logits(10), labels), due)
    many = torch.from_numpy(MANY)
    due = functional.binary_cross_entropy_with_logits(logits(4), many * 0.8 + 0.1)
    assert torch.allclose(loss_of("label_smoothing=0.2", labels=MANY)(logits(4), many), due)


def test_class_weights() -> None:
    labels = torch.from_numpy(LABELS)
    each = functional.cross_entropy(logits(10), labels, reduction="none")
    weights = torch.tensor([10 / 18, 10 / 6, 10 / 6])  # images / (classes * images of the class)
    assert torch.allclose(loss_of("class_weights=balanced")(logits(10), labels), (each * weights[labels]).mean())
    assert weights[labels].mean() == pytest.approx(1)
    given = loss_of("class_weights=1,2,0.5")(logits(10), labels)
    assert torch.allclose(given, (each * torch.tensor([1, 2, 0.5])[labels]).mean())


def test_balanced_labels_weigh_ones_against_zeros() -> None:
    each = functional.binary_cross_entropy_with_logits(logits(4), torch.from_numpy(MANY).float(), reduction="none")
    weights = np.where(MANY == 1, np.array([1 / 3, 3, 1]), 1)
    due = (each * torch.from_numpy(weights).float()).mean()
    assert torch.allclose(loss_of("class_weights=balanced", labels=MANY)(logits(4), torch.from_numpy(MANY)), due)


@pytest.mark.parametrize("overrides", [(), ("class_weights=balanced",), ("label_smoothing=0.1", "class_weights=1,2,3")])
def test_parts_of_a_batch_add_up(overrides: tuple[str, ...]) -> None:
    labels, loss = torch.from_numpy(LABELS), loss_of(*overrides)
    parts = 0.3 * loss(logits(10)[:3], labels[:3]) + 0.7 * loss(logits(10)[3:], labels[3:])
    assert torch.allclose(loss(logits(10), labels), parts)


def test_a_loss_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_losses.py").write_text(
        "import torch\n"
        "def margin(logits, labels): return torch.nn.functional.multi_margin_loss(logits, labels)\n"
        "Hinge = torch.nn.MultiMarginLoss\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_losses", raising=False)
    labels = torch.from_numpy(LABELS)
    due = functional.multi_margin_loss(logits(10), labels)
    for name in ("margin", "Hinge"):
        assert torch.equal(loss_of(f"loss=my_losses:{name}")(logits(10), labels), due)
    with pytest.raises(BadInput, match="class_weights and label_smoothing are for the built-in losses"):
        loss_of("loss=my_losses:margin", "label_smoothing=0.1")
    with pytest.raises(BadInput, match="my_losses has no function 'nothing'"):
        loss_of("loss=my_losses:nothing")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("loss=bce",), "loss bce: the images have one label each: choose auto, cross_entropy"),
        (("loss=focal",), "loss focal: "),
        (("class_weights=1,2",), "give balanced, or 3 numbers"),
        (("class_weights=1,2,x",), "give balanced, or 3 numbers"),
        (("class_weights=1,-2,1",), "give balanced, or 3 numbers"),
    ],
)
def test_losses_that_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        loss_of(*overrides)
