"""Programs that run fast kernels, each on one tile of an arena, and what the arena must hold afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyclf.base.resources import resource_dir
from tinyclf.device import targets
from tinyclf.device.run.project import write_project
from tinyclf.device.targets.target import Target

Array = NDArray[np.float64]

HERE = Path(__file__).parent
NUM_GUARDS = 8  # words around every buffer that no kernel may touch


@dataclass(frozen=True)
class Case:
    """One call of a kernel."""

    label: str
    function: str
    arguments: tuple[str | int, ...]  # the name of a buffer is its address
    buffers: Mapping[str, tuple[int, ...]]  # shapes
    expected: Callable[[dict[str, Array]], dict[str, Array]]  # values before -> after; NaN: as before, bit by bit
    macs: int

    def offsets(self) -> dict[str, int]:
        """Return the first word of each buffer, and of the end."""
        offsets, end = {}, NUM_GUARDS
        for name, shape in self.buffers.items():
            offsets[name] = end
            end += int(np.prod(shape)) + NUM_GUARDS
        return offsets | {"": end}

    @property
    def num_words(self) -> int:
        """Return the size of the arena that the case uses."""
        return self.offsets()[""]


@dataclass(frozen=True)
class Outcome:
    """What a run of a case gave."""

    case: Case
    cycles: int
    error: float  # max|actual - expected| / max|expected|
    untouched: bool  # all words that are no output are as before
    arena: bytes


def arena_before(number: int, num_words: int) -> NDArray[np.float32]:
    """Return what kernels.c fills the arena with."""
    x = (np.arange(num_words, dtype=np.uint64) * 2654435761 + number * 40503 + 1).astype(np.uint32)
    x ^= x >> np.uint32(15)
    x *= np.uint32(2246822519)
    x ^= x >> np.uint32(13)
    before: NDArray[np.float32] = (x.view(np.int32) >> 8).astype(np.float32) / np.float32(1 << 20)
    return before


def _cases_header(cases: Sequence[Case], *, num_runs: int, in_l1: bool) -> str:
    section = '__attribute__((section(".bss.l1"))) ' if in_l1 else ""
    lines = [
        f"enum {{ NUM_RUNS = {num_runs} }};",
        f"static float arena[{max(case.num_words for case in cases)}] {section}__attribute__((aligned(16)));",
    ]
    for number, case in enumerate(cases):
        offsets = case.offsets()
        arguments = ", ".join(f"arena + {offsets[a]}" if a in offsets else str(a) for a in case.arguments)
        lines.append(f"static void case{number}(void *unused) {{ (void)unused; {case.function}({arguments}); }}")
    lines.append("static struct { void (*body)(void *); int num_words; } const cases[] = {")
    lines += [f"    {{case{number}, {case.num_words}}}," for number, case in enumerate(cases)]
    return "\n".join([*lines, "};", ""])


def write_cases(
    cases: Sequence[Case], project: Path, target: Target, *, num_runs: int = 1, in_l1: bool = False
) -> None:
    """Write a project that runs the cases; `in_l1` puts the arena into the cluster's memory (pulp only)."""
    assert not in_l1 or max(case.num_words for case in cases) * 4 <= (target.tile_bytes or 0), "a tile does not fit"
    library = resource_dir("external/pulp-trainlib")
    files = {
        f"trainlib/{f.relative_to(library)}": f.read_bytes()
        for f in (*library.glob("include/*.h"), *library.glob("src/fast/**/*.[ch]"))
    }
    files |= {f"port/{name}": content for name, content in target.port_files().items()}
    files["src/kernels.c"] = (HERE / "kernels.c").read_bytes()
    files["src/cases.h"] = _cases_header(cases, num_runs=num_runs, in_l1=in_l1).encode()
    files["Makefile"] = f"NUM_CORES ?= {target.num_cores}\ninclude port/build.mk\n".encode()
    files["trace.json"] = b"[]\n"
    write_project(files, project)


def run_cases(cases: Sequence[Case], project: Path, target: Target, *variables: str) -> list[Outcome]:
    """Build and run a written project and judge every case."""
    targets.build(project, target, *variables)
    targets.start(project, *variables)
    words = np.fromfile(project / "build" / "results.bin", dtype="<i4")
    outcomes, at = [], 0
    for number, case in enumerate(cases):
        cycles, num_words = int(words[at]), int(words[at + 1])
        assert num_words == case.num_words
        after = words[at + 2 : at + 2 + num_words].view(np.float32)
        outcomes.append(_judge(number, case, cycles, after))
        at += 2 + num_words
    assert at == len(words)
    return outcomes


