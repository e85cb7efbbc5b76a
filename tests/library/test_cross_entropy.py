"""Cross entropy in C against double precision: over all that float32 can tell apart, and on what is no number."""

from __future__ import annotations

import ctypes
import subprocess

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kit.paths import LIBRARY

BOUND = 5e-7  # relative: exponential or logarithm within 3e-7, and the rounding of the sums around it
LEAST = 3e-45  # twice the least float: the rounding of two operations

Floats = NDArray[np.float32]

pytestmark = pytest.mark.target("host")


class _Blob(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("diff", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("dim", "W", "H", "C")),
    )


class _LossArgs(ctypes.Structure):
    _fields_ = (("output", ctypes.POINTER(_Blob)), ("target", ctypes.c_void_p), ("wr_loss", ctypes.c_void_p))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Return the losses as a shared library that stops at undefined behaviour."""
    folder = tmp_path_factory.mktemp("c")
    (folder / "panic.c").write_text(
        '#include <stdlib.h>\n#include "port.h"\nvoid port_panic(char const *file, int line)\n'
        "{\n    (void)file;\n    (void)line;\n    abort();\n}\n"
    )
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O2", "-DNUM_CORES=1", "-shared", "-fPIC"]
    flags += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", f"-I{LIBRARY / 'include'}"]
    files = [folder / "panic.c", LIBRARY / "src/plain/pulp_losses_fp32.c"]
    subprocess.run(["cc", *flags, *files, "-o", folder / "losses.so", "-lm"], check=True)
    return ctypes.CDLL(str(folder / "losses.so"))


def _cross_entropy(library: ctypes.CDLL, logits: Floats, target: Floats) -> tuple[float, Floats]:
    diff, loss = np.full_like(logits, 7), np.full(1, 7, np.float32)
    blob = _Blob(logits.ctypes.data, diff.ctypes.data, logits.size, logits.size, 1, 1)
    args = _LossArgs(ctypes.pointer(blob), target.ctypes.data, loss.ctypes.data)
    library.pulp_CrossEntropyLoss(ctypes.byref(args))
    library.pulp_CrossEntropyLoss_backward(ctypes.byref(args))
    return float(loss[0]), diff


def test_two_classes_of_any_distance(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(1)
    distances = np.concatenate([np.linspace(0, 120, 20_001), 10.0 ** rng.uniform(-30, 2, 20_000), [1e30, 3e38]])
    for distance in distances.astype(np.float32):
        loss, diff = _cross_entropy(library, np.array([0, -distance], np.float32), np.array([1, 0], np.float32))
        rest = np.exp(-np.float64(distance))
        assert abs(loss - np.log1p(rest)) <= BOUND * np.log1p(rest) + LEAST, distance
        assert abs(diff[1] - rest / (1 + rest)) <= BOUND * rest / (1 + rest) + LEAST, distance
        assert diff[0] == -diff[1]


@pytest.mark.parametrize("num", [1, 2, 3, 10, 100, 1000])
def test_many_classes(library: ctypes.CDLL, num: int) -> None:
    rng = np.random.default_rng(num)
    for spread in (1e-3, 1.0, 30.0):
        logits = (rng.standard_normal(num) * spread).astype(np.float32)
        target = np.eye(num, dtype=np.float32)[rng.integers(num)]
        z = logits.astype(np.float64)
        shares = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        loss, diff = _cross_entropy(library, logits, target)
        expected = -(target * (z - z.max() - np.log(np.exp(z - z.max()).sum()))).sum()
        assert loss == pytest.approx(expected, rel=2e-6, abs=2e-7)
        np.testing.assert_allclose(diff, shares - target, rtol=2e-6 * num**0.5, atol=1e-9)


def test_what_is_no_number_stays_none(library: ctypes.CDLL) -> None:
    target = np.array([1, 0, 0], np.float32)
    for logits in ([0, np.nan, 1], [np.nan, 0, 1], [-np.inf] * 3):
        loss, diff = _cross_entropy(library, np.array(logits, np.float32), target)
        assert np.isnan(loss)
        assert np.isnan(diff).any()
    assert np.isnan(_cross_entropy(library, np.array([0, np.inf, 1], np.float32), target)[0])
    assert _cross_entropy(library, np.array([0, -np.inf, -1], np.float32), target)[1][1] == 0
