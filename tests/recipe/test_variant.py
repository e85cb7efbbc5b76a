"""What is trained, as one value: equal where it means the same, and read back from its label."""

from __future__ import annotations

import pytest

from tinyclf.base.errors import BadInput
from tinyclf.recipe.variant import VARIANTS, Variant, label_fields, parse_variant


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ("FT", "layers")])
def test_blocks_count_for_ft_alone(name: str) -> None:
    assert Variant(name) == Variant(name, 0) == Variant(name, 7)
    assert len({Variant(name), Variant(name, 0)}) == 1
    assert Variant("FT", 0) != Variant("FT", 1)


@pytest.mark.parametrize(
    ("variant", "label"),
    [
        (Variant("LP", 0), "LP"),
        (Variant("full", 3), "full"),
        (Variant("FT", 0), "FT K=0"),
        (Variant("FT", 12, bias_only=True), "FT K=12 bias-only"),
        (Variant("layers", layers=("output",)), "layers output"),
        (
            Variant("layers", 9, ("features.stage?.*", "output"), True, (("*", 0.25), ("a=b", 1 / 3))),
            "layers features.stage?.*,output bias-only channels *=0.25,a=b=0.3333333333333333",
        ),
        (Variant("FT", 1, channels=(("features.*", 1.0),)), "FT K=1 channels features.*=1.0"),
    ],
)
def test_a_label_reads_back(variant: Variant, label: str) -> None:
    assert variant.label == label
    assert parse_variant(label) == variant


def test_a_bare_name_leaves_the_rest_open() -> None:
    assert label_fields("FT") == {"name": "FT"}
    assert label_fields("layers") == {"name": "layers"}
    assert parse_variant("FT") == Variant("FT", 2)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("adapter", "unknown variant 'adapter': choose one of scratch, full, LP, FD, FT, layers"),
        ("", "unknown variant ''"),
        ("LP output", "unknown variant 'LP output'"),
        ("FT K=two", "unknown variant 'FT K=two'"),
        ("FT K=-1", "k is -1"),
        ("layers", "the variant layers trains the layers that you name"),
        ("layers a,,b", "'' names no layer"),
        ("FT channels a=2", "the fraction must be above 0"),
        ("FT channels a", "give GLOB=FRACTION"),
    ],
)
def test_what_is_no_label(label: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_variant(label)


def test_globs_that_no_label_could_hold_are_refused() -> None:
    for glob in ("a b", "a,b", ""):
        with pytest.raises(BadInput, match=f"'{glob}' names no layer"):
            Variant("layers", layers=(glob,))
        with pytest.raises(BadInput, match=f"'{glob}' names no layer"):
            Variant("LP", channels=((glob, 0.5),))
