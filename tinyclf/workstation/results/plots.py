"""Pictures of results as PNG: the confusion matrix, precision-recall and ROC curves, the calibration diagram."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.files import write_whole
from tinyclf.workstation.metrics import Metrics, MultiMetrics, Ranking, calibrate, log_odds, rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NUMBERED = 12  # classes up to which the cells of a confusion matrix hold numbers
MOST_NAMED = 100  # classes up to which its axes hold their names
MOST_CURVES = 10  # classes up to which each has a curve of its own
MOST_PAIRS = 4_000_000  # images x classes that micro-averaged curves are drawn from
NAME_WIDTH = 24  # characters of a class name
DPI = 120

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # x (n,), y (n,)


def write_plots(
    folder: Path, metrics: Metrics | MultiMetrics, logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> None:
    """Write confusion.png, pr_roc.png and reliability.png into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_confusion(folder / "confusion.png", metrics)
    write_pr_roc(folder / "pr_roc.png", logits, labels, metrics.classes)
    write_reliability(folder / "reliability.png", logits, labels)


def write_confusion(path: Path, metrics: Metrics | MultiMetrics) -> None:
    """Draw the confusion matrix, each row as shares of its class; of several labels how often each is called rightly.

    Up to 12 classes have the counts in their cells, up to 100 their names on the axes.
    """
    _write(path, _outcomes(metrics) if isinstance(metrics, MultiMetrics) else _confusion(metrics))


def write_pr_roc(
    path: Path, logits: NDArray[np.floating[Any]], labels: NDArray[np.int64], classes: Sequence[str]
) -> None:
    """Draw the precision-recall curve and the ROC curve beside each other.

    `logits` (N, C), `labels` class indices (N,) or (N, C) of 0 and 1. Of two classes the curve of class 1; up to 10
    classes one curve each and their mean (macro); of more the mean and the curve of all answers together (micro).
    Classes without a curve, as none or all of the images are theirs, are left out.
    """
    every = -(-logits.size // MOST_PAIRS)
    logits, labels = logits[::every], labels[::every]
    if labels.ndim == 2:
        scores, truth = logits.astype(np.float64), labels == 1
    else:
        scores, truth = log_odds(logits), labels[:, None] == np.arange(len(classes))
    chosen = [1] if labels.ndim == 1 and len(classes) == 2 else range(len(classes))
    rankings = {index: rank(scores[:, index], truth[:, index]) for index in chosen}
    rankings = {index: r for index, r in rankings.items() if r.num_positive and r.num_negative}
    figure = _figure(11, 5)
    if every > 1:
        figure.suptitle(f"from every {every}. image", fontsize="small")
    left, right = figure.subplots(1, 2)
    micro = rank(scores.ravel(), truth.ravel()) if len(rankings) > MOST_CURVES else None
    _draw_curves(left, rankings, micro, classes=classes, curve_of=_pr_curve, value_of=_average_precision, kind="AP")
    _draw_curves(right, rankings, micro, classes=classes, curve_of=_roc_curve, value_of=_auc, kind="AUC")
    left.set(xlabel="recall", ylabel="precision", title="precision and recall")
    right.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    right.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    _write(path, figure)


def write_reliability(path: Path, logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> None:
    """Draw the calibration diagram: which share of answers is right by how sure the model is, and how many there are.

    `logits` (N, C), `labels` class indices (N,) or (N, C) of 0 and 1; answers and bins as in `metrics.calibrate`.
    """
    result = calibrate(logits, labels)
    multi = labels.ndim == 2
    figure = _figure(5.5, 6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges = np.linspace(0.0, 1.0, len(result.counts) + 1)
    left, width = edges[:-1], np.diff(edges)
    filled = result.counts > 0
    share, confidence = result.share[filled], result.confidence[filled]
    upper.bar(left[filled], share, width[filled], align="edge", color="tab:blue", edgecolor="white", label="measured")
    gap = {"align": "edge", "facecolor": "none", "edgecolor": "tab:red", "hatch": "///", "linewidth": 0.8}
    upper.bar(left[filled], confidence - share, width[filled], bottom=share, label="gap to confidence", **gap)
    upper.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--", label="perfectly calibrated")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of images with the label" if multi else "accuracy")
    upper.set_title(f"expected calibration error {result.error:.4f}")
    upper.legend(loc="upper left", fontsize="small")
    lower.bar(left, result.counts, width, align="edge", color="tab:grey", edgecolor="white")
    lower.set(xlabel="probability of the label" if multi else "confidence", ylabel="answers" if multi else "images")
    lower.yaxis.set_major_formatter("{x:,.0f}")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    _write(path, figure)


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=DPI)


def _write(path: Path, figure: Figure) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))


