"""Evaluation: the logits of a split, and models that do not belong to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import nn

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data import Preprocessing, open_dataset
from tinyclf.workstation.metrics import Metrics
from tinyclf.workstation.nets.build import build_model
from tinyclf.workstation.results.evaluate import evaluate

PLAIN = Preprocessing(32, 32)


class Guess(nn.Module):
    """Gives logits that depend on the image's mean brightness alone."""

    centres: torch.Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(-2, 0, num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -((images.mean(dim=(1, 2, 3))[:, None] - self.centres) ** 2)


def test_the_logits_of_all_images_are_measured_in_order(digits_dir: Path) -> None:
    split = open_dataset(digits_dir).split("test")
    model = Guess(10)
    result = evaluate(model, split, PLAIN)
    logits = model(PLAIN.apply(split.gather(range(len(split))))).numpy()
    called = logits.argmax(1)
    assert 1 < len(set(called.tolist())) < 10, "the guesses must leave a class out, and not be all the same"
    assert result.accuracy == pytest.approx(sk.accuracy_score(split.labels, called))
    assert isinstance(result, Metrics)
    assert np.array_equal(result.confusion, sk.confusion_matrix(split.labels, called, labels=range(10)))
    assert json.loads(json.dumps(result.to_dict()))["num_images"] == 269


def test_eval_mode_and_order(digits_dir: Path) -> None:
    split = open_dataset(digits_dir).split("validation")
    model = build_model("fdmobilenet_wd4", num_classes=10, size=32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    first = evaluate(model, split, PLAIN)
    assert first == evaluate(model, split, PLAIN)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_other_number_of_classes(digits_dir: Path) -> None:
    with pytest.raises(BadInput, match="the model has 3 classes, the dataset 10"):
        evaluate(Guess(3), open_dataset(digits_dir).split("test"), PLAIN)
