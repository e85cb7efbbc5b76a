"""A model card in Markdown: what a run's model is, what it was trained on and how, and what was measured.

After Mitchell et al. 2019, Model Cards for Model Reporting, arXiv 1810.03993; facts alone, no judgement.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_ROWS = 100  # classes up to which the card lists every one
NUM_WORST = 20
MOST_CONFUSED = 12  # classes up to which it has the confusion matrix

HEADLINES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "exact_match": "all labels right",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "auc": "ROC AUC",
    "average_precision": "average precision",
    "mean_average_precision": "mean average precision",
    "loss": "loss",
    "calibration_error": "expected calibration error",
}
PER_CLASS = {
    "label_accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "class_auc": "AUC",
    "label_auc": "AUC",
    "class_average_precision": "AP",
    "label_average_precision": "AP",
    "support": "images",
}
DECIMALS = {"auc", "average_precision", "mean_average_precision", "loss", "calibration_error"}


@dataclass(frozen=True)
class Measured:
    """What was measured on one split.

    `metrics`: what `Metrics.to_dict` or `MultiMetrics.to_dict` returns. `intervals`: name of a metric -> (low, high),
    as `metrics.bootstrap` returns them, empty if there are none; `level` is theirs. `fine_grained`: what
    `FineGrained.to_dict` returns.
    """

    split: str
    metrics: Mapping[str, Any]
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    level: float = 0.95
    fine_grained: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None


@dataclass(frozen=True)
class CardFacts:
    """All that a card says, in plain types.

    `num_macs` is of one image. `preprocessing`: what is done to an image, name -> value, such as {"size": "96x96",
    "mean": (0.5, 0.5, 0.5)}. `num_images` and `counts`: per split of the dataset, the latter per class in the order of
    `classes` (with several labels, images that have the label). `provenance`: the manifest's. `hyperparameters`: name
    -> value. `start`: which weights it started from, in words. `commands`: what for -> a command line. `versions`: name
    -> version.
    """

    name: str
    arch: str
    variant: str
    num_parameters: int
    num_trained: int
    classes: Sequence[str]
    multi_label: bool
    preprocessing: Mapping[str, Any]
    data: str
    training_split: str
    num_images: Mapping[str, int]
    counts: Mapping[str, Sequence[int]]
    provenance: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    epochs: int
    best_epoch: int
    seed: int
    start: str
    validation: Measured
    commands: Mapping[str, str]
    versions: Mapping[str, str]
    test: Measured | None = None
    num_macs: int | None = None


def model_card(facts: CardFacts) -> str:
    """Return the card; the same facts give the same text."""
    measured = [split for split in (facts.validation, facts.test) if split is not None]
    blocks = [
        f"# {safe(facts.name)}",
        *_model(facts),
        *_data(facts),
        *_training(facts),
        "## Results",
        _headlines(measured),
        *(block for split in measured for block in _details(split)),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(facts, measured)),
        "## Use",
        *(block for purpose, line in facts.commands.items() for block in (f"To {safe(purpose)}:", _code(line))),
        "## Versions",
        _table(("name", "version"), facts.versions.items()),
    ]
    return "\n\n".join(blocks) + "\n"


def safe(value: object) -> str:
    """Return a value as text that Markdown shows as it is, also within a table: one line, its marks escaped."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]|~$])", r"\\\1", line)
    # An underscore within a word is no mark.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)


def _model(facts: CardFacts) -> list[str]:
    num = len(facts.classes)
    rows: list[tuple[object, object]] = [
        ("architecture", facts.arch),
        ("variant", facts.variant),
        ("answers", f"yes or no to each of {num:,} labels" if facts.multi_label else f"one of {num:,} classes"),
        ("parameters", f"{facts.num_parameters:,}"),
        ("trained parameters", f"{facts.num_trained:,}"),
    ]
    if facts.num_macs is not None:
        rows.append(("multiply-accumulates per image", f"{facts.num_macs:,}"))
    rows += [(f"input: {name}", _plain(value)) for name, value in facts.preprocessing.items()]
    return ["## Model", _table(("", ""), rows)]


def _data(facts: CardFacts) -> list[str]:
    rows = [("folder", facts.data), *((name, _plain(value)) for name, value in facts.provenance.items())]
    splits = list(facts.num_images)
    images = [("all images", *(f"{facts.num_images[split]:,}" for split in splits))]
    listed = range(len(facts.classes)) if len(facts.classes) <= MOST_ROWS else range(0)
    known = [facts.counts.get(split) for split in splits]
    counts = [(facts.classes[row], *(f"{of[row]:,}" if of else "-" for of in known)) for row in listed]
    blocks = ["## Data", _table(("", ""), rows), _table(("images", *splits), [*images, *counts])]
    return blocks if listed else [*blocks, f"The {len(facts.classes):,} classes are not listed here."]


def _training(facts: CardFacts) -> list[str]:
    rows = [
        ("start", facts.start),
        ("split", facts.training_split),
        ("epochs", f"{facts.epochs:,}"),
        ("best epoch", f"{facts.best_epoch:,}"),
        ("seed", facts.seed),
        *((name, _plain(value)) for name, value in facts.hyperparameters.items()),
    ]
    return ["## Training", _table(("", ""), rows)]


def _headlines(measured: Sequence[Measured]) -> str:
    """Return a table with a column per split, and one for its intervals where there are any."""
    titles = ["metric"]
    for split in measured:
        titles += [split.split, f"{split.level:.0%} interval"] if split.intervals else [split.split]
    rows = [("images", *(cell for split in measured for cell in _cells(split, f"{split.metrics['num_images']:,}", "")))]
    for key, title in HEADLINES.items():
        if any(key in split.metrics for split in measured):
            cells = (_cells(split, _figure(key, split.metrics.get(key)), _interval(split, key)) for split in measured)
            rows.append((title, *(cell for pair in cells for cell in pair)))
    return _table(titles, rows)