def _judge(number: int, case: Case, cycles: int, after: NDArray[np.float32]) -> Outcome:
    before = arena_before(number, case.num_words)
    values = {
        name: before[start : start + int(np.prod(case.buffers[name]))].reshape(case.buffers[name]).astype(np.float64)
        for name, start in case.offsets().items()
        if name
    }
    wanted = np.full(case.num_words, np.nan)
    for name, value in case.expected(values).items():
        start = case.offsets()[name]
        wanted[start : start + value.size] = value.ravel()
    written = ~np.isnan(wanted)
    error = np.abs(after[written] - wanted[written]).max() / max(np.abs(wanted[written]).max(), 1e-30)
    untouched = bool((after[~written].view(np.int32) == before[~written].view(np.int32)).all())
    return Outcome(case, cycles, float(error), untouched, after.tobytes())


def _struct(name: str, *fields: int, last: Sequence[int] = ()) -> str:
    """Return a pointer to a constant struct in C; `last`: the fields of one that is its last field."""
    values = [str(field) for field in fields] + ([f"{{{', '.join(map(str, last))}}}"] if last else [])
    return f"&(struct {name} const){{{', '.join(values)}}}"


def _activated(y: Array, act: str) -> Array:
    return {"NONE": y, "RELU": np.maximum(y, 0), "RELU6": np.clip(y, 0, 6)}[act]


def _part(value: Array, num_columns: int) -> Array:
    """Return values for the first columns, NaN for the rest of a row."""
    return (
        value
        if value.shape[1] == num_columns
        else np.pad(value, ((0, 0), (0, num_columns - value.shape[1])), constant_values=np.nan)
    )


def pw_case(
    direction: str,
    num_in: int,
    num_out: int,
    pixels: int,
    *,
    gap: int = 0,
    x_gap: int | None = None,
    bias: bool = True,
    accumulate: bool = False,
    act: str = "NONE",
) -> Case:
    """Return a pointwise tile; `gap` words follow each row of every matrix, of x `x_gap` if that is given."""
    x_stride, y_stride, w_stride = pixels + (gap if x_gap is None else x_gap), pixels + gap, num_in + gap
    buffers: dict[str, tuple[int, ...]] = {
        "x": (num_in, x_stride),
        "w": (num_out, w_stride),
        "bias": (num_out, 1),
        "y": (num_out, y_stride),
    }
    old = 1.0 if accumulate else 0.0

    def expected(v: dict[str, Array]) -> dict[str, Array]:
        x, w, y = v["x"][:, :pixels], v["w"][:, :num_in], v["y"][:, :pixels]
        if direction == "fw":
            return {"y": _part(_activated(w @ x + (v["bias"] if bias else 0) + old * y, act), y_stride)}
        if direction == "wg":
            return {"w": _part(y @ x.T + old * w, w_stride)}
        return {"x": _part(w.T @ y + old * x, x_stride)}

    tile = _struct("tcl_pw_tile", num_in, num_out, pixels, x_stride, y_stride, w_stride)
    arguments: dict[str, tuple[str | int, ...]] = {
        "fw": (tile, "x", "w", "bias" if bias else "0", "y", int(accumulate), f"TCL_ACT_{act}"),
        "wg": (tile, "x", "y", "w", int(accumulate)),
        "ig": (tile, "y", "w", "x", int(accumulate)),
    }
    label = (
        f"pw {direction} {num_in}->{num_out} x{pixels}"
        + (f" gap {gap}" if gap else "")
        + (f" of x {x_gap}" if x_gap is not None else "")
        + " +" * accumulate
        + f" {act}" * (act != "NONE")
    )
    return Case(
        label, f"tcl_fast_pw_{direction}_fp32", arguments[direction], buffers, expected, num_in * num_out * pixels
    )


def descend_case(num_in: int, num_out: int, pixels: int, *, gap: int = 0, decay: float = 0.0) -> Case:
    """Return a pointwise weight gradient that updates the weights at once; `gap` words follow each row."""
    rate, x_stride, w_stride = 0.25, pixels + gap, num_in + gap
    buffers: dict[str, tuple[int, ...]] = {
        "x": (num_in, x_stride),
        "y": (num_out, x_stride),
        "w": (num_out, w_stride),
        "new": (num_out, w_stride),
    }

    def expected(v: dict[str, Array]) -> dict[str, Array]:
        w = v["w"][:, :num_in]
        gradient = v["y"][:, :pixels] @ v["x"][:, :pixels].T
        return {"new": _part(w - rate * (gradient + decay * w), w_stride)}

    tile = _struct("tcl_pw_tile", num_in, num_out, pixels, x_stride, x_stride, w_stride)
    arguments = (tile, "x", "y", "w", "new", f"{rate}f", f"{decay}f")
    label = f"pw wg {num_in}->{num_out} x{pixels} updates" + f" gap {gap}" * (gap > 0) + f" decay {decay}" * (decay > 0)
    return Case(label, "tcl_fast_pw_descend_fp32", arguments, buffers, expected, num_in * num_out * pixels)


