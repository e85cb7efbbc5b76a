"""Wake Vision's fine-grained benchmark: how well persons are found by gender, age, distance, lighting and depiction.

16 subsets in 5 sets, with the F1 of the benchmark suite of github.com/harvard-edge/Wake_Vision (arXiv 2405.00892):

    F1 = 2 tp / (2 tp + fp + fn),  fn = 1 - tp

from rates and not from counts, so that it does not depend on how many images a subset has. For most sets tp is the
share of the subset's persons that are called person, and fp the share of all images without a person that are; for
lighting fp is over the images without a person in the same light alone. The depictions turn it round: their images have
no person, tp is the share of them that are called no_person, and fp the share of all persons that are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.errors import BadInput
from tinyclf.workstation.metrics import percent

CLASSES = ("no_person", "person")

# set -> the columns of its subsets
SETS: dict[str, tuple[str, ...]] = {
    "gender": ("predominantly_female", "predominantly_male", "gender_unknown"),
    "age": ("young", "middle_age", "older", "age_unknown"),
    "distance": ("near", "medium_distance", "far"),
    "lighting": ("dark", "normal_lighting", "bright"),
    "depiction": ("person_depiction", "non-person_depiction", "non-person_non-depiction"),
}
TAGS = tuple(tag for tags in SETS.values() for tag in tags)


@dataclass(frozen=True)
class Subset:
    """Results on one subset; what has no images to take a share of is None.

    `num_persons` and `num_non_persons` are the images that the rates are over: `tp_rate` over the former and `fp_rate`
    over the latter, but for depictions the other way round (the subset are the images without a person).
    """

    set: str
    name: str
    num_persons: int
    num_non_persons: int
    tp_rate: float | None
    fp_rate: float | None
    f1: float | None


@dataclass(frozen=True)
class FineGrained:
    """Results on the 16 subsets, set by set; `num_distance_only` images counted for distance alone."""

    subsets: tuple[Subset, ...]
    num_distance_only: int

    def to_dict(self) -> dict[str, Any]:
        """Return {set: {subset: results}}, as JSON can hold it."""
        result: dict[str, Any] = {name: {} for name in SETS}
        for subset in self.subsets:
            values = asdict(subset)
            result[values.pop("set")][values.pop("name")] = values
        return result

    def to_lines(self) -> list[str]:
        """Return a table for people, one string per line."""
        first, second = (max(len(n) for n in names) for names in (SETS, TAGS))
        lines = [
            "fine-grained subsets of Wake Vision: rates of true and false positives, F1 from the rates",
            f"{'set':<{first}}  {'subset':<{second}}  persons  no persons  tp rate  fp rate      F1",
        ]
        for s in self.subsets:
            rates = "  ".join(f"{percent(rate):>7}" for rate in (s.tp_rate, s.fp_rate))
            counts = f"{s.num_persons:>7,}  {s.num_non_persons:>10,}"
            lines.append(f"{s.set:<{first}}  {s.name:<{second}}  {counts}  {rates}  {percent(s.f1):>6}")
        lines.append("depiction: tp rate is of images without a person that are called no_person")
        if not self.num_distance_only:
            lines.append(
                "distance: far is of persons of 5 to 10 % of the image, without the smaller ones, which have no label"
            )
        return lines


def has_fine_grained(tags: Mapping[str, Any], *, classes: Sequence[str] = CLASSES) -> bool:
    """Say whether a split with these tags and classes has the fine-grained subsets: all columns, and images in some.

    The training splits of Wake Vision have the columns without values.
    """
    if tuple(classes) != CLASSES or not set(TAGS) <= set(tags):
        return False
    return any(bool((np.asarray(tags[tag]) == 1).any()) for tag in TAGS)


def fine_grained(
    called: NDArray[np.int64], labels: NDArray[np.int64], tags: Mapping[str, NDArray[np.int64]]
) -> FineGrained:
    """Measure the classes `called` (N,), 0 or 1, on every subset.

    `labels` (N,) are 1 for a person, 0 for none, and -1 for an image that is in a distance subset only: it shows a
    person whose box is less than 5 % of the image, too small for the label, and counts for distance alone. Where such
    images are left out, as in datasets that tinyclf builds, far holds persons of 5 to 10 % of the image, as in the
    benchmark suite's code; with them of 0.5 to 10 %, as the published column has it. `tags`: name -> (N,), 1 for in the
    subset.

    Raises:
        BadInput: a column is missing.
    """
    missing = [tag for tag in TAGS if tag not in tags]
    if missing:
        raise BadInput(f"the split lacks the columns {', '.join(missing[:3])}: it has no fine-grained subsets")
    found, person, no_person = called == 1, labels == 1, labels == 0
    subsets = []
    for name, columns in SETS.items():
        for tag in columns:
            inside = tags[tag] == 1
            if name == "depiction":
                result = _subset(~found, inside & no_person, person)
                counts = (result.num_no, result.num_yes)
            else:
                persons = inside & (labels != 0) if name == "distance" else inside & person
                result = _subset(found, persons, inside & no_person if name == "lighting" else no_person)
                counts = (result.num_yes, result.num_no)
            subsets.append(Subset(name, tag, *counts, result.tp_rate, result.fp_rate, result.f1))
    return FineGrained(tuple(subsets), num_distance_only=int((labels == -1).sum()))


@dataclass(frozen=True)
class _Rates:
    num_yes: int
    num_no: int
    tp_rate: float | None
    fp_rate: float | None

    @property
    def f1(self) -> float | None:
        if self.tp_rate is None or self.fp_rate is None:
            return None
        return 2 * self.tp_rate / (2 * self.tp_rate + self.fp_rate + (1 - self.tp_rate))


def _subset(answer: NDArray[np.bool_], yes: NDArray[np.bool_], no: NDArray[np.bool_]) -> _Rates:
    """Return how often `answer` (N,) is given where it is right (`yes`), and where it is wrong (`no`)."""
    num_yes, num_no = int(yes.sum()), int(no.sum())
    tp_rate = float(answer[yes].mean()) if num_yes else None
    fp_rate = float(answer[no].mean()) if num_no else None
    return _Rates(num_yes, num_no, tp_rate, fp_rate)
