"""Metrics against scikit-learn's on random logits, against cases worked by hand, and on degenerate splits."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from tests.kit.logits import degenerate, names, random_case, random_multi
from tinyclf.base.errors import BadInput
from tinyclf.workstation.metrics import (
    Metrics,
    MultiMetrics,
    binary_cross_entropy,
    calibrate,
    cross_entropy,
    log_odds,
    measure,
    measure_multi,
    rank,
    sigmoid,
)
from tinyclf.workstation.metrics.calibration import calibration_of
from tinyclf.workstation.metrics.ranking import best_threshold


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


# --- one class per image ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_single_label_agrees_with_scikit_learn(num_classes: int) -> None:
    logits, labels = random_case(400, num_classes, seed=num_classes)
    result = measure(logits, labels, classes=names(num_classes))
    called, share = logits.argmax(axis=1), softmax(logits)
    precision, recall, f1, support = sk.precision_recall_fscore_support(labels, called)
    assert result.accuracy == pytest.approx(sk.accuracy_score(labels, called))
    assert result.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(labels, called))
    assert result.loss == pytest.approx(sk.log_loss(labels, share))
    assert result.macro_f1 == pytest.approx(sk.f1_score(labels, called, average="macro"))
    assert result.precision == pytest.approx(precision)
    assert result.recall == pytest.approx(recall)
    assert result.f1 == pytest.approx(f1)
    assert result.support == tuple(support)
    assert np.array_equal(result.confusion, sk.confusion_matrix(labels, called))
    for index in range(num_classes):
        truth = labels == index
        assert result.class_auc[index] == pytest.approx(sk.roc_auc_score(truth, share[:, index]))
        ap = sk.average_precision_score(truth, share[:, index])
        assert result.class_average_precision[index] == pytest.approx(ap)


def test_auc_of_two_classes_is_that_of_class_1_and_of_more_the_macro_mean() -> None:
    logits, labels = random_case(300, 2, seed=0)
    result = measure(logits, labels, classes=names(2))
    assert result.auc == pytest.approx(sk.roc_auc_score(labels, softmax(logits)[:, 1]))
    assert result.average_precision == pytest.approx(sk.average_precision_score(labels, softmax(logits)[:, 1]))
    logits, labels = random_case(300, 4, seed=1)
    result = measure(logits, labels, classes=names(4))
    assert result.auc == pytest.approx(sk.roc_auc_score(labels, softmax(logits), multi_class="ovr"))
    one_hot = labels[:, None] == np.arange(4)
    assert result.average_precision == pytest.approx(sk.average_precision_score(one_hot, softmax(logits)))


def test_a_case_worked_by_hand() -> None:
    """Margins 3, 1, 1, -1, -2 of labels 1, 0, 1, 1, 0: called 1 1 1 0 0, one pair of scores tied."""
    margins = np.array([3, 1, 1, -1, -2], dtype=np.float32)
    logits, labels = np.stack([np.zeros(5, np.float32), margins], axis=1), np.array([1, 0, 1, 1, 0])
    result = measure(logits, labels, classes=("no", "yes"))
    assert result.confusion == ((1, 1), (1, 2))
    assert result.accuracy == pytest.approx(3 / 5)
    assert result.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert result.precision == pytest.approx((1 / 2, 2 / 3))
    assert result.macro_f1 == pytest.approx((1 / 2 + 2 / 3) / 2)
    # Pairs (positive, negative): 3 beats both; 1 ties with one, beats one; -1 beats one. 2 + 1.5 + 1 of 6.
    assert result.auc == pytest.approx(4.5 / 6)
    # Thresholds 3, 1, -1, -2: precision 1, 2/3, 3/4, 3/5 at recall 1/3, 2/3, 1, 1.
    assert result.average_precision == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    losses = [math.log1p(math.exp(-3)), math.log1p(math.exp(1)), math.log1p(math.exp(-1)), math.log1p(math.exp(1))]
    assert result.loss == pytest.approx((sum(losses) + math.log1p(math.exp(-2))) / 5)
    # Balanced accuracy at thresholds 3, 1, -1, -2: 2/3, 7/12, 3/4, 1/2. Half-way from p(-1) to p(-2).
    best = result.best_threshold
    assert best is not None
    assert best.probability == pytest.approx((1 / (1 + math.e) + 1 / (1 + math.e**2)) / 2)
    assert (best.balanced_accuracy, best.accuracy) == pytest.approx((3 / 4, 4 / 5))
    assert best.f1 == pytest.approx(6 / 7)


@pytest.mark.parametrize("seed", range(20))
def test_best_threshold_is_the_best_of_all(seed: int) -> None:
    """Search every threshold by scikit-learn, with many ties, and apply the one found to the probabilities."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], rng.integers(0, 2, 30)])
    logits = np.stack([np.zeros(32), rng.integers(-3, 4, 32) + labels], axis=1).astype(np.float32)
    best = measure(logits, labels, classes=names(2)).best_threshold
    share = softmax(logits)[:, 1]
    assert best is not None
    called = share >= best.probability
    assert best.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(labels, called))
    assert best.accuracy == pytest.approx(sk.accuracy_score(labels, called))
    assert best.f1 == pytest.approx(sk.f1_score(labels, called))
    for threshold in np.linspace(0, 1, 101):
        assert best.balanced_accuracy >= sk.balanced_accuracy_score(labels, share >= threshold) - 1e-12