def dw_case(
    direction: str,
    channels: int,
    height: int,
    width: int,
    *,
    stride: int = 1,
    pad: int = 1,
    rows: tuple[int, int] | None = None,
    gap: int = 0,
    bias: bool = True,
    accumulate: bool = False,
    act: str = "NONE",
) -> Case:
    """Return a depthwise tile of a layer on (channels, height, width).

    `rows` are rows of the output, in the input gradient rows of the input; None: the whole layer in one tile.
    """
    out_height, out_width = ((n + 2 * pad - 3) // stride + 1 for n in (height, width))
    if direction == "ig":
        i0, i1 = rows or (0, height)
        o0 = min(max(0, -(-(i0 + pad - 2) // stride)), out_height - 1)
        o1 = min(out_height, max(o0, (i1 - 1 + pad) // stride) + 1)
    else:
        o0, o1 = rows or (0, out_height)
        i0, i1 = max(0, o0 * stride - pad), min(height, (o1 - 1) * stride - pad + 3)
    x_stride, y_stride = (i1 - i0) * width + gap, (o1 - o0) * out_width + gap
    buffers = {"x": (channels, x_stride), "w": (channels, 9), "bias": (channels, 1), "y": (channels, y_stride)}

    def expected(v: dict[str, Array]) -> dict[str, Array]:
        x = np.zeros((channels, height + 2 * pad + 2, width + 2 * pad + 2))
        y = np.zeros((channels, out_height, out_width))
        inner = (slice(None), slice(pad + i0, pad + i1), slice(pad, pad + width))
        taps = [
            (
                3 * ky + kx,
                (slice(None), slice(ky, ky + stride * out_height, stride), slice(kx, kx + stride * out_width, stride)),
            )
            for ky in range(3)
            for kx in range(3)
        ]
        if direction != "ig":
            x[inner] = v["x"][:, : (i1 - i0) * width].reshape(channels, i1 - i0, width)
        if direction != "fw":
            y[:, o0:o1] = v["y"][:, : (o1 - o0) * out_width].reshape(channels, o1 - o0, out_width)
        if direction == "fw":
            for k, window in taps:
                y += v["w"][:, k, None, None] * x[window]
            result = _activated(y[:, o0:o1].reshape(channels, -1) + (v["bias"] if bias else 0), act)
            return {"y": _part(result, y_stride)}
        if direction == "wg":
            sums = np.stack([(x[window] * y).sum(axis=(1, 2)) for _, window in taps], axis=1)
            return {"w": sums + (v["w"] if accumulate else 0)}
        for k, window in taps:
            x[window] += v["w"][:, k, None, None] * y
        return {"x": _part(x[inner].reshape(channels, -1), x_stride)}

    share = (i1 - i0) / height if direction == "ig" else (o1 - o0) / out_height
    window = (i1 - i0, width, o1 - o0, out_width, 3, 3, stride, stride, pad + i0 - o0 * stride, pad)
    tile = _struct("tcl_dw_tile", channels, x_stride, y_stride, last=window)
    arguments = {
        "fw": (tile, "x", "w", "bias" if bias else "0", "y", f"TCL_ACT_{act}"),
        "wg": (tile, "x", "y", "w", int(accumulate)),
        "ig": (tile, "y", "w", "x"),
    }
    label = f"dw {direction} {channels}x{height}x{width} s{stride} p{pad}"
    label += (f" rows {rows[0]}..{rows[1]}" if rows else "") + " +" * accumulate + f" {act}" * (act != "NONE")
    macs = round(9 * channels * out_height * out_width * share)
    return Case(label, f"tcl_fast_dw_{direction}_fp32", arguments[direction], buffers, expected, macs)


def conv_case(
    direction: str,
    num_in: int,
    num_out: int,
    height: int,
    width: int,
    *,
    stride: int = 2,
    pad: int = 1,
    rows: tuple[int, int] | None = None,
    gap: int = 0,
    bias: bool = True,
    accumulate: bool = False,
    act: str = "NONE",
) -> Case:
    """Return a tile of a 3x3 convolution on (num_in, height, width); `rows` are rows of the output."""
    out_height, out_width = ((n + 2 * pad - 3) // stride + 1 for n in (height, width))
    o0, o1 = rows or (0, out_height)
    i0, i1 = max(0, o0 * stride - pad), min(height, (o1 - 1) * stride - pad + 3)
    x_stride, y_stride = (i1 - i0) * width + gap, (o1 - o0) * out_width + gap
    buffers = {
        "x": (num_in, x_stride),
        "w": (num_out, num_in, 9),
        "bias": (num_out, 1),
        "y": (num_out, y_stride),
    }

    def expected(v: dict[str, Array]) -> dict[str, Array]:
        x = np.zeros((num_in, height + 2 * pad, width + 2 * pad))
        x[:, pad + i0 : pad + i1, pad : pad + width] = v["x"][:, : (i1 - i0) * width].reshape(num_in, i1 - i0, width)
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::stride, ::stride][:, o0:o1]
        if direction == "fw":
            y = np.einsum("iyxkl,oikl->oyx", windows, v["w"].reshape(num_out, num_in, 3, 3)).reshape(num_out, -1)
            return {"y": _part(_activated(y + (v["bias"] if bias else 0), act), y_stride)}
        dy = v["y"][:, : (o1 - o0) * out_width].reshape(num_out, o1 - o0, out_width)
        dw = np.einsum("iyxkl,oyx->oikl", windows, dy).reshape(num_out, num_in, 9)
        return {"w": dw + (v["w"] if accumulate else 0)}

    window = (i1 - i0, width, o1 - o0, out_width, 3, 3, stride, stride, pad + i0 - o0 * stride, pad)
    tile = _struct("tcl_dw_tile", 0, x_stride, y_stride, last=window)
    arguments = {
        "fw": (tile, num_in, num_out, "x", "w", "bias" if bias else "0", "y", f"TCL_ACT_{act}"),
        "wg": (tile, num_in, num_out, "x", "y", "w", int(accumulate)),
    }
    label = f"conv {direction} {num_in}->{num_out}x{height}x{width} s{stride} p{pad}"
    label += (f" rows {rows[0]}..{rows[1]}" if rows else "") + " +" * accumulate + f" {act}" * (act != "NONE")
    macs = 9 * num_in * num_out * (o1 - o0) * out_width
    return Case(label, f"tcl_fast_conv_{direction}_fp32", arguments[direction], buffers, expected, macs)


def bias_act_case(
    channels: int, pixels: int, *, gap: int = 0, sums: bool = True, accumulate: bool = False, act: str = "RELU"
) -> Case:
    """Return a tile of the backward pass of bias and activation; its elements count as MACs."""
    buffers = {"y": (channels, pixels + gap), "dy": (channels, pixels + 2 * gap), "db": (channels, 1)}

    def expected(v: dict[str, Array]) -> dict[str, Array]:
        y, dy = v["y"][:, :pixels], v["dy"][:, :pixels]
        passes = {"NONE": np.ones_like(y, dtype=bool), "RELU": y > 0, "RELU6": (y > 0) & (y < 6)}[act]
        masked = np.where(passes, dy, 0)
        result = {} if act == "NONE" else {"dy": _part(masked, pixels + 2 * gap)}
        return result | ({"db": masked.sum(axis=1, keepdims=True) + (v["db"] if accumulate else 0)} if sums else {})

    tile = _struct("tcl_map_tile", channels, pixels, pixels + gap, pixels + 2 * gap)
    arguments = (tile, "y", "dy", "db" if sums else "0", int(accumulate))
    label = f"bias and act bw {channels}x{pixels} {act}" + " no sums" * (not sums) + " +" * accumulate
    return Case(
        label, "tcl_fast_bias_act_bw_fp32", (*arguments, f"TCL_ACT_{act}"), buffers, expected, channels * pixels
    )


def avgpool_case(direction: str, channels: int, pixels: int, *, gap: int = 0, accumulate: bool = False) -> Case:
    """Return a tile of global average pooling; its elements count as MACs."""
    buffers = {"x": (channels, pixels + gap), "y": (channels, 1)}
    scale = 1 / pixels

    def expected(v: dict[str, Array]) -> dict[str, Array]:
        if direction == "fw":
            return {"y": v["x"][:, :pixels].sum(axis=1, keepdims=True) * scale + (v["y"] if accumulate else 0)}
        return {"x": _part(np.repeat(v["y"] * scale, pixels, axis=1), pixels + gap)}

    names = ("x", "y") if direction == "fw" else ("y", "x")
    arguments: tuple[str | int, ...] = (*names, channels, pixels, pixels + gap, f"{scale!r}f")
    arguments += (int(accumulate),) if direction == "fw" else ()
    label = f"avgpool {direction} {channels}x{pixels}" + " +" * accumulate
    return Case(label, f"tcl_fast_avgpool_{direction}_fp32", arguments, buffers, expected, channels * pixels)
