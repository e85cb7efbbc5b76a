"""Tile plans: what the checker accepts and refuses, and that steps on tiles are right on every target."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.kit.random_nets import SEED, random_job
from tests.kit.steps import training_graph
from tests.kit.targets import COSTS, on_targets
from tinyclf.base.errors import BadInput, DoesNotFit, Unsupported
from tinyclf.device.emit.program import Program
from tinyclf.device.emit.project import emit
from tinyclf.device.graph.ir import Graph
from tinyclf.device.graph.kernels import KERNELS
from tinyclf.device.graph.macs import num_macs
from tinyclf.device.graph.traces import traced_tensors
from tinyclf.device.lowering import lower
from tinyclf.device.lowering.lower import PLAIN
from tinyclf.device.memory.plan import MemoryPlan
from tinyclf.device.memory.planner import plan_memory
from tinyclf.device.memory.segments import SegmentSearch
from tinyclf.device.run.job import Job
from tinyclf.device.run.program import make_program
from tinyclf.device.run.project import write_project
from tinyclf.device.run.steps import emit_project, execute
from tinyclf.device.targets.target import Target, find_target, with_l1
from tinyclf.device.tiles.check import check_tiles
from tinyclf.device.tiles.plan import Op, Operand, TilePlan
from tinyclf.device.tiles.planner import plan_tiles
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.architectures import ARCHITECTURES
from tinyclf.workstation.nets.build import build_model, fold_batchnorm, freeze

KIB = 1024
NETS = ("mobilenet_wd4", "fdmobilenet_wd4", "mobilenetv2_wd4", "resnet8", "dscnn")
VARIANTS = (Variant("LP"), Variant("FT", 2), Variant("full"))
ALL_NETS = tuple(ARCHITECTURES) if os.environ.get("TINYCLF_ALL_NETS") else ()  # an hour
VARIABLES = {"host": ("SANITIZE=address,undefined", "NUM_CORES=3")}


def _step(arch: str, variant: Variant, *, size: int = 32, rule: UpdateRule = PLAIN) -> tuple[Graph, MemoryPlan]:
    model = build_model(arch, num_classes=2, size=size)
    freeze(model, variant)
    graph = training_graph(fold_batchnorm(model), input_shape=(3, size, size), rule=rule)
    return graph, plan_memory(graph)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.label)
@pytest.mark.parametrize(
    "arch", [NETS[0], *(pytest.param(net, marks=pytest.mark.long) for net in (*NETS[1:], *ALL_NETS))]
)
def test_plans_pass_the_checker_for_every_size_of_l1(arch: str, variant: Variant) -> None:
    try:
        graph, plan = _step(arch, variant)
    except Unsupported:
        assert arch in ALL_NETS
        return
    cycles = []
    for l1_bytes in (32 * KIB, 64 * KIB, 128 * KIB, 256 * KIB):
        tiles = plan_tiles(graph, plan, costs=COSTS, l1_bytes=l1_bytes, traced=traced_tensors(graph))  # checks
        assert tiles.num_bytes <= l1_bytes
        assert max(stop for op in tiles.ops for _, stop in op.extents) <= tiles.num_bytes
        cycles.append(tiles.cycles)
    assert cycles == sorted(cycles, reverse=True), "more L1 must not cost more"
    assert num_macs(graph) / 4 < cycles[0], "faster than the chip can be"


def test_recomputed_steps_and_every_update_pass_the_checker() -> None:
    rules = (
        UpdateRule(0.01, momentum=0.9),
        UpdateRule(0.01, optimizer="adam", batch=4, clip=1.0),
        UpdateRule(0.01, batch=2),
    )
    for rule in rules:
        graph, plan = _step("dscnn", Variant("full"), rule=rule)
        plan_tiles(graph, plan, costs=COSTS, l1_bytes=32 * KIB, traced=traced_tensors(graph))
    graph = SegmentSearch(_step("mobilenet_wd4", Variant("full"))[0]).least()
    assert len(graph.calls) > len(_step("mobilenet_wd4", Variant("full"))[0].calls)
    plan_tiles(graph, plan_memory(graph), costs=COSTS, l1_bytes=32 * KIB, traced=traced_tensors(graph))


def test_bias_and_activation_and_update_are_done_on_the_same_tiles() -> None:
    model = build_model("mobilenet_wd4", num_classes=2, size=32)
    freeze(model, Variant("full"))
    graph = lower.training_graph(fold_batchnorm(model), input_shape=(3, 32, 32))  # gradients in whole
    plan = plan_memory(graph)
    tiles = plan_tiles(graph, plan, costs=COSTS, l1_bytes=64 * KIB, traced=frozenset())
    joined = {tuple(graph.calls[i].kernel for i in op.calls) for op in tiles.ops}
    assert ("pulp_conv_pw_fp32_fw_cl", "tcl_bias_fp32_fw_cl", "pulp_relu_fp32_fw_cl") in joined
    assert ("pulp_conv_dw_fp32_bw_input_grads_cl", "pulp_relu_fp32_bw_cl") in joined
    wg = "pulp_conv_pw_fp32_bw_param_grads_cl"
    assert (wg, "tcl_bias_fp32_bw_param_grads_cl", "pulp_gradient_descent_fp32") in joined
    assert not any(len(names) == 1 and ("bias" in names[0] or "relu" in names[0]) for names in joined)
    gradients = {f"{t.name}.grad" for t in graph.tensors if t.trained}
    assert not gradients & {o.tensor for op in tiles.ops for o in op.operands}, "a gradient nobody reads is stored"


def test_updates_by_blocks_of_rows_are_done_on_their_tiles() -> None:
    """Where a gradient is looked at its blocks are stored one by one; otherwise they are one operation."""
    graph, plan = _step("mobilenet_wd4", Variant("full"))
    cut = {t.part_of for t in graph.tensors if t.part_of}
    assert cut
    for traced in (traced_tensors(graph), frozenset[str]()):
        tiles = plan_tiles(graph, plan, costs=COSTS, l1_bytes=64 * KIB, traced=traced)
        blocks = [op for op in tiles.ops if any(".rows" in graph.calls[i].node for i in op.calls)]
        assert len(blocks) == (sum(t.part_of is not None for t in graph.tensors) if traced else len(cut))
        names = {tuple(dict.fromkeys(graph.calls[i].kernel for i in op.calls)) for op in blocks}
        assert names == {("pulp_conv_pw_fp32_bw_param_grads_cl", "pulp_gradient_descent_fp32")}
        rest = [tuple(graph.calls[i].kernel for i in op.calls) for op in tiles.ops]
        assert ("tcl_bias_fp32_bw_param_grads_cl", "pulp_gradient_descent_fp32") in rest
    assert all(op.num_tiles > 1 for op in blocks)


def test_an_update_needs_no_gradient_in_l1_where_a_tile_has_all_of_its_sum() -> None:
    graph, plan = _step("mobilenet_wd4", Variant("full"))
    tiles = plan_tiles(graph, plan, costs=COSTS, l1_bytes=64 * KIB)
    slots = [{o.slot for o in op.operands} for op in tiles.ops if op.body == "tcl_tile_pw_wg"]
    assert any("DW" in names for names in slots), "a sum over tiles of pixels"
    assert any("DW" not in names for names in slots)
    number = next(n for n, op in enumerate(tiles.ops) if op.body == "tcl_tile_pw_wg" and op.counts[2] > 1)
    op = tiles.ops[number]
    without = replace(op, operands=tuple(o for o in op.operands if o.slot != "DW"))
    ops = (*tiles.ops[:number], without, *tiles.ops[number + 1 :])
    with pytest.raises(AssertionError, match="an update by part of a sum"):
        check_tiles(graph, plan, replace(tiles, ops=ops))


def test_plans_are_the_same_every_time() -> None:
    graph, plan = _step("resnet8", Variant("FT", 1))
    assert plan_tiles(graph, plan, costs=COSTS, l1_bytes=48 * KIB) == plan_tiles(
        graph, plan, costs=COSTS, l1_bytes=48 * KIB
    )


def test_the_first_operand_lies_at_an_end_of_l1_and_the_next_operations_at_the_other() -> None:
    """There it can be loaded while the operation before still works at the other end."""
    graph, plan = _step("fdmobilenet_wd4", Variant("LP"), size=64)
    tiles = plan_tiles(graph, plan, costs=COSTS, l1_bytes=48 * KIB)
    for number, op in enumerate(tiles.ops):
        if op.body:
            first = op.operands[0]
            assert first.buffers[0] == (tiles.num_bytes - first.num_bytes if number % 2 else 0)
    assert any(o.early for op in tiles.ops[::2] for o in op.operands)
    assert any(o.early for op in tiles.ops[1::2] for o in op.operands)


# --- the checker refuses ------------------------------------------------------------------------------------------


@cache
def _tiled(l1_bytes: int) -> tuple[Graph, MemoryPlan, TilePlan]:
    graph, plan = _step("mobilenet_wd4", Variant("full"), size=64)
    return graph, plan, plan_tiles(graph, plan, costs=COSTS, l1_bytes=l1_bytes)


def _with_operand(op: Op, slot: str, change: Callable[[Operand], Operand]) -> Op:
    assert any(o.slot == slot for o in op.operands)
    return replace(op, operands=tuple(change(o) if o.slot == slot else o for o in op.operands))


def _change(tiles: TilePlan, body: str, change: Callable[[Op], Op], *, loop: int | None = None) -> TilePlan:
    """Return `tiles` with the first operation of more than one tile (of `loop`) by `body` changed."""
    number = next(
        i
        for i, op in enumerate(tiles.ops)
        if op.body == body and (op.num_tiles if loop is None else op.counts[loop]) > 1
    )
    return replace(tiles, ops=(*tiles.ops[:number], change(tiles.ops[number]), *tiles.ops[number + 1 :]))


def _columns(op: Op, slot: str, **change: int) -> Op:
    return _with_operand(op, slot, lambda o: replace(o, columns=replace(o.columns, **change)))


def _swapped(tiles: TilePlan) -> TilePlan:
    ops = list(tiles.ops)
    ops[3], ops[4] = ops[4], ops[3]
    return replace(tiles, ops=tuple(ops))


FAULTS: dict[str, tuple[Callable[[TilePlan], TilePlan], str]] = {
    "a halo row is missing": (
        lambda t: _change(t, "tcl_tile_dw_fw", lambda op: _columns(op, "X", before=0)),
        "need",
    ),
    "an output row is stored twice": (
        lambda t: _change(t, "tcl_tile_dw_fw", lambda op: _columns(op, "Y", before=1)),
        "need|exactly once",
    ),
    "the last tile is left out": (
        lambda t: _change(t, "tcl_tile_pw_fw", lambda op: replace(op, counts=(op.counts[0], op.counts[1] - 1, 1))),
        "exactly once",
    ),
    "one buffer for two tiles": (
        lambda t: _change(
            t, "tcl_tile_pw_fw", lambda op: _with_operand(op, "X", lambda o: replace(o, buffers=(o.buffers[0],) * 2))
        ),
        "needs two buffers",
    ),
    "two operands in one place": (
        lambda t: _change(
            t, "tcl_tile_pw_fw", lambda op: _with_operand(op, "W", lambda o: replace(o, buffers=op.operands[0].buffers))
        ),
        "overlap|in use|larger",
    ),
    "behind the end of L1": (lambda t: replace(t, num_bytes=t.num_bytes // 2), "the buffers take"),
    "a call is left out": (lambda t: replace(t, ops=t.ops[1:]), "left out"),
    "two operations change places": (_swapped, "what another one wrote"),
    "an output is not stored": (
        lambda t: _change(t, "tcl_tile_dw_ig", lambda op: _with_operand(op, "DX", lambda o: replace(o, store=False))),
        "never stored",
    ),
    "weights of other channels": (
        lambda t: _change(
            t, "tcl_tile_dw_fw", lambda op: _with_operand(op, "W", lambda o: replace(o, rows=replace(o.rows, loop=-1)))
        ),
        "W.rows",
    ),
    "a mask for the last rows alone": (
        lambda t: _change(t, "tcl_tile_dw_ig", lambda op: replace(op, num_outer=1), loop=1),
        "the (first|last) tile of a sum",
    ),
    "a sum that does not end with its last tile": (
        lambda t: _change(t, "tcl_tile_dw_wg", lambda op: replace(op, num_outer=2), loop=1),
        "the (first|last) tile of a sum",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_checker_refuses(fault: str) -> None:
    graph, plan, tiles = _tiled(12 * KIB)
    change, message = FAULTS[fault]
    with pytest.raises(AssertionError, match=message):
        check_tiles(graph, plan, change(tiles))


def test_the_checker_refuses_an_update_before_the_gradient_is_clipped() -> None:
    graph, plan = _step("dscnn", Variant("LP"), rule=UpdateRule(0.01, clip=1.0))
    tiles = plan_tiles(graph, plan, costs=COSTS, l1_bytes=32 * KIB, traced=traced_tensors(graph))
    kernels = [graph.calls[op.calls[0]].kernel for op in tiles.ops]
    clip, update = kernels.index("tcl_clip_fp32"), kernels.index("tcl_sgd_fp32")
    assert clip < update
    ops = list(tiles.ops)
    ops.insert(clip, ops.pop(update))
    with pytest.raises(AssertionError, match="reads what another one wrote"):
        check_tiles(graph, plan, replace(tiles, ops=tuple(ops)))


# Why an operand may not be loaded early -> which operand is such, of operation `op` behind `before`.
EARLY: dict[str, Callable[[Graph, Op | None, Op, Operand], bool]] = {
    "nothing comes before it": lambda graph, before, op, o: before is None and o.load,
    "what comes before it is not tiled": lambda graph, before, op, o: before is not None and not before.body and o.load,
    "is never loaded": lambda graph, before, op, o: _is_tiled(before) and not o.load and o.tensor is not None,
    "is early": lambda graph, before, op, o: _is_tiled(before) and o.slot == "W" and _is_in_use(before, o),
    "is not there yet": lambda graph, before, op, o: (
        _is_tiled(before) and o.load and not _is_in_use(before, o) and o.tensor in _stored(before)
    ),
}


def _is_tiled(before: Op | None) -> bool:
    return before is not None and before.body is not None


def _is_in_use(before: Op | None, o: Operand) -> bool:
    assert before is not None
    return any(o.buffers[0] < stop and start < o.buffers[0] + o.num_bytes for start, stop in before.extents)


def _stored(before: Op | None) -> set[str | None]:
    assert before is not None
    return {o.tensor for o in before.operands if o.store}


@pytest.mark.parametrize("reason", EARLY)
def test_the_checker_refuses_one_operand_that_is_loaded_too_early(reason: str) -> None:
    graph, plan, tiles = _tiled(64 * KIB)
    number, slot = next(
        (n, o.slot)
        for n, (before, op) in enumerate(zip((None, *tiles.ops), tiles.ops, strict=False))
        for o in op.operands
        if not o.early and EARLY[reason](graph, before, op, o)
    )
    early = _with_operand(tiles.ops[number], slot, lambda o: replace(o, early=True))
    with pytest.raises(AssertionError, match=reason):
        check_tiles(graph, plan, replace(tiles, ops=(*tiles.ops[:number], early, *tiles.ops[number + 1 :])))


def test_weights_are_loaded_while_the_operation_before_ends() -> None:
    tiles = _tiled(64 * KIB)[2]
    weights = [o.early for op in tiles.ops for o in op.operands if o.slot == "W" and op.body == "tcl_tile_pw_fw"]
    assert sum(weights) > len(weights) / 2


# --- channels that move, and groups of them -------------------------------------------------------------------------


class _Channels(torch.nn.Module):
    """Slices, a join, a shuffle and a convolution in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 12, 3, padding=1)
        self.shuffle = torch.nn.ChannelShuffle(3)
        self.grouped = torch.nn.Conv2d(12, 8, 3, padding=1, groups=4)
        self.end = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = torch.chunk(self.first(x), 2, dim=1)
        result: torch.Tensor = self.end(self.grouped(self.shuffle(torch.cat((b, a), dim=1))))
        return result


