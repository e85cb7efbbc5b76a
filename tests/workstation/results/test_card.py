"""The model card: the numbers are in it, what is absent is left out, and no name can break its Markdown."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.kit.logits import names, random_case, random_multi
from tinyclf.workstation.metrics import bootstrap, measure, measure_multi
from tinyclf.workstation.results.card import CardFacts, Measured, model_card, safe
from tinyclf.workstation.results.finegrained import CLASSES, TAGS, fine_grained

NASTY = 'a|b`c`*d*_e_<b>\n# f\r[g](h) $x$ & ~~i~~ \\| "日本"'


def measured(split: str, classes: tuple[str, ...] = CLASSES, **more: Any) -> Measured:
    logits, labels = random_case(200, len(classes), seed=len(split))
    return Measured(split, measure(logits, labels, classes=classes).to_dict(), **more)


def facts(**changes: Any) -> CardFacts:
    base = CardFacts(
        name="007-FT-mobilenet_wd4",
        arch="mobilenet_wd4",
        variant="FT K=2",
        num_parameters=215_642,
        num_trained=103_170,
        num_macs=13_584_384,
        classes=CLASSES,
        multi_label=False,
        preprocessing={"size": "128x128", "mean": (0.5, 0.5, 0.5)},
        data="/data/wake",
        training_split="train_quality",
        num_images={"train_quality": 1000, "validation": 200},
        counts={"train_quality": (400, 600), "validation": (90, 110)},
        provenance={"source": "wake-vision", "options": {"size": 128}, "licence": "CC-BY 4.0"},
        hyperparameters={"learning rate": 0.1, "momentum": 0.9},
        epochs=20,
        best_epoch=17,
        seed=3,
        start="random weights, seed 3",
        validation=measured("validation"),
        commands={"classify an image": "tinyclf eval runs/007 --split test"},
        versions={"tinyclf": "0.1.0", "torch": "2.13.0"},
    )
    return replace(base, **changes)


def tables(card: str) -> list[list[list[str]]]:
    """Return the cells of every table; a pipe after an odd number of backslashes is text."""
    found, rows = [], []
    for line in [*card.splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)(?:\\\\)*\|", line)
            rows.append([cell.strip() for cell in cells[1:-1]])
        elif rows:
            found.append(rows)
            rows = []
    return found


def test_the_numbers_are_in_it() -> None:
    card = model_card(facts())
    assert card.startswith("# 007-FT-mobilenet_wd4\n")
    assert card == model_card(facts()), "the same facts give the same text"
    cells = {row[0]: row[1:] for table in tables(card) for row in table}
    metrics = facts().validation.metrics
    assert cells["parameters"] == ["215,642"]
    assert cells["multiply-accumulates per image"] == ["13,584,384"]
    assert cells["input: mean"] == ["0.5, 0.5, 0.5"]
    assert cells["licence"] == ["CC-BY 4.0"]
    assert cells["all images"] == ["1,000", "200"]
    assert cells["learning rate"] == ["0.1"]
    assert cells["best epoch"] == ["17"]
    assert cells["seed"] == ["3"]
    assert cells["accuracy"] == [f"{metrics['accuracy']:.1%}"]
    assert cells["ROC AUC"] == [f"{metrics['auc']:.4f}"]
    assert cells["torch"] == ["2.13.0"]
    by_class = next(table for table in tables(card) if table[0][0] == "class")
    assert by_class[3][1:4] == [f"{metrics[key][1]:.1%}" for key in ("precision", "recall", "f1")]
    assert by_class[3][-1] == f"{metrics['support'][1]:,}"
    confusion = next(table for table in tables(card) if table[0][0] == "true class, called")
    assert confusion[2][1:] == [str(count) for count in metrics["confusion"][0]]
    assert "tinyclf eval runs/007 --split test" in card.splitlines()


def test_limits_are_facts_of_the_numbers() -> None:
    card = model_card(facts())
    metrics = facts().validation.metrics
    least = min(metrics["support"])
    assert f"- validation: 200 images; fewest of {CLASSES[metrics['support'].index(least)]}: {least}." in card
    assert f"would have an accuracy of {max(metrics['support']) / 200:.1%}." in card
    assert f"is {metrics['best_threshold']['probability']:.4f}, chosen on these same images." in card
    assert "- validation: no intervals were computed." in card
    assert "- No test split was measured." in card
    assert "- Trained on 1,000 images; fewest of no_person: 400." in card
    assert "No test split" not in model_card(facts(test=measured("test")))


def test_test_split_with_intervals_and_fine_grained() -> None:
    logits, labels = random_case(300, 2, seed=0)
    rng = np.random.default_rng(0)
    fine = fine_grained(logits.argmax(axis=1), labels, {tag: rng.integers(0, 2, 300) for tag in TAGS})
    intervals = bootstrap(logits, labels, classes=CLASSES, num_resamples=50)
    metrics = measure(logits, labels, classes=CLASSES)
    test = Measured("test", metrics.to_dict(), intervals=intervals, fine_grained=fine.to_dict())
    card = model_card(facts(test=test))
    results = next(table for table in tables(card) if table[0][0] == "metric")
    assert results[0] == ["metric", "validation", "test", "95% interval"]
    low, high = intervals["accuracy"]
    row = next(row for row in results if row[0] == "accuracy")
    assert row[2:] == [f"{metrics.accuracy:.1%}", f"{low:.1%} to {high:.1%}"]
    assert next(row for row in results if row[0] == "loss")[3] == ""
    subsets = next(table for table in tables(card) if table[0][:2] == ["set", "subset"])
    assert len(subsets) == 18
    assert subsets[2][-1] == f"{fine.subsets[0].f1:.1%}"
    assert "test: no intervals" not in card


def test_undefined_values_are_a_dash() -> None:
    result = measure(np.array([[1, 0, -1]], np.float32), np.array([0]), classes=names(3))
    card = model_card(facts(classes=names(3), validation=Measured("validation", result.to_dict()), counts={}))
    by_class = next(table for table in tables(card) if table[0][0] == "class")
    assert by_class[4] == ["class 2", "-", "-", "-", "-", "-", "0"]
    assert "2 of 3 classes have none" in card


def test_several_labels() -> None:
    logits, labels = random_multi(100, 40, seed=0)
    result = measure_multi(logits, labels, classes=names(40))
    counts = {"train": tuple(range(1, 41))}
    card = model_card(
        facts(
            classes=names(40),
            multi_label=True,
            counts=counts,
            num_images={"train": 50},
            training_split="train",
            validation=Measured("validation", result.to_dict()),
        )
    )
    cells = {row[0]: row[1:] for table in tables(card) for row in table}
    assert cells["answers"] == ["yes or no to each of 40 labels"]
    assert cells["mean average precision"] == [f"{result.mean_average_precision:.4f}"]
    by_label = next(table for table in tables(card) if table[0][0] == "label")
    assert by_label[0][:2] == ["label", "accuracy"]
    assert len(by_label) == 42
    assert "Confusion" not in card
    assert "most frequent class" not in card


def test_a_thousand_classes_do_not_make_it_endless() -> None:
    classes = names(1000)
    counts = {"train_quality": (3,) * 1000, "validation": (1,) * 1000}
    card = model_card(facts(classes=classes, counts=counts, validation=measured("validation", classes)))
    assert len(card.splitlines()) < 150
    assert "The 20 with the lowest F1, of 1,000." in card
    assert "The 1,000 classes are not listed here." in card


def test_no_name_breaks_a_table_or_adds_a_block() -> None:
    plain = facts(classes=("x", "y"), validation=measured("validation", ("x", "y")))
    texts: dict[str, Any] = dict.fromkeys(("name", "arch", "variant", "data", "start"), NASTY)
    nasty = replace(
        plain,
        **texts,
        classes=(NASTY, "y"),
        validation=measured("validation", (NASTY, "y")),
        provenance={NASTY: {NASTY: NASTY}, "b": NASTY, "c": 1},
        preprocessing={NASTY: [NASTY], "mean": 1},
        hyperparameters={NASTY: NASTY, "b": 1},
        commands={NASTY: f"tinyclf predict '{NASTY}' ```x"},
        versions={NASTY: NASTY, "b": "c"},
    )
    before, after = model_card(plain), model_card(nasty)
    shape = [[len(row) for row in table] for table in tables(before)]
    assert [[len(row) for row in table] for table in tables(after)] == shape

    def blocks(card: str) -> list[str]:
        return [line for line in card.splitlines() if line.startswith(("#", "- ", "```"))]

    # As many headings, items and fences, but for the longer fence around the backticks.
    assert [line[:2] for line in blocks(after)] == [line[:2] for line in blocks(before)]
    outside = re.sub(r"(?s)````.*````", "", after)
    assert "<b>" not in outside
    assert "(h)" in outside, "the names are there"
    fences = [line for line in after.splitlines() if line.startswith("```")]
    assert fences == ["````", "````"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no_person", "no_person"),
        ("_x_", r"\_x\_"),
        ("a|b", r"a\|b"),
        (r"a\|b", r"a\\\|b"),
        ("<a>&b", "&lt;a&gt;&amp;b"),
        ("a\n\n# b\t c", "a # b c"),
        ("`x` *y* [z]", r"\`x\` \*y\* \[z\]"),
        (3, "3"),
    ],
)
def test_safe(text: object, shown: str) -> None:
    assert safe(text) == shown
