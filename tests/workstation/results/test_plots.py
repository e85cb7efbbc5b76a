"""Pictures: that the figures show the numbers of the metrics, at any number of classes, and that PNG files come out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.kit.logits import degenerate, names, random_case, random_multi
from tinyclf.workstation.metrics import calibrate, measure, measure_multi, rank
from tinyclf.workstation.results.plots import (
    _mean_curve,
    _pr_curve,
    _roc_curve,
    write_confusion,
    write_pr_roc,
    write_reliability,
)


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Keep the figure in place of writing it."""
    kept: dict[str, Any] = {}
    monkeypatch.setattr("tinyclf.workstation.results.plots._write", lambda path, figure: kept.update(figure=figure))
    return kept


def legend(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_cells_and_names_of_a_confusion_matrix(figure: dict[str, Any]) -> None:
    logits, labels = random_case(200, 3, seed=0)
    metrics = measure(logits, labels, classes=("a", "b", "c"))
    write_confusion(Path("x.png"), metrics)
    axes = figure["figure"].axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    for true, row in enumerate(metrics.confusion):
        for called, count in enumerate(row):
            assert cells[called, true] == f"{count:,}\n{count / sum(row):.1%}"
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "c"]
    assert axes.images[0].get_array()[1, 2] == pytest.approx(metrics.confusion[1][2] / metrics.support[1])


@pytest.mark.parametrize(("num_classes", "named"), [(100, True), (101, False)])
def test_a_large_confusion_matrix_has_no_numbers(figure: dict[str, Any], num_classes: int, named: bool) -> None:
    logits, labels = random_case(500, num_classes, seed=0)
    write_confusion(Path("x.png"), measure(logits, labels, classes=names(num_classes)))
    axes = figure["figure"].axes[0]
    assert not axes.texts
    assert ("class 57" in [text.get_text() for text in axes.get_yticklabels()]) == named


def test_bars_of_labels_sum_to_all_images(figure: dict[str, Any]) -> None:
    logits, labels = random_multi(200, 40, seed=0)
    metrics = measure_multi(logits, labels, classes=names(40))
    write_confusion(Path("x.png"), metrics)
    axes = figure["figure"].axes[0]
    widths = np.array([[bar.get_width() for bar in bars] for bars in axes.containers])
    called = logits > 0
    assert widths[0] == pytest.approx((called & (labels == 1)).mean(axis=0))
    assert widths[1] == pytest.approx((~called & (labels == 1)).mean(axis=0))
    assert widths[2] == pytest.approx((called & (labels == 0)).mean(axis=0))
    assert widths.sum(axis=0) == pytest.approx(np.ones(40))


@pytest.mark.parametrize("seed", range(5))
def test_areas_under_the_curves_are_the_metrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranking = rank(rng.integers(0, 20, 80).astype(np.float64), rng.random(80) < 0.4)
    for curve, area in ((_roc_curve(ranking), ranking.auc), (_pr_curve(ranking), ranking.average_precision)):
        assert np.trapezoid(curve[1], curve[0]) == pytest.approx(area)


def test_mean_curve() -> None:
    x, y = _mean_curve([(np.array([0.0, 1.0]), np.array([0.0, 1.0])), (np.array([0.0, 1.0]), np.array([1.0, 1.0]))])
    assert y == pytest.approx((x + 1) / 2)


def test_which_curves_are_drawn(figure: dict[str, Any]) -> None:
    logits, labels = random_case(200, 2, seed=0)
    metrics = measure(logits, labels, classes=("no_person", "person"))
    write_pr_roc(Path("x.png"), logits, labels, metrics.classes)
    left, right = figure["figure"].axes
    assert legend(left) == [f"AP {metrics.average_precision:.4f}  person"]
    assert legend(right) == [f"AUC {metrics.auc:.4f}  person"]
    logits, labels = random_case(200, 10, seed=0)
    metrics = measure(logits, labels, classes=names(10))
    write_pr_roc(Path("x.png"), logits, labels, metrics.classes)
    lines = legend(figure["figure"].axes[1])
    assert lines[3] == f"AUC {metrics.class_auc[3]:.4f}  class 3"
    assert lines[-1] == f"AUC {metrics.auc:.4f}  macro of 10"
    assert len(lines) == 11
    logits, labels = random_multi(100, 40, seed=0)
    multi = measure_multi(logits, labels, classes=names(40))
    write_pr_roc(Path("x.png"), logits, labels, multi.classes)
    micro, macro = legend(figure["figure"].axes[0])
    assert micro.endswith("  micro")
    assert macro == f"AP {multi.mean_average_precision:.4f}  macro of 40"


def test_a_class_without_images_has_no_curve(figure: dict[str, Any]) -> None:
    logits, labels = random_case(60, 4, seed=0)
    write_pr_roc(Path("x.png"), logits, labels % 3, names(4))
    lines = legend(figure["figure"].axes[1])
    assert len(lines) == 4
    assert not any(line.endswith("class 3") for line in lines)


def test_many_pairs_are_thinned_and_the_picture_says_so(
    figure: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyclf.workstation.results.plots.MOST_PAIRS", 200)
    logits, labels = random_case(300, 2, seed=0)
    write_pr_roc(Path("x.png"), logits, labels, names(2))
    assert figure["figure"].get_suptitle() == "from every 3. image"
    third = measure(logits[::3], labels[::3], classes=names(2))
    assert legend(figure["figure"].axes[1]) == [f"AUC {third.auc:.4f}  class 1"]


def test_bars_of_the_calibration_diagram(figure: dict[str, Any]) -> None:
    logits, labels = random_case(300, 3, seed=0)
    result = calibrate(logits, labels)
    write_reliability(Path("x.png"), logits, labels)
    upper, lower = figure["figure"].axes
    assert upper.get_title() == f"expected calibration error {result.error:.4f}"
    filled = result.counts > 0
    assert [bar.get_height() for bar in upper.containers[0]] == pytest.approx(result.share[filled].tolist())
    tops = [bar.get_y() + bar.get_height() for bar in upper.containers[1]]
    assert tops == pytest.approx(result.confidence[filled].tolist())
    assert [bar.get_height() for bar in lower.containers[0]] == result.counts.tolist()


def test_png_files_are_written_whatever_the_class_is_called(tmp_path: Path) -> None:
    logits, labels = random_case(50, 5, seed=0)
    classes = ("_hidden", "$\\frac$", "日本\n", "x" * 100, "")
    folder = tmp_path / "new" / "plots"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_confusion(folder / "confusion.png", measure(logits, labels, classes=classes))
        write_pr_roc(folder / "pr_roc.png", logits, labels, classes)
        write_reliability(folder / "reliability.png", logits, labels)
    assert sorted(file.name for file in folder.iterdir()) == ["confusion.png", "pr_roc.png", "reliability.png"]
    for file in folder.iterdir():
        with Image.open(file) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert min(picture.size) > 300


@pytest.mark.parametrize("multi", [False, True])
def test_degenerate_splits_neither_fail_nor_warn(multi: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            logits, labels = degenerate(rng, multi=multi)
            classes = names(logits.shape[1])
            metrics = (measure_multi if multi else measure)(logits, labels, classes=classes)
            write_confusion(tmp_path / "c.png", metrics)
            write_pr_roc(tmp_path / "p.png", logits, labels, classes)
            write_reliability(tmp_path / "r.png", logits, labels)
    assert len(list(tmp_path.iterdir())) == 3