def _cells(split: Measured, value: str, interval: str) -> tuple[str, ...]:
    return (value, interval) if split.intervals else (value,)


def _interval(split: Measured, key: str) -> str:
    bounds = split.intervals.get(key)
    return f"{_figure(key, bounds[0])} to {_figure(key, bounds[1])}" if bounds else ""


def _details(measured: Measured) -> list[str]:
    """Return the tables of one split: by class, the confusion matrix, the fine-grained subsets."""
    metrics, title = measured.metrics, safe(measured.split)
    names = list(metrics["classes"])
    rows = list(range(len(names)))
    what = "label" if "exact_match" in metrics else "class"
    blocks = [f"### By {what}, {title}"]
    if len(names) > MOST_ROWS:
        rows = sorted(rows, key=lambda row: 2.0 if metrics["f1"][row] is None else metrics["f1"][row])[:NUM_WORST]
        blocks.append(f"The {NUM_WORST} with the lowest F1, of {len(names):,}.")
    keys = [key for key in PER_CLASS if key in metrics]
    lines = [(names[row], *(_figure(key, metrics[key][row]) for key in keys)) for row in rows]
    blocks.append(_table((what, *(PER_CLASS[key] for key in keys)), lines))
    if "confusion" in metrics and len(names) <= MOST_CONFUSED:
        cells = [(name, *(f"{n:,}" for n in row)) for name, row in zip(names, metrics["confusion"], strict=True)]
        blocks += [f"### Confusion, {title}", _table(("true class, called", *names), cells)]
    if measured.fine_grained:
        blocks += [f"### Fine-grained subsets, {title}", _fine_grained_table(measured.fine_grained)]
    return blocks


def _fine_grained_table(sets: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    rows = [
        (
            *(name, subset, f"{r['num_persons']:,}", f"{r['num_non_persons']:,}"),
            *(_figure(key, r[key]) for key in ("tp_rate", "fp_rate", "f1")),
        )
        for name, subsets in sets.items()
        for subset, r in subsets.items()
    ]
    return _table(("set", "subset", "persons", "no persons", "tp rate", "fp rate", "F1"), rows)


def _limits(facts: CardFacts, measured: Sequence[Measured]) -> list[str]:
    """Return what bounds the meaning of the results, as facts."""
    lines = [f"The best epoch was chosen on {safe(facts.validation.split)}, the split that the results there are of."]
    if facts.test is None:
        lines.append("No test split was measured.")
    for split in measured:
        name, metrics = safe(split.split), split.metrics
        support = list(metrics["support"])
        lines.append(f"{name}: {metrics['num_images']:,} images; {_smallest(metrics['classes'], support)}.")
        if "confusion" in metrics:
            most = max(support) / metrics["num_images"]
            lines.append(f"{name}: always calling its most frequent class would have an accuracy of {most:.1%}.")
        best = metrics.get("best_threshold")
        if isinstance(best, Mapping):
            lines.append(
                f"{name}: the probability of {safe(metrics['classes'][1])} that gives the highest balanced accuracy "
                f"({best['balanced_accuracy']:.1%}, accuracy {best['accuracy']:.1%}) is {best['probability']:.4g}, "
                "chosen on these same images."
            )
        if not split.intervals:
            lines.append(f"{name}: no intervals were computed.")
    if facts.training_split in facts.counts:
        smallest = _smallest(facts.classes, list(facts.counts[facts.training_split]))
        lines.append(f"Trained on {facts.num_images[facts.training_split]:,} images; {smallest}.")
    return lines


def _smallest(classes: Sequence[str], counts: Sequence[int]) -> str:
    """Return a clause about the class with the fewest images, and how many have none."""
    empty = sum(not count for count in counts)
    if empty:
        return f"{empty:,} of {len(classes):,} classes have none"
    least = min(range(len(counts)), key=counts.__getitem__)
    return f"fewest of {safe(classes[least])}: {counts[least]:,}"


def _figure(key: str, value: float | None) -> str:
    """Return a metric as it is usually written; "-" where it is undefined."""
    if value is None:
        return "-"
    if key == "support":
        return f"{value:,}"
    return f"{value:.4f}" if key in DECIMALS or key.endswith(("_auc", "_average_precision")) else f"{value:.1%}"


def _plain(value: object) -> str:
    """Return a value of a configuration or a manifest as text: what is nested as JSON, shortened."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(item, (str, int, float)) for item in value):
        text = ", ".join(str(item) for item in value)
    else:
        text = json.dumps(value, default=str)
    return text if len(text) <= 300 else f"{text[:297]}..."


def _table(titles: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; every cell is made safe, and columns of numbers stand right, but for the first."""
    lines = [[safe(cell) for cell in row] for row in rows]
    numeric = [
        column > 0 and bool(lines) and all(re.match(r"-?[\d.]|-?$", line[column]) for line in lines)
        for column in range(len(titles))
    ]
    ruler = "|".join(" ---: " if right else " --- " for right in numeric)
    head = " | ".join(safe(title) for title in titles)
    return "\n".join([f"| {head} |", f"|{ruler}|", *(f"| {' | '.join(line)} |" for line in lines)])


def _code(line: str) -> str:
    """Return a command line as a block that nothing in it can end."""
    plain = "".join(c if c.isprintable() else " " for c in line)
    longest = max((len(run) for run in re.findall(r"`+", plain)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{plain}\n{fence}"