def _channels() -> tuple[Graph, MemoryPlan, TilePlan]:
    graph = training_graph(_Channels(), input_shape=(3, 16, 16), rule=UpdateRule(0.1))
    plan = plan_memory(graph)
    return graph, plan, plan_tiles(graph, plan, costs=COSTS, l1_bytes=7 * KIB)


def _of_layer(graph: Graph, op: Op, kernel: str, slot: str) -> bool:
    return graph.calls[op.calls[0]].kernel == kernel and any(o.slot == slot for o in op.operands)


def _next_group(o: Operand) -> Operand:
    return replace(o, rows=replace(o.rows, before=-o.rows.step))


# What is said -> the call that is done wrongly, the operand that it is of, and how it is wrong.
MOVED: dict[str, tuple[str, str, Callable[[Operand], Operand]]] = {
    "tcl_join_fp32_fw_cl of .*: elements from elsewhere": (
        "tcl_join_fp32_fw_cl", "Y", lambda o: replace(o, first=0)),
    "tcl_slice_fp32_fw_cl of .*: elements from elsewhere": (
        "tcl_slice_fp32_fw_cl", "X", lambda o: replace(o, first=256)),
    "tcl_slice_fp32_bw_cl of .*: an element is moved twice": (
        "tcl_slice_fp32_bw_cl", "Y", lambda o: replace(o, first=0, rows=replace(o.rows, before=0))),
    "tcl_shuffle_fp32_fw_cl of .*: elements from elsewhere": (
        "tcl_shuffle_fp32_fw_cl", "X", lambda o: replace(o, first=o.first - 1)),
    "tcl_shuffle_fp32_bw_cl of .*: elements from elsewhere": (
        "tcl_shuffle_fp32_bw_cl", "X", lambda o: replace(o, first=o.first - 1)),
    "tcl_tile_group_fw: channels .*: other groups": ("tcl_conv_group_fp32_fw_cl", "X", _next_group),
    "tcl_tile_group_wg: .*": ("tcl_conv_group_fp32_bw_param_grads_cl", "DY", _next_group),
}  # fmt: skip


