"""Tables of metrics for people: aligned text that stays readable with a thousand classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MOST_ROWS = 12  # classes whose rows are all shown, with the confusion matrix beside them
NUM_WORST = 10
NUM_CONFUSED = 5
NAME_WIDTH = 32


def percent(share: float | None) -> str:
    """Return a share in 0 .. 1 as per cent; "-" where it is undefined."""
    return "-" if share is None else f"{share:.1%}"


def decimal(value: float | None) -> str:
    """Return a value in 0 .. 1 with four digits; "-" where it is undefined."""
    return "-" if value is None else f"{value:.4f}"


def shown(name: str) -> str:
    """Return a class name as one short printable string."""
    plain = "".join(char if char.isprintable() else "?" for char in name)
    return plain if len(plain) <= NAME_WIDTH else f"{plain[: NAME_WIDTH - 3]}..."


def class_lines(
    classes: Sequence[str],
    *,
    columns: Mapping[str, Sequence[str]],
    worst: Sequence[float | None],
    confusion: Sequence[Sequence[int]] = (),
    every_class: bool = False,
    what: str = "class",
) -> list[str]:
    """Return a heading and a row per class; of more than 12 only those with the lowest `worst` (F1), and say so.

    `columns`: heading -> cells, one per class. `confusion` (C, C) is put beside the rows of up to 12 classes.
    """
    rows, lines = list(range(len(classes))), []
    if len(classes) > MOST_ROWS and not every_class:
        rows = worst_rows(worst)
        plural = "classes" if what == "class" else f"{what}s"
        lines.append(f"the {len(rows)} {plural} with the lowest F1, of {len(classes):,}:")
    beside = confusion if len(classes) <= MOST_ROWS else ()
    names = [shown(classes[row]) for row in rows]
    first = max(len(name) for name in (what, *names))
    widths = {title: max(len(title), *(len(cells[row]) for row in rows)) for title, cells in columns.items()}
    heading = "  ".join(f"{title:>{width}}" for title, width in widths.items())
    lines.append(f"{what:<{first}}  {heading}{'   called, in the order of the rows' if beside else ''}")
    cell = max((len(str(count)) for line in beside for count in line), default=0)
    for name, row in zip(names, rows, strict=True):
        cells = "  ".join(f"{columns[title][row]:>{width}}" for title, width in widths.items())
        called = " ".join(f"{count:>{max(4, cell)}}" for count in beside[row]) if beside else ""
        lines.append(f"{name:<{first}}  {cells}   {called}".rstrip())
    return lines


def worst_rows(f1: Sequence[float | None]) -> list[int]:
    """Return the indices of the 10 classes with the lowest F1, the lowest first; an undefined one counts as highest."""
    return sorted(range(len(f1)), key=lambda row: 2.0 if f1[row] is None else f1[row] or 0.0)[:NUM_WORST]


def confusion_lines(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> list[str]:
    """Return which classes are most often called another, where there are too many for the whole matrix."""
    if len(classes) <= MOST_ROWS:
        return []
    wrong = most_confused(confusion)[:NUM_CONFUSED]
    lines = [
        f"  {shown(classes[true])} called {shown(classes[called])}: {count:,} of {sum(confusion[true]):,}"
        for true, called, count in wrong
    ]
    return ["", "most often confused:", *lines] if lines else []


def most_confused(confusion: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """Return (true, called, count) of the wrong answers that occur, the most frequent first."""
    cells = (
        (true, called, count)
        for true, row in enumerate(confusion)
        for called, count in enumerate(row)
        if count and true != called
    )
    return sorted(cells, key=lambda cell: -cell[2])


def interval_lines(intervals: Mapping[str, tuple[float, float]], *, level: float, num_resamples: int) -> list[str]:
    """Return the intervals of `bootstrap` for people, one string per line."""
    titles = {"auc": "AUC", "macro_f1": "macro F1"}
    width = max((len(titles.get(name, name)) for name in intervals), default=0)
    lines = [f"{level:.0%} intervals from {num_resamples:,} bootstrap resamples:"]
    for name, (low, high) in intervals.items():
        show = decimal if name in ("auc", "mean_average_precision") else percent
        lines.append(f"  {titles.get(name, name).replace('_', ' '):<{width}}  {show(low)} to {show(high)}")
    return lines
