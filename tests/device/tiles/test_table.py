"""The table of tiles: it is read and written, its entries are used where they fit, and what is damaged is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from tests.cli.test_cli import run
from tests.kit.steps import training_graph
from tests.kit.targets import COSTS
from tinyclf.base.errors import BadInput
from tinyclf.device.graph.ir import Graph
from tinyclf.device.graph.traces import traced_tensors
from tinyclf.device.memory.plan import MemoryPlan, Placed
from tinyclf.device.memory.planner import plan_memory
from tinyclf.device.run.step import target_tiles
from tinyclf.device.targets.target import find_target, l1_option, with_l1, with_tiles
from tinyclf.device.tiles.choose import Choice, Work, candidates
from tinyclf.device.tiles.plan import NUM_LOOPS
from tinyclf.device.tiles.planner import buffer_bytes, plan_tiles, tiled_works
from tinyclf.device.tiles.table import Entry, TileTable, read_table, work_key, write_table
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, fold_batchnorm, freeze

L1 = 64 * 1024
NUM_BYTES = buffer_bytes(L1)


def refused(result: Result, message: str) -> None:
    """Assert that a command ended with one line that says `message`."""
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert message in result.stderr


def _step(arch: str = "mobilenet_wd4", variant: Variant | None = None, size: int = 32) -> tuple[Graph, MemoryPlan]:
    model = build_model(arch, num_classes=2, size=size)
    freeze(model, variant or Variant("LP"))
    graph = training_graph(fold_batchnorm(model), input_shape=(3, size, size))
    return graph, plan_memory(graph)


def _works(graph: Graph, plan: MemoryPlan) -> list[Work | None]:
    return tiled_works(graph, plan, l1_bytes=L1, costs=COSTS, traced=traced_tensors(graph))


def _worst(graph: Graph, plan: MemoryPlan, num: int = 6) -> TileTable:
    """Return a table of candidates that the cost model would not take, of all operations that have others."""
    works = [work for work in _works(graph, plan) if work]
    entries = {work_key(w, NUM_BYTES): Entry(candidates(w, NUM_BYTES, COSTS, num)[-1], 1) for w in works}
    return TileTable("pulp", entries)


@pytest.mark.parametrize("arch", ["mobilenet_wd4", "resnet8"])
def test_entries_are_used_and_the_plan_passes_the_checker(arch: str) -> None:
    graph, plan = _step(arch, Variant("FT", 2))
    table, traced = _worst(graph, plan), traced_tensors(graph)
    tiles = plan_tiles(graph, plan, costs=COSTS, l1_bytes=L1, traced=traced, table=table)  # checks
    usual = plan_tiles(graph, plan, costs=COSTS, l1_bytes=L1, traced=traced)
    num_changed = 0
    for op, work in zip(tiles.ops, _works(graph, plan), strict=True):
        assert bool(work) == bool(op.body)
        if work:
            choice = table.entries[work_key(work, NUM_BYTES)].choice
            counts = [-(-work.sizes[loop][0] // choice.tiles[loop]) for loop in choice.order]
            assert op.counts == (*counts, *(1,) * (NUM_LOOPS - len(counts)))
            num_changed += op.counts not in [o.counts for o in usual.ops if o.calls == op.calls]
    assert num_changed > len(tiles.ops) / 2
    assert tiles.cycles > usual.cycles


def test_candidates_begin_with_what_the_cost_model_takes_and_differ() -> None:
    graph, plan = _step()
    best = {}
    for work in filter(None, _works(graph, plan)):
        found = candidates(work, NUM_BYTES, COSTS, 5)
        assert len(set(found)) == len(found) <= 5
        best[work_key(work, NUM_BYTES)] = Entry(found[0], 1)
    table = TileTable("pulp", best)
    traced = traced_tensors(graph)
    usual = plan_tiles(graph, plan, costs=COSTS, l1_bytes=L1, traced=traced)
    assert plan_tiles(graph, plan, costs=COSTS, l1_bytes=L1, traced=traced, table=table) == usual


@pytest.mark.parametrize(
    "wrong",
    [
        Choice((0, 1, 1), (0, 1, 2)),  # no tile at all
        Choice((3, 4, 4), (0, 1, 2)),  # not a multiple of four channels
        Choice((4, 4), (0, 1)),  # too few loops
        Choice((4, 4, 4), (2, 1, 0)),  # an order that the body cannot do
        Choice((4096, 4096, 4096), (0, 1, 2)),  # more than there is
    ],
)
def test_an_entry_that_cannot_be_is_left_out(wrong: Choice) -> None:
    graph, plan = _step()
    keys = [work_key(w, NUM_BYTES) for w in _works(graph, plan) if w and w.body == "tcl_tile_pw_fw"]
    table = TileTable("pulp", dict.fromkeys(keys, Entry(wrong, 1)))
    assert plan_tiles(graph, plan, costs=COSTS, l1_bytes=L1, table=table) == plan_tiles(
        graph, plan, costs=COSTS, l1_bytes=L1
    )


def test_an_entry_that_does_not_fit_is_left_out() -> None:
    graph, plan = _step()
    works = [w for w in _works(graph, plan) if w]
    whole = {work_key(w, NUM_BYTES): Entry(Choice(tuple(s for s, _ in w.sizes), w.orders[0]), 1) for w in works}
    tiles = plan_tiles(graph, plan, costs=COSTS, l1_bytes=L1, table=TileTable("pulp", whole))
    assert max(stop for op in tiles.ops for _, stop in op.extents) <= NUM_BYTES
    assert {op.num_tiles == 1 for op in tiles.ops if op.body} == {True, False}


def test_entries_of_other_sizes_of_l1_and_of_other_nets_are_left_out() -> None:
    graph, plan = _step()
    usual = plan_tiles(graph, plan, costs=COSTS, l1_bytes=L1 // 2)
    assert plan_tiles(graph, plan, costs=COSTS, l1_bytes=L1 // 2, table=_worst(graph, plan)) == usual
    foreign = _worst(*_step("dscnn"))
    assert plan_tiles(graph, plan, costs=COSTS, l1_bytes=L1, table=foreign) == plan_tiles(
        graph, plan, costs=COSTS, l1_bytes=L1
    )


def test_a_key_says_what_an_operation_is_and_not_how_fast_weights_change() -> None:
    graph, plan = _step(variant=Variant("FT", 2))
    works = [w for w in _works(graph, plan) if w]
    slow = [replace(w, layer=tuple((n, v) for n, v in w.layer if n != "learning_rate")) for w in works]
    assert slow != works
    assert [work_key(w, NUM_BYTES) for w in slow] == [work_key(w, NUM_BYTES) for w in works]
    stored = [replace(w, uses=tuple(replace(u, tensor=None, store=False) for u in w.uses)) for w in works]
    assert [work_key(w, NUM_BYTES) for w in stored] == [work_key(w, NUM_BYTES) for w in works]
    first = works[0]
    for other in (
        replace(first, body="tcl_tile_other"),
        replace(first, sizes=((4, 4), *first.sizes[1:])),
        replace(first, layer=(*first.layer, ("pad_top", 9))),
        replace(first, uses=first.uses[:-1]),
    ):
        assert work_key(other, NUM_BYTES) != work_key(first, NUM_BYTES)


def test_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
    table = _worst(*_step())
    write_table(tmp_path / "t.json", table)
    assert read_table(tmp_path / "t.json", target="pulp") == table
    write_table(tmp_path / "u.json", TileTable("pulp", dict(reversed(table.entries.items()))))
    assert (tmp_path / "u.json").read_bytes() == (tmp_path / "t.json").read_bytes(), "not sorted"
    write_table(tmp_path / "e.json", TileTable("pulp", {}))
    assert read_table(tmp_path / "e.json", target="pulp").entries == {}


GOOD = {"version": 1, "target": "pulp", "entries": {"a": {"tiles": [4], "order": [0], "cycles": 9}}}
DAMAGED = {
    "cut": (json.dumps(GOOD)[:-9], "is damaged"),
    "not text": (b"\xff\xfe\x00", "is damaged"),
    "a list": ("[]", "is no table of tiles"),
    "another file": ('{"a": 1}', "is no table of tiles"),
    "version": (json.dumps(GOOD | {"version": 7}), "of version 7, this tinyclf reads 1"),
    "target": (json.dumps(GOOD | {"target": "mars"}), "is of target mars, this is target pulp"),
    "no entries": (json.dumps({"version": 1, "target": "pulp"}), "is damaged"),
    "entries": (json.dumps(GOOD | {"entries": [1]}), "is damaged"),
    "half an entry": (json.dumps(GOOD | {"entries": {"a": {"tiles": [4]}}}), "is damaged"),
    "text for a number": (json.dumps(GOOD).replace("[4]", '["4"]'), "is damaged"),
    "a number for a list": (json.dumps(GOOD).replace("[4]", "4"), "is damaged"),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_table_is_refused_in_a_line(fault: str, tmp_path: Path) -> None:
    content, message = DAMAGED[fault]
    file = tmp_path / "t.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=message) as refusal:
        read_table(file, target="pulp")
    assert "\n" not in str(refusal.value)


def test_the_targets_own_table_is_sound_and_what_a_step_takes() -> None:
    target = find_target("pulp")
    assert target.tile_table is not None
    assert target.tile_bytes is not None
    table = read_table(target.tile_table, target="pulp")
    assert "tiles.json" not in target.port_files()
    for arch in ("mobilenet_wd4", "fdmobilenet_wd4"):
        for variant in (Variant("LP"), Variant("FT", 1), Variant("FT", 2)):
            for size in (96, 128):
                graph, plan = _step(arch, variant, size)
                num_bytes = buffer_bytes(target.tile_bytes)
                works = tiled_works(graph, plan, l1_bytes=target.tile_bytes, costs=COSTS)  # of a training run
                missing = [work_key(w, num_bytes) for w in works if w and not table.choice(w, num_bytes)]
                assert not missing, f"{arch} {variant.label} {size}: run tinyclf tune"
    tiles = target_tiles(Placed(graph, plan), target)
    assert tiles == plan_tiles(graph, plan, costs=COSTS, l1_bytes=target.tile_bytes, table=table)
    assert tiles != target_tiles(Placed(graph, plan), with_tiles(target, Path("model")))


def test_deploy_takes_a_table_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    write_table(file, TileTable("pulp", {}))
    what = ("deploy", "--target", "pulp", "--arch", "dscnn", "--size", 32)
    assert run(*what, "--tiles", file, "--out", tmp_path / "p").exit_code == 0
    assert "--tiles t.json" in (tmp_path / "p" / "src" / "network.c").read_text()
    file.write_text("{")
    refused(run(*what, "--tiles", file, "--out", tmp_path / "p"), "is damaged")
    refused(run(*what, "--tiles", tmp_path / "none", "--out", tmp_path / "p"), "No such file")
    refused(run("deploy", "--target", "host", "--tiles", file), "without tiles")


def test_the_command_in_a_header_names_a_table_of_ones_own() -> None:
    target = find_target("pulp")
    assert l1_option(target) == l1_option(with_tiles(target, None)) == ""
    assert l1_option(with_tiles(target, Path("of/mine.json"))) == " --tiles mine.json"
    assert l1_option(with_tiles(with_l1(target, "32KiB"), Path("model"))) == " --l1 32768 --tiles model"
