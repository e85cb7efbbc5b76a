"""Activations in C against double precision: on numbers of all sizes, and on what is no number."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kit.paths import LIBRARY

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

LEAST = 3e-45  # twice the least float: the rounding of two operations

pytestmark = pytest.mark.target("host")


class _Blob(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("diff", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("dim", "W", "H", "C")),
    )


class _Args(ctypes.Structure):
    _fields_ = (("input", ctypes.POINTER(_Blob)), ("output", ctypes.POINTER(_Blob)), ("slope", ctypes.c_float))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Return the activations as a shared library that stops at undefined behaviour and at a broken contract."""
    folder = tmp_path_factory.mktemp("c")
    (folder / "panic.c").write_text(
        '#include <stdlib.h>\n#include "port.h"\nvoid port_panic(char const *file, int line)\n'
        "{\n    (void)file;\n    (void)line;\n    abort();\n}\nint port_core_id(void)\n{\n    return 0;\n}\n"
    )
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O2", "-DNUM_CORES=1", "-shared", "-fPIC"]
    flags += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", f"-I{LIBRARY / 'include'}"]
    files = [folder / "panic.c", LIBRARY / "src/plain/tcl_activations_fp32.c"]
    subprocess.run(["cc", *flags, *files, "-o", folder / "activations.so", "-lm"], check=True)
    return ctypes.CDLL(str(folder / "activations.so"))


def _run(library: ctypes.CDLL, name: str, x: Floats, *, slope: float = 0.0) -> tuple[Floats, Floats]:
    """Return the output, and the input's gradient where that of the output is 1."""
    y, dy, dx = np.full_like(x, 7), np.ones_like(x), np.full_like(x, 7)
    shape = (x.size, x.size, 1, 1)
    blobs = _Blob(x.ctypes.data, dx.ctypes.data, *shape), _Blob(y.ctypes.data, dy.ctypes.data, *shape)
    args = _Args(ctypes.pointer(blobs[0]), ctypes.pointer(blobs[1]), slope)
    for direction in ("fw", "bw"):
        getattr(library, f"tcl_{name}_fp32_{direction}_cl")(ctypes.byref(args))
    return y, dx


def _numbers() -> Floats:
    """Return numbers of every size and sign, and those next to where an activation bends."""
    rng = np.random.default_rng(3)
    sizes = 10.0 ** rng.uniform(-38, 38, 20_000)
    near = [np.nextafter(np.float32(c), np.float32(side)) for c in (-3, 0, 3) for side in (-9, 9)]
    every = np.concatenate([np.linspace(-110, 110, 40_001), sizes, -sizes, near, [-3, 0, 3]])
    return every.astype(np.float32)


def _sigmoid(x: Doubles) -> Doubles:
    with np.errstate(over="ignore"):
        small = np.exp(-np.abs(x))
    return np.where(x > 0, 1, small) / (1 + small)


def _hard(x: Doubles) -> Doubles:
    return np.clip(x + 3, 0, 6) / 6


_FUNCTIONS: dict[str, tuple[Callable[[Doubles], Doubles], Callable[[Doubles], Doubles]]] = {
    "sigmoid": (_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x)),
    "silu": (lambda x: x * _sigmoid(x), lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x))),
    "hardsigmoid": (_hard, lambda x: np.where(np.abs(x) < 3, 1 / 6, 0)),
    "hardswish": (lambda x: x * _hard(x), lambda x: np.where(np.abs(x) < 3, x / 3 + 0.5, x > 0)),
    "leaky_relu": (lambda x: np.where(x > 0, x, x / 8), lambda x: np.where(x > 0, 1, 1 / 8)),
}
# Where rounding may put an input on either side of a kink, as the derivative is told from the rounded output.
_KINKS = {"hardsigmoid": (-3, 3)}


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_over_all_numbers(library: ctypes.CDLL, name: str) -> None:
    x = _numbers()
    y, dx = _run(library, name, x, slope=1 / 8)
    value, derivative = (f(x.astype(np.float64)) for f in _FUNCTIONS[name])
    # Near -3 a sum with 3 cancels: errors are those of numbers near 1. SiLU multiplies a factor below normal numbers.
    least = 1e-6 if name.startswith("hard") else 110 * LEAST if name == "silu" else LEAST
    assert (np.abs(y - value) <= 1e-6 * np.abs(value) + least).all()
    kinks = np.any([np.abs(x - kink) < 1e-6 for kink in _KINKS.get(name, ())] or [np.zeros_like(x)], axis=0)
    assert kinks.sum() <= 6
    assert (np.abs(dx - derivative) <= 2e-6 * np.maximum(np.abs(derivative), 0.05) + least)[~kinks].all()


@pytest.mark.parametrize("name", ["sigmoid", "silu", "hardsigmoid", "hardswish"])
def test_flat_ends_are_exact(library: ctypes.CDLL, name: str) -> None:
    x = np.array([-200, -1e30, 200, 1e30], np.float32)
    y, dx = _run(library, name, x)
    assert y.tolist() == ([0, 0, 1, 1] if "sigmoid" in name else [0, 0, *x[2:].tolist()])
    assert dx.tolist() == ([0, 0, 0, 0] if "sigmoid" in name else [0, 0, 1, 1])


def test_what_is_no_number_stays_none_where_it_is_curved(library: ctypes.CDLL) -> None:
    x = np.array([np.nan, 0], np.float32)
    for name in ("sigmoid", "silu"):
        y, dx = _run(library, name, x)
        assert np.isnan([y[0], dx[0]]).all()
        assert np.isfinite([y[1], dx[1]]).all()