def test_threshold_of_certain_answers_can_be_applied() -> None:
    """Probabilities that all round to 1 leave no threshold between them: they are called alike."""
    logits, labels = np.array([[0, 60], [0, 90], [0, 50]], dtype=np.float32), np.array([0, 1, 1])
    result = measure(logits, labels, classes=names(2))
    assert result.auc == pytest.approx(1 / 2), "ranked by exact log odds"
    assert result.best_threshold is not None
    called = sigmoid(logits[:, 1]) >= result.best_threshold.probability
    assert result.best_threshold.accuracy == pytest.approx(np.mean(called == labels))


def test_among_equal_thresholds_the_one_nearest_to_a_half() -> None:
    """The thresholds that call one image or three give 3/4; once the lower, once the upper is nearer to 0.5."""
    ranking = rank(np.array([0.9, 0.6, 0.55, 0.1]), np.array([True, False, True, False]))
    best = best_threshold(ranking)
    assert best is not None
    assert (best.probability, best.balanced_accuracy) == pytest.approx((0.325, 0.75))
    ranking = rank(np.array([0.7, 0.6, 0.2, 0.01]), np.array([True, False, True, False]))
    best = best_threshold(ranking)
    assert best is not None
    assert (best.probability, best.balanced_accuracy) == pytest.approx((0.65, 0.75))


def test_a_threshold_between_neighbouring_numbers() -> None:
    """The middle of two neighbouring numbers rounds to the lower one here, at which both would be called."""
    upper = np.nextafter(1.0, 0.0)
    lower = np.nextafter(upper, 0.0)
    assert (upper + lower) / 2 == lower
    best = best_threshold(rank(np.array([upper, lower]), np.array([True, False])))
    assert best is not None
    assert lower < best.probability <= upper
    assert best.accuracy == 1.0


def test_losses_keep_their_digits_at_any_size() -> None:
    logits = np.array([[1e38, -1e38], [-40, 0], [0, 0]], dtype=np.float32)
    losses = cross_entropy(logits, np.array([1, 1, 0]))
    assert losses[0] == pytest.approx(2 * float(np.float32(1e38)))
    assert losses[1] == pytest.approx(math.exp(-40), rel=1e-12), "1 - p rounds to 0, its logarithm must not"
    assert losses[2] == pytest.approx(math.log(2))
    assert cross_entropy(np.array([[0, -40, -41]], np.float32), np.array([0]))[0] == pytest.approx(
        math.exp(-40) + math.exp(-41), rel=1e-12
    )
    assert binary_cross_entropy(np.array([[-1e38, 40]], np.float32), np.array([[1, 1]]))[0] == pytest.approx(
        [float(np.float32(1e38)), math.exp(-40)], rel=1e-12
    )


def test_log_odds_agree_with_the_softmax() -> None:
    logits, _ = random_case(50, 7, seed=3)
    share = softmax(logits)
    assert log_odds(logits) == pytest.approx(np.log(share) - np.log1p(-share), rel=1e-9, abs=1e-12)
    assert sigmoid(log_odds(logits)) == pytest.approx(share)


