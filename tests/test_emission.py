"""The comparison of emitted projects: it accepts what may change between two versions, and finds all else."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks/ is no installed package

from benchmarks.emission import TARGETS, cases, main, places

CASE = "pulp-dscnn"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two cases, once."""
    folder = tmp_path_factory.mktemp("emission") / "before"
    result = run("write", folder, "--only", CASE, "--only", "host-L[P]")
    assert result.exit_code == 0, result.output
    assert "2 projects in " in result.output
    assert sorted(f.name for f in folder.iterdir()) == ["host-LP", CASE]
    return folder


@pytest.fixture
def after(before: Path, tmp_path: Path) -> Path:
    """Copy what was written before."""
    return Path(shutil.copytree(before, tmp_path / "after"))


def move(project: Path, old: str, new: str) -> None:
    (project / new).parent.mkdir(exist_ok=True)
    (project / old).rename(project / new)


def test_cases_meet_each_feature_on_each_target() -> None:
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names)
    for target in TARGETS:
        options = " ".join(c.options for c in cases() if c.name.startswith(f"{target}-")).split()
        assert {"LP", "FT", "full", "FD", "int8", "fp32", "adam", "resnet8", "mobilenetv2_wd4", "dscnn"} <= {*options}
        assert {"--epochs", "--steps", "--l1", "--recompute", "--bias-only", "--train-channels"} <= {*options}
        assert {"--momentum", "--batch", "--clip", "--schedule", "--layers"} <= {*options}


def test_the_same_projects_are_the_same(before: Path, after: Path) -> None:
    result = run("compare", before, after)
    assert result.exit_code == 0, result.output
    assert "0 files have moved" in result.output
    assert "as they may: none\ndifferences: 0" in result.output


def test_changed_makefiles_are_accepted_and_counted(before: Path, after: Path) -> None:
    for name in ("README.md", "port/build.mk"):
        (after / CASE / name).write_text("something else")
    result = run("compare", before, after)
    assert result.exit_code == 0, result.output
    assert "as they may: 1 README.md, 1 port/build.mk" in result.output


MOVES = {  # not of emitted projects, which lie one way or the other
    "port/port.h": "trainlib/include/port.h",
    "trainlib/src/fast_rows.h": "trainlib/src/fast/fast_rows.h",
    "trainlib/src/fast_dw_fp32.c": "trainlib/src/fast/fast_dw_fp32.c",
    "trainlib/src/pulp_act_fp32.c": "trainlib/src/plain/pulp_act_fp32.c",
    "trainlib/src/tcl_add_fp32.c": "trainlib/src/plain/tcl_add_fp32.c",
    "trainlib/src/tcl_tile.c": "trainlib/src/tiles/tcl_tile.c",
    "trainlib/src/tile_pw.c": "trainlib/src/tiles/tile_pw.c",
    "trainlib/src/tcl_run.c": "trainlib/src/run/tcl_run.c",
}


@pytest.fixture
def moved(tmp_path: Path) -> tuple[Path, Path]:
    """Write a project with sources where they lay, and with the same where they have moved."""
    folders = tmp_path / "old", tmp_path / "new"
    for folder, paths in zip(folders, ([*MOVES], [*MOVES.values()]), strict=True):
        for old, path in zip(MOVES, paths, strict=True):
            file = folder / CASE / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"/* {old} */\n")
    return folders


def test_moved_sources_are_accepted(moved: tuple[Path, Path]) -> None:
    result = run("compare", *moved)
    assert result.exit_code == 0, result.output
    assert f"{len(MOVES)} files are the same, {len(MOVES)} files have moved" in result.output


def test_a_change_of_a_moved_source_is_found(moved: tuple[Path, Path]) -> None:
    with (moved[1] / CASE / "trainlib/src/run/tcl_run.c").open("a") as stream:
        stream.write("/* more */\n")
    result = run("compare", *moved)
    assert result.exit_code == 1
    place = "trainlib/src/tcl_run.c -> trainlib/src/run/tcl_run.c"
    assert f"{CASE}: {place}: line 2: the end became '/* more */\\n'" in result.output


def test_a_source_at_both_places_is_found(moved: tuple[Path, Path]) -> None:
    shutil.copy(moved[0] / CASE / "trainlib/src/tcl_run.c", moved[1] / CASE / "trainlib/src")
    result = run("compare", *moved)
    assert result.exit_code == 1
    assert f"{CASE}: trainlib/src/run/tcl_run.c: only in AFTER" in result.output


def _change_text(project: Path) -> None:
    file = project / "src/network.c"
    file.write_bytes(file.read_bytes().replace(b"static", b"statiC", 1))


def _change_weight(project: Path) -> None:
    file = project / "data/parameters.bin"
    content = bytearray(file.read_bytes())
    content[1234] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_change_text, f"{CASE}: src/network.c: line "),
        (_change_weight, f"{CASE}: data/parameters.bin: byte 1,234; "),
        (lambda project: (project / "src/main.c").unlink(), f"{CASE}: src/main.c: only in BEFORE"),
        (lambda project: (project / "src/more.c").touch(), f"{CASE}: src/more.c: only in AFTER"),
        (lambda project: (project / "port/build.mk").unlink(), f"{CASE}: port/build.mk: only in BEFORE"),
        (lambda project: move(project, "src/main.c", "src/new/main.c"), f"{CASE}: src/new/main.c: only in AFTER"),
        (lambda project: shutil.rmtree(project), f"{CASE}: only in BEFORE"),
    ],
)
def test_anything_else_is_found(change: Callable[[Path], object], words: str, before: Path, after: Path) -> None:
    change(after / CASE)
    result = run("compare", before, after)
    assert result.exit_code == 1
    assert words in result.output


def test_nothing_to_compare_is_an_error(before: Path, tmp_path: Path) -> None:
    assert run("compare", tmp_path, tmp_path).exit_code == 1
    assert run("compare", before, tmp_path / "none").exit_code == 1


def test_a_folder_that_holds_something_is_refused(before: Path) -> None:
    result = run("write", before, "--only", CASE)
    assert result.exit_code == 1
    assert "is not empty" in result.output


def test_a_name_that_no_case_has_is_refused(tmp_path: Path) -> None:
    assert run("write", tmp_path / "out", "--only", "pdp11-*").exit_code == 1


def test_cases_with_upstream_are_counted_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAINLIB_HOME", raising=False)
    result = run("write", tmp_path / "out", "--only", "pulp-upstream-*")
    assert "left out: 5 with PULP-TrainLib" in result.output


def test_what_has_moved_once_stays() -> None:
    """Two versions after the move are compared as well."""
    assert places("trainlib/src/plain/tcl_add_fp32.c")[0] == "trainlib/src/plain/tcl_add_fp32.c"
    assert places("src/network.c") == ("src/network.c",)
