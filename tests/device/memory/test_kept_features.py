"""What is kept of the frozen part: which tensors, how many bytes, and how the C rounds to 8 bits."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from tests.kit.paths import LIBRARY
from tests.kit.steps import training_graph
from tinyclf.base.errors import BadInput, DoesNotFit
from tinyclf.device.footprint.fitting import Surroundings, bytes_needed, fitted, least_bytes, recomputed_within
from tinyclf.device.graph.ir import Graph, Phase
from tinyclf.device.memory.kept_features import FeatureMemory, KeptTensor, feature_memory
from tinyclf.device.memory.placement import lifetimes, max_live
from tinyclf.device.memory.planner import placed
from tinyclf.device.memory.samples import Streamed
from tinyclf.device.targets.target import find_target
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, fold_batchnorm, freeze


def _graph(arch: str, variant: Variant, size: int = 32) -> Graph:
    model = build_model(arch, num_classes=2, size=size)
    freeze(model, variant)
    return training_graph(fold_batchnorm(model), input_shape=(3, size, size))


def test_what_crosses_into_the_last_layer() -> None:
    graph = _graph("mobilenet_wd4", Variant("LP"))
    memory = feature_memory(graph, kind="int8", num_samples=100)
    assert memory is not None
    assert memory.tensors == (KeptTensor("features.final_pool.output", "features.final_pool", 256),)
    assert memory.num_bytes == 100 * (4 + 4 + 256)
    assert graph.calls[memory.num_frozen_calls].node == memory.first_trained == "output"
    exact = feature_memory(graph, kind="fp32", num_samples=100)
    assert exact is not None
    assert exact.num_bytes == 100 * (4 + 4 * 256)


def _check_reads(graph: Graph, memory: FeatureMemory) -> None:
    """Assert that calls behind the frozen part read only what is kept or computed since, and that it is frozen."""
    known = {t.name for t in memory.tensors} | {"label"}
    for call in graph.calls[memory.num_frozen_calls :]:
        assert {n for n in call.reads if graph.by_name[n].role.value != "parameter"} <= known, call
        known |= set(call.writes)
    frozen = graph.calls[: memory.num_frozen_calls]
    assert all(c.phase is Phase.FORWARD for c in frozen)
    assert not any(graph.by_name[n].trained for c in frozen for n in c.reads)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_nothing_behind_the_cut_reads_what_is_not_kept(k: int) -> None:
    graph = _graph("mobilenetv2_wd4", Variant("FT", k=k))
    memory = feature_memory(graph, kind="fp32", num_samples=1)
    assert memory is not None
    _check_reads(graph, memory)


@pytest.mark.parametrize(
    ("arch", "k", "size"),
    [("dscnn", 2, 32), ("mobilenet_wd4", 11, 96), ("mobilenetv2_wd4", 10, 64), ("resnet8", 2, 32)],
)
def test_recomputation_repeats_nothing_before_the_cut(arch: str, k: int, size: int) -> None:
    graph = _graph(arch, Variant("FT", k=k), size)
    memory = feature_memory(graph, kind="fp32", num_samples=20)
    assert memory is not None
    recomputed = fitted(placed(graph), Surroundings(samples=Streamed(20, "fp32", memory))).graph
    assert len(recomputed.calls) > len(graph.calls), "nothing is repeated"
    assert recomputed.calls[: memory.num_frozen_calls] == graph.calls[: memory.num_frozen_calls]
    _check_reads(recomputed, memory)
    assert max_live(lifetimes(recomputed)) < max_live(lifetimes(graph))


def test_kept_features_count_in_what_recomputation_has_to_fit() -> None:
    pulp = replace(find_target("pulp"), l1_bytes=None)
    graph = _graph("mobilenet_wd4", Variant("FT", k=11), 96)
    memory = feature_memory(graph, kind="fp32", num_samples=1)
    assert memory is not None
    step, around = placed(graph), Surroundings(pulp, Streamed(1, "fp32", memory))
    budget = (bytes_needed(step, around) + least_bytes(step, around)) // 2
    found = recomputed_within(step, budget, around)
    assert found is not None
    needed = bytes_needed(found, around)
    without = bytes_needed(found, Surroundings(pulp, Streamed(1)))
    assert needed - without == memory.num_bytes
    assert needed <= budget
    many = replace(memory, num_samples=100)
    with pytest.raises(DoesNotFit, match=r"of them [\d,]+ for kept features, .*: try fewer --samples, no --cache or"):
        fitted(step, Surroundings(pulp, Streamed(100, "fp32", many)))


def test_refusals() -> None:
    graph = _graph("mobilenet_wd4", Variant("full"))
    assert feature_memory(graph, kind="off", num_samples=1) is None
    with pytest.raises(BadInput, match="the first layer is trained: leave out --cache"):
        feature_memory(graph, kind="fp32", num_samples=1)
    with pytest.raises(BadInput, match="unknown cache 'fp16': choose one of off, fp32, int8"):
        feature_memory(graph, kind="fp16", num_samples=1)
    head = training_graph(nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(12, 2)), input_shape=(3, 2, 2))
    with pytest.raises(DoesNotFit, match="needs 2,600,000,000 bytes, more than 2,147,483,647: fewer --samples"):
        feature_memory(head, kind="fp32", num_samples=50_000_000)


# A port of one core, and a memory of three samples of two tensors.
_HARNESS = """
#include <stdlib.h>
#include "port.h"
#include "tcl_features.h"

