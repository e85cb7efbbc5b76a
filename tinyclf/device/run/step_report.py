"""What single steps on a target showed: each value compared with PyTorch, and its bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyclf.device.emit.program import Program
from tinyclf.device.graph.dtypes import BOUNDS, FLOAT32, Bounds
from tinyclf.device.reference.steps import LOGITS, relative_error
from tinyclf.device.run.verdicts import Verdict, judge

LOGIT_SCALE = 1.0  # softmax sees absolute differences of logits: an error counts relative to at least this
STEP_SOURCE = "requirement: float32 against PyTorch's float64, each step from the weights that the device had before it"
FROZEN_SOURCE = "frozen channels keep every bit"


@dataclass(frozen=True)
class Comparison:
    """One value of one step against PyTorch; errors are those of `relative_error`.

    `error` is that of the step by itself, from the weights that the device had before it. `run_error` is that of the
    whole run up to here, from the weights that both had at the start: steps may amplify rounding. `bound` is of both,
    and `bound_from` says where it comes from.
    """

    name: str
    step: int
    error: float
    run_error: float
    bound: float
    bound_from: str

    @property
    def passed(self) -> bool:
        """Tell whether the step is right (a NaN is not)."""
        return self.error <= self.bound

    @property
    def drifted(self) -> bool:
        """Tell whether the run has left PyTorch's, though the step may be right."""
        return not self.run_error <= self.bound

    @property
    def verdict(self) -> Verdict:
        """Return what both errors come to."""
        if self.passed and self.drifted:
            return Verdict.DRIFT
        return judge(max(self.error, self.run_error) if self.passed else self.error, bound=self.bound)


@dataclass(frozen=True)
class Report:
    """What a run on a target showed."""

    target: str
    num_cores: int
    comparisons: tuple[Comparison, ...]
    losses: tuple[tuple[float, float], ...]  # per step: on the target, in PyTorch
    cycles: tuple[int, ...] | None  # per step; None where the target is not cycle-accurate
    num_ties: int  # inputs of ReLUs, over all steps, that rounding put on the other side of zero than PyTorch has them

    @property
    def passed(self) -> bool:
        """Tell whether every step is right."""
        return all(c.passed for c in self.comparisons)

    @property
    def drifted(self) -> bool:
        """Tell whether the run as a whole left PyTorch's."""
        return any(c.drifted for c in self.comparisons)

    def worst(self) -> list[Comparison]:
        """Return for each name its largest errors, with the step of the larger `error`, in order of appearance."""
        worst: dict[str, Comparison] = {}
        for c in self.comparisons:
            w = worst.setdefault(c.name, c)
            worst[c.name] = replace(w if w.error >= c.error else c, run_error=max(w.run_error, c.run_error))
        return list(worst.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types; an infinite error is null."""

        def finite(error: float) -> float | None:
            return error if np.isfinite(error) else None

        return {
            "target": self.target,
            "num_cores": self.num_cores,
            "passed": self.passed,
            "drifted": self.drifted,
            "losses": [{"target": finite(a), "pytorch": finite(b)} for a, b in self.losses],
            "cycles": self.cycles,
            "relu_ties": self.num_ties,
            "errors": [
                {
                    "name": c.name,
                    "step": c.step,
                    "error": finite(c.error),
                    "run_error": finite(c.run_error),
                    "bound": c.bound,
                    "bound_from": c.bound_from,
                    "verdict": c.verdict.value,
                }
                for c in self.comparisons
            ],
        }


def _without_frozen_channels(
    program: Program, device: list[dict[str, NDArray[np.float32]]]
) -> tuple[list[dict[str, NDArray[np.float32]]], list[Comparison]]:
    """Cut off what is frozen of parameters that are trained in part; there no bit may differ from the start.

    The error of a comparison is so 0 or infinite.
    """
    dtypes = {t.name: t.dtype for t in program.graph.tensors}
    limits = {t.name: t.trained_channels for t in program.graph.tensors if t.trained_channels is not None}
    comparisons = []
    for step, values in enumerate(device):
        for name in limits.keys() & values.keys():
            kept, before = (np.ascontiguousarray(v[limits[name] :]) for v in (values[name], program.values[name]))
            error = 0.0 if kept.tobytes() == before.astype(dtypes[name].numpy).tobytes() else float("inf")
            comparisons.append(Comparison(f"{name}, frozen channels", step, error, error, 0.0, FROZEN_SOURCE))
    trained = [{name: value[: limits.get(name)] for name, value in values.items()} for values in device]
    order = list(limits)
    comparisons.sort(key=lambda c: (c.step, order.index(c.name.removesuffix(", frozen channels"))))
    return trained, comparisons


def _bounds(program: Program, name: str) -> Bounds:
    """Return the bounds of a value by the type of its tensor; logits, loss and whole gradients are in float32."""
    tensor = program.graph.by_name.get(name)
    return BOUNDS[tensor.dtype if tensor else FLOAT32]


def _error(
    actual: dict[str, NDArray[np.float32]], name: str, expected: NDArray[np.float64], *, bounds: Bounds
) -> float:
    """Return the error of a value that a step reported; infinite if it did not."""
    if name not in actual:
        return float("inf")
    return relative_error(actual[name], expected, least_scale=LOGIT_SCALE if name == LOGITS else bounds.least_scale)
