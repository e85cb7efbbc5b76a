"""What a comparison with PyTorch comes to: exact, within its bound, drift, or FAIL."""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """`drift`: each step is right, but over the run rounding has added up to more than the bound."""

    EXACT = "exact"
    WITHIN_BOUND = "within bound"
    DRIFT = "drift"
    FAIL = "FAIL"


def judge(error: float, *, bound: float, excuse: bool = False) -> Verdict:
    """Judge an error, 0 or more; `excuse` says that what is beyond the bound comes of rounding that adds up.

    A NaN is never within a bound, and nothing excuses what is not a number.
    """
    if error == 0.0:
        return Verdict.EXACT
    if error <= bound:
        return Verdict.WITHIN_BOUND
    return Verdict.DRIFT if excuse and error < float("inf") else Verdict.FAIL