int port_core_id(void) { return 0; }
void port_fork(void (*body)(void *), void *arg) { body(arg); }
uint64_t port_cycles(void) { return 0; }
void port_panic(char const *file, int line) { (void)file; (void)line; abort(); }

float first[7], second[2];
static uint32_t records[3][1 + 3 + 2];
static struct tcl_feature const tensors[] = {{first, 7}, {second, 2}};
struct tcl_features const memory = {
    .tensors = tensors, .num_tensors = 2, .as_int8 = 1, .record_words = 6, .num_samples = 3, .records = records[0],
};
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Return tcl_features.c as a shared library."""
    folder = tmp_path_factory.mktemp("c")
    (folder / "harness.c").write_text(_HARNESS)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O2", "-DNUM_CORES=1", "-shared", "-fPIC"]
    files = [
        f"-I{LIBRARY / 'include'}",
        folder / "harness.c",
        LIBRARY / "src/plain/tcl_cast.c",
        LIBRARY / "src/run/tcl_features.c",
    ]
    subprocess.run(["cc", *flags, *files, "-o", folder / "features.so", "-lm"], check=True)
    return ctypes.CDLL(str(folder / "features.so"))


@pytest.mark.target("host")
@pytest.mark.parametrize(
    ("values", "codes", "scale"),
    [
        ([127, 0.5, 1.5, 2.5, -0.5, -1.5, 3.2], [127, 0, 2, 2, 0, -2, 3], 1.0),  # halves to even
        ([0, 0, 0, 0, 0, 0, 0], [0] * 7, 0.0),
        ([-254, 254, 1, 2, 3, 5, 253], [-127, 127, 0, 1, 2, 2, 126], 2.0),
        ([2e-45, -2e-45, 0, 0, 0, 0, 0], [0] * 7, 0.0),  # the smallest float, divided by 127, is 0
        ([250e-45, -250e-45, 0, 0, 0, 0, 0], [127, -127, 0, 0, 0, 0, 0], 1.4e-45),  # scale rounded down: bounded
    ],
)
def test_rounding_to_eight_bits_in_c(library: ctypes.CDLL, values: list[float], codes: list[int], scale: float) -> None:
    first = (ctypes.c_float * 7).in_dll(library, "first")
    second = (ctypes.c_float * 2).in_dll(library, "second")
    memory = ctypes.c_char.in_dll(library, "memory")
    library.tcl_features_of.restype = ctypes.POINTER(ctypes.c_uint32)
    sample, label = ctypes.c_uint64(1), ctypes.c_uint32()
    first[:], second[:] = values, (1.0, -0.5)
    library.tcl_features_keep(ctypes.byref(memory), sample, ctypes.c_uint32(9))
    words = np.array(library.tcl_features_of(ctypes.byref(memory), sample)[:5], dtype="<u4")
    assert words[:1].view("<f4")[0] == np.float32(scale)
    assert words[1:3].view("i1")[:7].tolist() == codes
    first[:], second[:] = [5.0] * 7, (5.0, 5.0)
    assert library.tcl_features_kept(ctypes.byref(memory), sample, ctypes.byref(label)) == 1
    assert label.value == 9
    assert library.tcl_features_kept(ctypes.byref(memory), ctypes.c_uint64(2), ctypes.byref(label)) == 0
    library.tcl_features_recall(ctypes.byref(memory), sample)
    np.testing.assert_array_equal(np.float32(first[:]), np.float32(words[:1].view("<f4")[0]) * np.float32(codes))
    assert second[:] == pytest.approx([1.0, -64 / 127])