def test_blocks_do_not_change_log_odds(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, _ = random_case(50, 7, seed=4)
    whole = log_odds(logits)
    monkeypatch.setattr("tinyclf.workstation.metrics.probabilities.BLOCK", 7 * 8)
    assert np.array_equal(log_odds(logits), whole)


def test_calibration_error_by_hand_and_by_its_definition() -> None:
    """Confidence 0.9 right twice of 4, confidence 0.6 right once of 1: (4 x 0.4 + 1 x 0.4) / 5."""
    odds = np.log(np.array([9, 9, 9, 9, 1.5]))
    logits = np.stack([np.zeros(5), odds], axis=1).astype(np.float32)
    result = calibrate(logits, np.array([1, 1, 0, 0, 1]))
    assert result.error == pytest.approx(0.4, rel=1e-6)
    assert result.counts[[8, 13]].tolist() == [1, 4]
    logits, labels = random_case(500, 5, seed=5)
    confidence, right = softmax(logits).max(axis=1), logits.argmax(axis=1) == labels
    error = 0.0
    for index in range(15):
        inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibrate(logits, labels).error == pytest.approx(error)


def test_bins_are_closed_above() -> None:
    edges = np.linspace(0, 1, 16)
    assert calibration_of(edges[1:], np.ones(15, dtype=np.bool_)).counts.tolist() == [1] * 15
    assert calibration_of(edges[:1], np.ones(1, dtype=np.bool_)).counts.tolist() == [1] + [0] * 14


@pytest.mark.parametrize("seed", range(10))
def test_ranking_with_ties_agrees_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, scores = rng.random(60) < 0.4, rng.integers(0, 8, 60).astype(np.float64)
    ranking = rank(scores, truth)
    assert ranking.auc == pytest.approx(sk.roc_auc_score(truth, scores))
    assert ranking.average_precision == pytest.approx(sk.average_precision_score(truth, scores))
    false_rate, true_rate, _ = sk.roc_curve(truth, scores, drop_intermediate=False)
    assert ranking.false_rate == pytest.approx(false_rate[1:])
    assert ranking.recall == pytest.approx(true_rate[1:])


# --- several labels per image -----------------------------------------------------------------------------------------


def test_multi_label_agrees_with_scikit_learn() -> None:
    logits, labels = random_multi(300, 6, seed=0)
    result = measure_multi(logits, labels, classes=names(6))
    share = 1 / (1 + np.exp(-logits.astype(np.float64)))
    called = (share > 0.5).astype(np.int64)
    precision, recall, f1, support = sk.precision_recall_fscore_support(labels, called)
    assert result.accuracy == pytest.approx((labels == called).mean())
    assert result.exact_match == pytest.approx(sk.accuracy_score(labels, called))
    assert result.loss == pytest.approx(np.mean([sk.log_loss(labels[:, i], share[:, i]) for i in range(6)]))
    assert result.precision == pytest.approx(precision)
    assert result.recall == pytest.approx(recall)
    assert result.f1 == pytest.approx(f1)
    assert result.support == tuple(support)
    assert result.macro_f1 == pytest.approx(sk.f1_score(labels, called, average="macro"))
    assert result.micro_f1 == pytest.approx(sk.f1_score(labels, called, average="micro"))
    assert result.auc == pytest.approx(sk.roc_auc_score(labels, share))
    assert result.label_auc == pytest.approx(sk.roc_auc_score(labels, share, average=None))
    assert result.mean_average_precision == pytest.approx(sk.average_precision_score(labels, share))
    assert result.label_average_precision == pytest.approx(sk.average_precision_score(labels, share, average=None))
    for index, best in enumerate(result.best_threshold):
        assert best is not None
        at_best = sk.balanced_accuracy_score(labels[:, index], share[:, index] >= best.probability)
        assert best.balanced_accuracy == pytest.approx(at_best)
        assert best.balanced_accuracy >= sk.balanced_accuracy_score(labels[:, index], called[:, index])


def test_calibration_error_of_labels_is_over_all_probabilities() -> None:
    """Four answers with probability 0.2, one of them true; four with 0.7, all true: (0.05 + 0.3) / 2."""
    logits = np.log(np.array([[0.25, 7 / 3]] * 4)).astype(np.float32)
    labels = np.array([[1, 1], [0, 1], [0, 1], [0, 1]])
    assert measure_multi(logits, labels, classes=names(2)).calibration_error == pytest.approx(0.175, rel=1e-6)


# --- degenerate splits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("multi", [False, True])
def test_degenerate_splits_neither_fail_nor_warn(multi: bool) -> None:
    rng = np.random.default_rng(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(300):
            logits, labels = degenerate(rng, multi=multi)
            result: Metrics | MultiMetrics = (measure_multi if multi else measure)(
                logits, labels, classes=names(logits.shape[1])
            )
            text = json.dumps(result.to_dict(), allow_nan=False)
            assert json.loads(text)["num_images"] == len(labels)
            assert "nan" not in "\n".join(result.to_lines()).lower()
            for values in (result.precision, result.recall, result.f1):
                assert all(value is None or 0 <= value <= 1 for value in values)
            assert 0 <= result.accuracy <= 1
            assert result.loss >= 0
            assert result.auc is None or 0 <= result.auc <= 1


def test_what_is_undefined_is_none_and_a_dash() -> None:
    """Class 2 has no image and is never called; class 1 is called once and has no image."""
    logits = np.array([[2, 1, 0], [0, 1, -1]], dtype=np.float32)
    result = measure(logits, np.array([0, 0]), classes=("a", "b", "c"))
    assert result.precision == (1.0, 0.0, None)
    assert result.recall == (0.5, None, None)
    assert result.f1[0] == pytest.approx(2 / 3)
    assert result.f1[1:] == (0.0, None)
    assert result.class_auc == (None, None, None)
    assert result.class_average_precision == (1.0, None, None)
    assert result.auc is None
    assert result.balanced_accuracy == 0.5
    assert result.macro_f1 == pytest.approx(1 / 3), "over the classes that occur, as scikit-learn has it"
    assert result.to_lines()[-1].split() == ["c", "-", "-", "-", "-", "-", "0", "0", "0", "0"]
    assert json.loads(json.dumps(result.to_dict()))["recall"] == [0.5, None, None]


def test_one_image_of_one_class() -> None:
    result = measure(np.array([[7]], dtype=np.float32), np.array([0]), classes=("only",))
    assert (result.accuracy, result.loss, result.calibration_error) == (1.0, 0.0, 0.0)
    assert result.auc is None
    assert result.best_threshold is None


def test_equal_logits_call_the_first_class_and_no_label() -> None:
    zeros = np.zeros((1, 2), dtype=np.float32)
    assert measure(zeros, np.array([0]), classes=names(2)).confusion == ((1, 0), (0, 0))
    assert measure_multi(zeros, np.array([[0, 1]]), classes=names(2)).called == (0, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_diverged_model_is_refused(bad: float) -> None:
    logits, labels = random_case(5, 3, seed=0)
    logits[2, 1] = bad
    with pytest.raises(BadInput, match="not a number for 1 of 5 images"):
        measure(logits, labels, classes=names(3))
    with pytest.raises(BadInput, match="no images"):
        measure(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), classes=names(2))


# --- tables -----------------------------------------------------------------------------------------------------------


def test_lines_for_people() -> None:
    counts = np.array([[8, 2], [5, 85]])
    labels = np.repeat([0, 0, 1, 1], counts.ravel())
    called = np.repeat([0, 1, 0, 1], counts.ravel())
    logits = np.where(called[:, None] == np.arange(2), 1, 0).astype(np.float32)
    lines = measure(logits, labels, classes=("no", "person")).to_lines()
    assert lines[0].startswith("accuracy 93.0%, loss 0.")
    assert lines[0].endswith(", 100 images")
    rows = lines[lines.index("") + 1 :]
    assert rows[0].split()[:7] == ["class", "precision", "recall", "F1", "AUC", "AP", "images"]
    assert rows[1].split()[:4] == ["no", "61.5%", "80.0%", "69.6%"]
    assert rows[1].split()[-3:] == ["10", "8", "2"]
    assert len({row.index("%") for row in rows[1:]}) == 1, "columns stand under each other"


@pytest.mark.parametrize("num_classes", [13, 40, 1000])
def test_table_of_many_classes_shows_the_worst_and_says_so(num_classes: int) -> None:
    logits, labels = random_case(3 * num_classes, num_classes, seed=0)
    labels[:num_classes] = np.arange(num_classes)
    result = measure(logits, labels, classes=names(num_classes))
    lines = result.to_lines()
    assert len(lines) < 25
    assert max(map(len, lines)) < 120
    start = lines.index(f"the 10 classes with the lowest F1, of {num_classes:,}:")
    shown = [line.split("  ")[0] for line in lines[start + 2 : start + 12]]
    assert len(shown) == 10
    f1 = dict(zip(result.classes, result.f1, strict=True))
    worst = [f1[name] for name in shown]
    assert worst == sorted(f1.values(), key=lambda value: value or 0.0)[:10]
    wrong = [(n, t, p) for t, row in enumerate(result.confusion) for p, n in enumerate(row) if t != p]
    count, true, _ = max(wrong, key=lambda cell: cell[0])
    confused = lines[lines.index("most often confused:") + 1]
    assert confused.endswith(f": {count:,} of {result.support[true]:,}")
    assert len(result.to_lines(every_class=True)) > num_classes


def test_table_of_forty_labels() -> None:
    logits, labels = random_multi(100, 40, seed=0)
    result = measure_multi(logits, labels, classes=names(40))
    lines = result.to_lines()
    assert lines[0] == f"accuracy {result.accuracy:.1%}, loss {result.loss:.4f}, 100 images"
    assert "the 10 labels with the lowest F1, of 40:" in lines
    assert len(lines) == 15
    assert max(map(len, lines)) < 120
    assert len(result.to_lines(every_class=True)) == 44


def test_class_names_are_printed_on_one_line() -> None:
    logits, labels = random_case(20, 2, seed=0)
    lines = measure(logits, labels, classes=("a\nb\x1b[31m", "x" * 200)).to_lines()
    assert all("\n" not in line and "\x1b" not in line and len(line) < 140 for line in lines)
