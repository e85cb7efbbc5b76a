"""What a comparison with PyTorch comes to: exact, within its bound, drift, or FAIL."""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """`drift`: over the run rounding has added up to more than the bound, though the device may be right.

    Of single steps: each is right by itself. Of a training run: PyTorch's own run in float32 errs a tenth as much.
    """

    EXACT = "exact"
    WITHIN_BOUND = "within bound"
    DRIFT = "drift"
    FAIL = "FAIL"


def judge(error: float, *, bound: float) -> Verdict:
    """Judge an error, 0 or more; a NaN is never within a bound."""
    if error == 0.0:
        return Verdict.EXACT
    return Verdict.WITHIN_BOUND if error <= bound else Verdict.FAIL
