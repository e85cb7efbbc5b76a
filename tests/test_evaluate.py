"""Evaluation: metrics against scikit-learn's, and runs against datasets that do not belong to them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import nn

from tinyclf.data import open_dataset
from tinyclf.errors import BadInput
from tinyclf.evaluate import evaluate, metrics_of, predict
from tinyclf.models import build_model


class Guess(nn.Module):
    """Gives logits that depend on the image's mean brightness alone."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(-2, 0, num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -((images.mean(dim=(1, 2, 3))[:, None] - self.centres) ** 2)


def test_metrics_agree_with_scikit_learn(digits_dir: Path) -> None:
    split = open_dataset(digits_dir).split("test")
    model = Guess(10)
    result = evaluate(model, split)
    logits = predict(model, split)
    truth, called = split.labels, logits.argmax(1).numpy()
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        truth, called, labels=range(10), zero_division=0
    )
    assert 1 < len(set(called.tolist())) < 10, "the guesses must leave a class out, and not be all the same"
    assert result.accuracy == pytest.approx(sk.accuracy_score(truth, called))
    assert result.precision == pytest.approx(precision)
    assert result.recall == pytest.approx(recall)
    assert result.f1 == pytest.approx(f1)
    assert result.support == tuple(support)
    assert np.array_equal(result.confusion, sk.confusion_matrix(truth, called, labels=range(10)))
    assert result.loss == pytest.approx(sk.log_loss(truth, logits.softmax(1).numpy(), labels=range(10)), rel=1e-4)
    assert json.loads(json.dumps(result.to_dict()))["num_images"] == 269


def test_lines_for_people() -> None:
    lines = metrics_of(np.array([[8, 2], [5, 85]]), loss=0.5, classes=("no", "person")).to_lines()
    assert lines[0] == "accuracy 93.0%, loss 0.5000, 100 images"
    assert lines[3].split() == ["no", "61.5%", "80.0%", "69.6%", "10", "8", "2"]
    assert len({line.index("%") for line in lines[3:]}) == 1, "columns stand under each other"


def test_eval_mode_and_order(digits_dir: Path) -> None:
    split = open_dataset(digits_dir).split("validation")
    model = build_model("fdmobilenet_wd4", num_classes=10, size=32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    first = evaluate(model, split)
    assert first == evaluate(model, split)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_other_number_of_classes(digits_dir: Path) -> None:
    with pytest.raises(BadInput, match="the model has 3 classes, the dataset 10"):
        evaluate(Guess(3), open_dataset(digits_dir).split("test"))