def test_channels_are_moved_and_grouped_on_tiles() -> None:
    graph, _, tiles = _channels()
    kinds = {KERNELS[graph.calls[op.calls[0]].kernel].layer for op in tiles.ops if op.body and op.num_tiles > 1}
    assert {"join", "slice", "shuffle", "grouped"} <= kinds
    fills = [op for op in tiles.ops if op.body == "tcl_tile_fill"]
    assert len(fills) == 2, "the gradients of two slices, each zero on one side"


@pytest.mark.parametrize("message", MOVED)
def test_the_checker_refuses_channels_from_elsewhere(message: str) -> None:
    graph, plan, tiles = _channels()
    kernel, slot, change = MOVED[message]
    number = max(n for n, op in enumerate(tiles.ops) if _of_layer(graph, op, kernel, slot))
    wrong = _with_operand(tiles.ops[number], slot, change)
    with pytest.raises(AssertionError, match=message):
        check_tiles(graph, plan, replace(tiles, ops=(*tiles.ops[:number], wrong, *tiles.ops[number + 1 :])))


# --- on targets ---------------------------------------------------------------------------------------------------


@on_targets("host")
@pytest.mark.parametrize("seed", range(SEED, SEED + 6))
def test_random_nets_on_small_tiles_pass_under_sanitizers(target: Target, seed: int, tmp_path: Path) -> None:
    _run(seed, target, tmp_path / "project")