def _confusion(metrics: Metrics) -> Figure:
    from matplotlib.colors import PowerNorm

    num = len(metrics.classes)
    counts = np.array(metrics.confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = _drawable(metrics.classes)
    longest = max(len(name) for name in names)
    cell = 0.7 if num <= MOST_NUMBERED else 0.15
    margin = 1.5 + (0.09 * longest if num <= MOST_NUMBERED else 0.06 * longest)
    side = cell * num if num <= MOST_NAMED else 10.0
    figure = _figure(max(side, 2.5) + margin + 0.8, max(side, 2.5) + margin)
    axes = figure.subplots()
    # Among many classes each wrong answer is rare: the root makes it visible.
    scale = PowerNorm(1.0 if num <= MOST_NUMBERED else 0.5, vmin=0, vmax=1)
    image = axes.imshow(
        share, cmap="Blues", norm=scale, interpolation="nearest" if num <= MOST_NAMED else "antialiased"
    )
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="share of the row")
    bar.ax.yaxis.set_major_formatter("{x:.0%}")
    axes.set(
        xlabel="called", ylabel="true class", title=f"accuracy {metrics.accuracy:.1%}, {metrics.num_images:,} images"
    )
    if num <= MOST_NAMED:
        size = 9 if num <= MOST_NUMBERED else 6
        axes.set_xticks(range(num), names, rotation=90 if 0.1 * longest > max(side, 2.5) / num else 0, fontsize=size)
        axes.set_yticks(range(num), names, fontsize=size)
    if num <= MOST_NUMBERED:
        _number_cells(axes, counts, share)
    return figure


def _number_cells(axes: Axes, counts: NDArray[np.int64], share: NDArray[np.float64]) -> None:
    """Write count and share into each cell that is not empty."""
    for row, column in np.argwhere(counts):
        text = f"{counts[row, column]:,}\n{share[row, column]:.1%}"
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)


def _outcomes(metrics: MultiMetrics) -> Figure:
    """Draw a bar for each label: shares of images called rightly and wrongly, with and without the label."""
    num = len(metrics.classes)
    hits, support, called = (np.array(values) / metrics.num_images for values in _label_counts(metrics))
    parts = [
        ("called, true", hits, "tab:blue"),
        ("not called, though true", support - hits, "tab:orange"),
        ("called, though not true", called - hits, "tab:red"),
        ("not called, not true", 1 - support - called + hits, "lightgrey"),
    ]
    named = num <= MOST_NAMED
    figure = _figure(8, 1.6 + (0.22 * num if named else 9))
    axes = figure.subplots()
    rows, begin = np.arange(num), np.zeros(num)
    for label, values, colour in parts:
        axes.barh(rows, values, left=begin, color=colour, label=label, height=0.8 if named else 1.0)
        begin = begin + values
    axes.set(xlim=(0, 1), ylim=(num - 0.5, -0.5), xlabel=f"share of {metrics.num_images:,} images")
    axes.xaxis.set_major_formatter("{x:.0%}")
    if named:
        axes.set_yticks(rows, _drawable(metrics.classes), fontsize=8)
    axes.set_title(f"accuracy {metrics.accuracy:.1%} over {num:,} labels")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return figure


def _label_counts(metrics: MultiMetrics) -> tuple[tuple[int, ...], ...]:
    return metrics.hits, metrics.support, metrics.called


def _draw_curves(
    axes: Axes,
    rankings: dict[int, Ranking],
    micro: Ranking | None,
    *,
    classes: Sequence[str],
    curve_of: Callable[[Ranking], Curve],
    value_of: Callable[[Ranking], float],
    kind: str,
) -> None:
    """Draw one kind of curve: each class, the mean, or both; its area stands first in the legend."""
    many = len(rankings) > MOST_CURVES
    if not many:
        names = _drawable(classes)
        for index, ranking in rankings.items():
            axes.plot(*curve_of(ranking), linewidth=1.2, label=f"{kind} {value_of(ranking):.4f}  {names[index]}")
    if micro is not None:
        axes.plot(*curve_of(micro), linewidth=1.5, label=f"{kind} {value_of(micro):.4f}  micro")
    if len(rankings) > 1:
        mean = sum(value_of(ranking) for ranking in rankings.values()) / len(rankings)
        curve = _mean_curve([curve_of(ranking) for ranking in rankings.values()])
        axes.plot(
            *curve, label=f"{kind} {mean:.4f}  macro of {len(rankings)}", color="black", linestyle="--", linewidth=2
        )
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(
            fontsize="x-small" if len(axes.lines) > 4 else "small", loc="lower left" if kind == "AP" else "lower right"
        )
    else:
        axes.text(0.5, 0.5, "no class has images\nand other images", ha="center")


def _average_precision(ranking: Ranking) -> float:
    return ranking.average_precision or 0.0


def _auc(ranking: Ranking) -> float:
    return ranking.auc or 0.0


def _pr_curve(ranking: Ranking) -> Curve:
    """Return recall and precision as the steps whose area is the average precision."""
    recall, precision = np.repeat(ranking.recall, 2), np.repeat(ranking.precision, 2)
    return np.concatenate([[0.0], recall[:-1]]), precision


def _roc_curve(ranking: Ranking) -> Curve:
    return np.concatenate([[0.0], ranking.false_rate]), np.concatenate([[0.0], ranking.recall])


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean of curves at 501 places."""
    x = np.linspace(0.0, 1.0, 501)
    return x, np.mean([np.interp(x, *curve) for curve in curves], axis=0)


def _drawable(names: Sequence[str]) -> list[str]:
    """Return names as matplotlib's own font can draw them: cut to 24 characters, no formulas, ? for what it lacks."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    plain = ["".join(c if c.isprintable() and font.get_char_index(ord(c)) else "?" for c in name) for name in names]
    cut = [name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 3]}..." for name in plain]
    return [name.replace("$", r"\$") for name in cut]
