"""The sizes of tables: those of the library's structs as a compiler for the chip sees them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.kit.paths import include_flags
from tests.kit.targets import on_targets
from tinyclf.base.resources import resource_dir
from tinyclf.device.footprint import tables as program_tables
from tinyclf.device.footprint.tables import struct_bytes
from tinyclf.device.targets.target import Target

WORDS = (
    *("blob", "tcl_trace", "tcl_segment", "loss_args", "optim_args", "act_args", "pool_args"),
    *("Conv2D_args", "DepthWise_Conv_args", "PointWise_Conv_args", "Linear_args", "tcl_add_args", "tcl_bias_args"),
    *("tcl_maxpool_args", "tcl_relu6_args", "tcl_update_args", "tcl_accumulate_args", "tcl_norm_args", "tcl_clip_args"),
)


@on_targets("qemu")
def test_structs_have_the_sizes_that_are_counted(target: Target, tmp_path: Path) -> None:
    include = resource_dir("external/pulp-trainlib") / "include"
    expected = {name: struct_bytes(name) for name in WORDS}
    expected |= {f"tcl_{name}": getattr(program_tables, f"{name.upper()}_BYTES") for name in ("call", "op", "operand")}
    headers = "".join(f'#include "{file.name}"\n' for file in sorted(include.glob("*.h")) if "fast" not in file.name)
    checks = "".join(f'_Static_assert(sizeof(struct {n}) == {num}, "{n}");\n' for n, num in expected.items())
    (tmp_path / "sizes.c").write_text(headers + checks)
    command = [
        "riscv64-unknown-elf-gcc",
        "-march=rv32imafc",
        "-mabi=ilp32f",
        "--specs=picolibc.specs",
        "-DNUM_CORES=2",
        "-fsyntax-only",
    ]
    folders = [*include_flags("plain"), f"-I{resource_dir('deployers')}"]
    done = subprocess.run([*command, *folders, tmp_path / "sizes.c"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_struct_that_is_not_there_is_none() -> None:
    with pytest.raises(KeyError):
        struct_bytes("no_such_args")