@on_targets("qemu", "pulp")
@pytest.mark.parametrize("seed", [SEED, SEED + 9])
def test_random_nets_on_small_tiles_pass_on_chips(target: Target, seed: int, tmp_path: Path) -> None:
    _run(seed, target, tmp_path / "project")


def _run(seed: int, target: Target, project: Path) -> None:
    job = random_job(seed)
    target, program = _emit_in_least_l1(job, target, project)
    assert program.tiles is not None
    assert sum(op.num_tiles for op in program.tiles.ops) > len(program.tiles.ops), "nothing was cut"
    report = execute(job, program, target, project, *VARIABLES.get(target.name, ()))
    assert report.passed, f"seed {seed}: {[c for c in report.worst() if not c.passed]}\n{job.model}"


def _emit_in_least_l1(job: Job, target: Target, project: Path) -> tuple[Target, Program]:
    """Emit for the smallest L1 of some in which a random net fits, so that the small ones are cut too."""
    stacks = 16 * KIB if target.tile_region else 0
    for num_kib in (3, 4, 6, 9, 17):
        small = with_l1(target, str(stacks + num_kib * KIB))
        try:
            return small, emit_project(job, small, project)
        except DoesNotFit:
            continue
    raise AssertionError("a random net does not fit in 17 KiB of L1")


