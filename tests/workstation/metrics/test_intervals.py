"""Bootstrap intervals: each resample against scikit-learn, coverage of the truth, the same again from a seed."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from tests.kit.logits import degenerate, names, random_case, random_multi
from tinyclf.workstation.metrics import bootstrap, interval_lines, log_odds, measure
from tinyclf.workstation.metrics.intervals import _multi, _single, resample


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_every_resample_agrees_with_scikit_learn(num_classes: int, tied: bool) -> None:
    logits, labels = random_case(80, num_classes, seed=num_classes)
    if tied:
        logits = np.round(logits)
    found, odds = _single(logits, labels), log_odds(logits)
    for weights in resample(80, num_resamples=25, seed=7):
        values = {name: metric(weights) for name, metric in found.items()}
        for row, weight in enumerate(weights):
            drawn = np.repeat(np.arange(80), weight)
            truth, called = labels[drawn], logits[drawn].argmax(axis=1)
            aucs = [sk.roc_auc_score(truth == index, odds[drawn, index]) for index in range(num_classes)]
            auc = aucs[1] if num_classes == 2 else np.mean(aucs)
            assert values["auc"][row] == pytest.approx(auc)
            assert values["accuracy"][row] == pytest.approx(sk.accuracy_score(truth, called))
            assert values["balanced_accuracy"][row] == pytest.approx(sk.balanced_accuracy_score(truth, called))
            assert values["macro_f1"][row] == pytest.approx(sk.f1_score(truth, called, average="macro"))


@pytest.mark.parametrize("tied", [False, True])
def test_every_resample_of_labels_agrees_with_scikit_learn(tied: bool) -> None:
    logits, labels = random_multi(80, 5, seed=2)
    if tied:
        logits = np.round(logits)
    found = _multi(logits, labels)
    for weights in resample(80, num_resamples=25, seed=8):
        values = {name: metric(weights) for name, metric in found.items()}
        for row, weight in enumerate(weights):
            drawn = np.repeat(np.arange(80), weight)
            truth, called = labels[drawn], logits[drawn] > 0
            assert values["accuracy"][row] == pytest.approx((truth == called).mean())
            assert values["macro_f1"][row] == pytest.approx(sk.f1_score(truth, called, average="macro"))
            ap = sk.average_precision_score(truth, logits[drawn])
            assert values["mean_average_precision"][row] == pytest.approx(ap)


def test_resamples_draw_as_many_images_and_each_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyclf.workstation.metrics.intervals.BLOCK", 50 * 64)
    blocks = list(resample(50, num_resamples=1000, seed=0))
    assert [len(block) for block in blocks] == [64] * 15 + [40]
    weights = np.concatenate(blocks)
    assert (weights.sum(axis=1) == 50).all()
    # 1,000 x 50 draws: each image expects 1,000 with a standard deviation of 31.
    assert np.abs(weights.sum(axis=0) - 1000).max() < 5 * 31
    assert weights.var(axis=0).mean() == pytest.approx(1 - 1 / 50, abs=0.05), "multinomial counts"


def test_intervals_cover_the_truth() -> None:
    """Of 200 splits of 150 images about 95 % of the 95 % intervals hold the true accuracy and AUC."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 2, 400_000)
    shift = 1.4
    margins = rng.normal(size=wide.size) + shift * (wide - 0.5)
    true_accuracy, true_auc = ((margins > 0) == wide).mean(), sk.roc_auc_score(wide, margins)
    held = {"accuracy": 0, "auc": 0}
    for trial in range(200):
        labels = rng.integers(0, 2, 150)
        margin = rng.normal(size=150) + shift * (labels - 0.5)
        logits = np.stack([np.zeros(150), margin], axis=1)
        found = bootstrap(logits, labels, classes=names(2), num_resamples=200, seed=trial)
        for name, truth in (("accuracy", true_accuracy), ("auc", true_auc)):
            low, high = found[name]
            held[name] += low <= truth <= high
    # 200 trials at 0.95 have a standard deviation of 1.5 points; percentile intervals of 150 images are a bit short.
    assert all(0.90 <= count / 200 <= 0.99 for count in held.values()), held


def test_intervals_depend_on_seed_and_level_alone() -> None:
    logits, labels = random_case(200, 3, seed=0)
    result = measure(logits, labels, classes=names(3))
    first = bootstrap(logits, labels, classes=names(3), num_resamples=200)
    assert first == bootstrap(logits, labels, classes=names(3), num_resamples=200)
    assert first != bootstrap(logits, labels, classes=names(3), num_resamples=200, seed=1)
    narrow = bootstrap(logits, labels, classes=names(3), num_resamples=200, level=0.5)
    assert set(first) == {"accuracy", "balanced_accuracy", "macro_f1", "auc"}
    for name, (low, high) in first.items():
        assert low < narrow[name][0] < getattr(result, name) < narrow[name][1] < high


def test_rankings_are_left_out_where_they_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = random_case(100, 3, seed=0)
    monkeypatch.setattr("tinyclf.workstation.metrics.intervals.MOST_WORK", 100 * 3 * 10)
    assert "auc" in bootstrap(logits, labels, classes=names(3), num_resamples=10)
    assert "auc" not in bootstrap(logits, labels, classes=names(3), num_resamples=11)


@pytest.mark.parametrize("multi", [False, True])
def test_degenerate_splits_neither_fail_nor_warn(multi: bool) -> None:
    rng = np.random.default_rng(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(100):
            logits, labels = degenerate(rng, multi=multi)
            found = bootstrap(logits, labels, classes=names(logits.shape[1]), num_resamples=20)
            assert "accuracy" in found
            assert all(0 <= low <= high <= 1 for low, high in found.values())


def test_an_undefined_metric_has_no_interval() -> None:
    logits, _ = random_case(10, 2, seed=0)
    assert "auc" not in bootstrap(logits, np.zeros(10, np.int64), classes=names(2), num_resamples=20)


def test_lines_for_people() -> None:
    lines = interval_lines({"accuracy": (0.9, 0.95), "auc": (0.97, 1.0)}, level=0.95, num_resamples=1000)
    assert lines == [
        "95% intervals from 1,000 bootstrap resamples:",
        "  accuracy  90.0% to 95.0%",
        "  AUC       0.9700 to 1.0000",
    ]
