"""Wake Vision's fine-grained benchmark, on an example worked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tinyclf.base.errors import BadInput
from tinyclf.workstation.data import load_source
from tinyclf.workstation.results.finegrained import (
    CLASSES,
    SETS,
    TAGS,
    FineGrained,
    Subset,
    fine_grained,
    has_fine_grained,
)


def tags(num: int, **given: list[int]) -> dict[str, np.ndarray]:
    """Return all columns: 0 but for those given, by indices of the images in the subset; - is _ in their names."""
    columns = {tag: np.zeros(num, dtype=np.int64) for tag in TAGS}
    for name, images in given.items():
        columns[next(tag for tag in TAGS if tag.replace("-", "_") == name)][images] = 1
    return columns


def of(result: FineGrained, name: str) -> Subset:
    return next(subset for subset in result.subsets if subset.name == name)


# Images 0-3 show a person, 4-8 none; 9 is in a distance subset only.
LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, -1])
CALLED = np.array([1, 1, 0, 1, 1, 0, 0, 0, 0, 0])


def test_the_example_worked_by_hand() -> None:
    columns = tags(
        10,
        predominantly_female=[0, 1, 2],
        older=[3],
        far=[2, 3, 9],
        dark=[0, 2, 4, 5],
        bright=[1, 6],
        person_depiction=[4, 5],
        non_person_non_depiction=[6, 7, 8],
    )
    result = fine_grained(CALLED, LABELS, columns)
    # 2 of 3 found; 1 of all 5 images without a person called person: 2 (2/3) / (2 (2/3) + 1/5 + 1/3)
    female = of(result, "predominantly_female")
    assert (female.set, female.num_persons, female.num_non_persons) == ("gender", 3, 5)
    assert (female.tp_rate, female.fp_rate) == pytest.approx((2 / 3, 1 / 5))
    assert female.f1 == pytest.approx(5 / 7)
    assert of(result, "older").f1 == pytest.approx(2 / (2 + 0.2))
    # Image 9 has no label and counts here: 1 of 3 found.
    far = of(result, "far")
    assert (far.num_persons, far.num_non_persons) == (3, 5)
    assert far.tp_rate == pytest.approx(1 / 3)
    assert far.f1 == pytest.approx((2 / 3) / (2 / 3 + 1 / 5 + 2 / 3))
    # Persons 0 and 2, one found; images 4 and 5 without a person, one called person.
    dark = of(result, "dark")
    assert (dark.num_persons, dark.num_non_persons, dark.tp_rate, dark.fp_rate) == (2, 2, 0.5, 0.5)
    assert dark.f1 == pytest.approx(0.5)
    assert of(result, "bright").f1 == pytest.approx(1.0)
    # Turned round: images 4 and 5, one rightly called no_person; 1 of 4 persons called no_person.
    depiction = of(result, "person_depiction")
    assert (depiction.num_persons, depiction.num_non_persons) == (4, 2)
    assert (depiction.tp_rate, depiction.fp_rate) == (0.5, 0.25)
    assert depiction.f1 == pytest.approx(1 / (1 + 0.25 + 0.5))
    assert of(result, "non-person_non-depiction").f1 == pytest.approx(2 / 2.25)


def test_empty_subsets_are_none_and_a_dash() -> None:
    result = fine_grained(CALLED, LABELS, tags(10, young=[0]))
    assert len(result.subsets) == 16
    near = of(result, "near")
    assert (near.num_persons, near.tp_rate, near.f1) == (0, None, None)
    assert near.fp_rate == pytest.approx(0.2)
    assert of(result, "dark").fp_rate is None
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert {name: tuple(subsets) for name, subsets in content.items()} == SETS
    assert content["distance"]["near"]["f1"] is None
    lines = result.to_lines()
    assert len(lines) == 19
    assert next(line for line in lines if " near " in line).split() == ["distance", "near", "0", "5", "-", "20.0%", "-"]


def test_lines_say_when_images_of_distance_are_missing() -> None:
    whole = fine_grained(CALLED, LABELS, tags(10)).to_lines()
    assert fine_grained(CALLED[:9], LABELS[:9], tags(9)).to_lines()[-1].startswith("distance: far is of persons of 5")
    assert not any(line.startswith("distance: far") for line in whole)


def test_only_persons_count_in_the_sets_of_persons() -> None:
    """A tag of gender on an image without a person, or of light on one without a label, changes nothing."""
    result = fine_grained(CALLED, LABELS, tags(10, young=[0, 4, 9], bright=[9]))
    assert of(result, "young").num_persons == 1
    assert of(result, "bright").num_persons == of(result, "bright").num_non_persons == 0


def test_the_columns_are_those_of_the_source() -> None:
    assert set(TAGS) < set(load_source("wake-vision").build.__globals__["TAGS"])
    assert load_source("wake-vision").classes({}) == list(CLASSES)


def test_which_splits_have_the_subsets() -> None:
    assert has_fine_grained(tags(3, near=[1]), classes=CLASSES)
    assert not has_fine_grained(tags(3, near=[1]), classes=("person", "no_person"))
    assert not has_fine_grained({tag: np.full(3, -1) for tag in TAGS}), "the columns of the training splits"
    without = tags(3, near=[1])
    del without["far"]
    assert not has_fine_grained(without)
    with pytest.raises(BadInput, match="lacks the columns far"):
        fine_grained(CALLED[:3], LABELS[:3], without)