@on_targets("host")
def test_cores_share_tiles_without_races(target: Target, tmp_path: Path) -> None:
    target, job = with_l1(target, "9KiB"), random_job(SEED + 3)
    program = emit_project(job, target, tmp_path / "p")
    assert execute(job, program, target, tmp_path / "p", "SANITIZE=thread", "NUM_CORES=4").passed


@on_targets("host")
def test_a_copy_that_is_not_waited_for_shows(target: Target, tmp_path: Path) -> None:
    """The host's DMA copies as late as it may: what is loaded before it was stored is NaN, not right by luck."""
    target, job = with_l1(target, "9KiB"), random_job(SEED + 3)
    program = make_program(job, target)
    assert program.tiles is not None
    ops = tuple(replace(op, operands=tuple(replace(o, early=o.load) for o in op.operands)) for op in program.tiles.ops)
    broken = replace(program, tiles=replace(program.tiles, ops=ops))
    write_project(emit(broken, target=target, num_cores=2, command="tests"), tmp_path / "p")
    assert not execute(job, broken, target, tmp_path / "p").passed


def test_what_cannot_be_cut_is_refused_with_what_it_needs(tmp_path: Path) -> None:
    def refusal(num_bytes: int) -> tuple[str, int]:
        with pytest.raises(DoesNotFit, match="give more with --l1, or compute on L2 with --l1 off") as caught:
            emit_project(random_job(SEED), with_l1(find_target("host"), str(num_bytes)), tmp_path / "p")
        what, has = str(caught.value).split(": it needs ")
        needs, _, rest = has.partition(" bytes of L1 beside stacks, and ")
        assert rest.startswith(f"{num_bytes:,} are there: ")
        return what, int(needs.replace(",", ""))

    what, needs = refusal(3072)
    assert refusal(needs - 16) == (what, needs)
    assert refusal(needs)[0] != what, "the next one needs more"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "64apples", "-1", "KiB", "lots"])
def test_bytes_of_l1_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"^--l1: '.*' is not a number of bytes: .*, or off$"):
        with_l1(find_target("host"), text)


def test_l1_of_a_target() -> None:
    pulp, host = find_target("pulp"), find_target("host")
    assert pulp.l1_bytes == 64 * KIB
    assert host.l1_bytes is None
    assert host.tile_bytes is None
    assert pulp.tile_bytes == 64 * KIB - 8 * pulp.regions[1].core_stack_bytes
    assert with_l1(host, "128KiB").tile_bytes == with_l1(host, "131072").tile_bytes == 128 * KIB
    assert with_l1(host, "1.5KiB").l1_bytes == 1536
    assert with_l1(pulp, "off").tile_bytes is None
    with pytest.raises(BadInput, match="target pulp has 65,536 bytes of L1"):
        with_l1(pulp, "128KiB")
