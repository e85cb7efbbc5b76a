"""C that no compiler may misread: each trap shown by a sanitizer, a compiler's flag or a build that must fail."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kit.paths import KIT, LIBRARY, include_flags
from tests.kit.targets import on_targets
from tinyclf.base.errors import ToolFailed
from tinyclf.base.resources import resource_dir
from tinyclf.device import targets
from tinyclf.device.emit.library import library_files
from tinyclf.device.run.project import write_project
from tinyclf.device.targets.target import Target, find_target

HERE = Path(__file__).parent
DEPLOYERS = resource_dir("deployers")
TEMPLATES = resource_dir("templates")
SOURCES = tuple(LIBRARY.rglob("*.[ch]"))
RISCV_GCC = ("riscv64-unknown-elf-gcc", "-march=rv32imafc", "-mabi=ilp32f", "-ffreestanding")


def _project(target: Target, project: Path, sources: dict[str, bytes], *, num_cores: int) -> None:
    files = {f"port/{name}": content for name, content in target.port_files().items()}
    files |= library_files(in_tiles=True, beside_upstream=False) | sources
    files["Makefile"] = f"NUM_CORES ?= {num_cores}\ninclude port/build.mk\n".encode()
    write_project(files, project)


def _needs(*tools: str) -> None:
    for tool in tools:
        if not shutil.which(tool):
            pytest.skip(f"{tool} is missing")


# --- pointers -----------------------------------------------------------------------------------------------------


@pytest.mark.target("host")
@pytest.mark.parametrize("num_cores", [1, 2])
def test_no_pointer_is_formed_before_its_array(num_cores: int, tmp_path: Path) -> None:
    host = find_target("host")
    code = f"enum {{ LOW_WIDTH = 20000 }};\n#line 1\n{(HERE / 'low_memory.c').read_text()}"
    _project(host, tmp_path / "p", {"src/low_memory.c": code.encode()}, num_cores=num_cores)
    targets.build(tmp_path / "p", host, "SANITIZE=undefined")
    targets.start(tmp_path / "p", "SANITIZE=undefined")


@pytest.mark.target("host")
def test_no_bytes_are_read_as_another_type(tmp_path: Path) -> None:
    """The flag sees casts to a type that is aligned more; `void *` in between would hide them."""
    if "Free Software Foundation" not in subprocess.run(["cc", "--version"], capture_output=True, text=True).stdout:
        pytest.skip("cc is not GCC, which alone has -Wcast-align=strict")
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-Wcast-align=strict", "-Wstrict-aliasing=1"]
    for source in LIBRARY.rglob("*.c"):
        command = ["cc", *flags, "-DNUM_CORES=2", *include_flags("plain"), "-fsyntax-only", source]
        subprocess.run(command, check=True)
        assert not re.search(r"\(void (const )?\*\)\s*\w", source.read_text()), f"{source}: a cast to void *"


def test_six_is_spelled_once() -> None:
    spelled = [f.name for f in SOURCES if re.search(r"\b6\.0f|0x40c0", f.read_text())]
    assert spelled == ["tcl_act_fp32.h"]


# --- what is read behind buffers ----------------------------------------------------------------------------------


def _compile_for_pulp(source: Path, *flags: str) -> str:
    """Compile for pulp with the SDK's header; return the complaints, "" if there are none."""
    clang = ["clang-19", "--target=riscv32-unknown-elf", "-march=rv32imc_zicsr_zfinx", "-mabi=ilp32"]
    include = [
        *include_flags("xpulp", "xpulp_insn"),
        f"-I{KIT}",
        f"-I{DEPLOYERS}",
        "-isystem",
        _PICOLIBC,
        "-DNUM_CORES=8",
    ]
    command = [*clang, "-std=gnu99", *flags, *include, "-c", source, "-o", "/dev/null"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


_PICOLIBC = "/usr/lib/picolibc/riscv64-unknown-elf/include"


def test_the_product_does_not_compile_without_memory_behind_the_tiles(tmp_path: Path) -> None:
    _needs("clang-19")
    gemm = LIBRARY / "src/fast/fast_gemm_fp32.c"
    assert _compile_for_pulp(gemm, "-include", str(DEPLOYERS / "pulp/sdk/sdk.h")) == ""
    assert _compile_for_pulp(gemm, "-DPORT_L1_BEHIND=4096") == ""
    assert "reach_is_memory" in _compile_for_pulp(gemm, "-DPORT_L1_BEHIND=4092")
    assert "PORT_L1_BEHIND" in _compile_for_pulp(gemm)
    (tmp_path / "pulp/sdk").mkdir(parents=True)
    (tmp_path / "pulp/port").mkdir()
    shutil.copy(DEPLOYERS / "semihost.c", tmp_path / "pulp/port/semihost.c")
    shutil.copy(DEPLOYERS / "semihost.h", tmp_path / "pulp/port/semihost.h")
    port = tmp_path / "pulp/sdk/port.c"
    port.write_text((DEPLOYERS / "pulp/sdk/port.c").read_text())
    sdk = ("-include", str(DEPLOYERS / "pulp/sdk/sdk.h"), f"-I{tmp_path / 'pulp/port'}")
    assert _compile_for_pulp(port, *sdk) == ""
    port.write_text(re.sub(r"STACK_BYTES = \d+", "STACK_BYTES = 256", port.read_text()))
    assert "stacks_lie_behind" in _compile_for_pulp(port, *sdk)


@on_targets("pulp")
def test_tiles_that_leave_no_memory_behind_them_do_not_link(target: Target, tmp_path: Path) -> None:
    code = """
#include "port_dma.h"
#include "tcl_tile.h"
float tcl_l1[%s] __attribute__((aligned(16), section(PORT_L1_SECTION)));
int const tcl_l1_bytes = sizeof tcl_l1;
void tcl_main(void)
{
    port_write(tcl_l1, 4);
}
"""
    for num_floats, fits in (((65536 - 4096) // 4, True), ((65536 - 4096) // 4 + 4, False)):
        project = tmp_path / str(num_floats)
        _project(target, project, {"src/main.c": (code % num_floats).encode()}, num_cores=1)
        if fits:
            targets.build(project, target)
            continue
        with pytest.raises(ToolFailed, match="PORT_L1_BEHIND"):
            targets.build(project, target)


# --- contraction --------------------------------------------------------------------------------------------------


def test_every_makefile_contracts_alike() -> None:
    flag = r"-ffp-contract=\w+"
    makefiles = (DEPLOYERS / "build.mk", TEMPLATES / "Makefile.sdk.j2")
    assert [re.findall(flag, f.read_text()) for f in makefiles] == [["-ffp-contract=on"]] * 2
    others = [f for f in (*DEPLOYERS.rglob("*.mk"), *TEMPLATES.glob("Makefile*")) if f not in makefiles]
    assert not [f for f in others if re.search(flag, f.read_text())]


def test_the_sdks_flags_fuse_nothing_across_statements(tmp_path: Path) -> None:
    _needs(RISCV_GCC[0])
    (tmp_path / "sum.c").write_text(
        "float sum(float a, float b, float c)\n{\n    float p = a * b;\n    return p + c;\n}\n"
    )
    flags = re.search(r"^APP_CFLAGS = (.*?) -DNUM_CORES", (TEMPLATES / "Makefile.sdk.j2").read_text(), re.MULTILINE)
    assert flags

    def assembly(*options: str) -> str:
        command = [*RISCV_GCC, *options, "-S", "-o", "-", "sum.c"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "fmadd" in assembly("-std=gnu99", "-O2")  # what it did
    assert "fmadd" not in assembly(*flags[1].split())


# --- the SDK's DMA ------------------------------------------------------------------------------------------------

# PMSIS's copies on QEMU's one memory, to run the SDK's port of the DMA there.
PMSIS = """
#include <string.h>
#include "pmsis.h"
#include "port.h"

static void copy(uint32_t ext, uint32_t loc, uint32_t num_bytes, pi_cl_dma_dir_e dir)
{
    if (dir == PI_CL_DMA_DIR_EXT2LOC)
        memcpy((void *)loc, (void *)ext, num_bytes);
    else
        memcpy((void *)ext, (void *)loc, num_bytes);
}

void pi_cl_dma_cmd(uint32_t ext, uint32_t loc, uint32_t size, pi_cl_dma_dir_e dir, pi_cl_dma_cmd_t *cmd)
{
    copy(ext, loc, size, dir);
    cmd->id = 1;
}

void pi_cl_dma_cmd_2d(uint32_t ext, uint32_t loc, uint32_t size, uint32_t stride, uint32_t length,
                      pi_cl_dma_dir_e dir, pi_cl_dma_cmd_t *cmd)
{
    for (uint32_t at = 0; at < size; at += length, ext += stride)
        copy(ext, loc + at, length, dir);
    cmd->id = 1;
}

void pi_cl_dma_cmd_wait(pi_cl_dma_cmd_t *cmd)
{
    PORT_CHECK(cmd->id == 1);
    cmd->id = 0;
}

void pi_cl_team_barrier(void)
{
}
"""

COPIES = """
#include <string.h>
#include "port_dma.h"

static float l1[64], l2[256], back[256];

void tcl_main(void)
{
    char const right = 1;
    int group = port_dma_open();
    for (int i = 0; i < 256; i++)
        l2[i] = (float)i;
    port_dma_load(l1, l2, %(load)s);
    port_dma_wait(group);
    group = port_dma_open();
    port_dma_store(back + 128, l1, 64, 3, 128);
    port_dma_wait(group);
    for (int row = 0; row < 3; row++)
        PORT_CHECK(memcmp(back + 128 + 32 * row, l2 + 32 * row, 64) == 0);
    PORT_CHECK(back[127] == 0.0f && back[144] == 0.0f && back[208] == 0.0f);
    port_write(&right, 1);
}
"""


@on_targets("qemu")
def test_the_sdks_dma_copies_and_refuses_as_every_ports(target: Target, tmp_path: Path) -> None:
    loads = {"right": "64, 3, 128", "wraps": "65536, 65537, 65536", "too large": "32768, 4, 32768", "odd": "6, 1, 8"}
    for name, load in loads.items():
        files = {f"port/{file}": content for file, content in target.port_files().items() if file != "dma.c"}
        files["port/dma.c"] = (DEPLOYERS / "pulp/sdk/dma.c").read_bytes()
        files["port/pmsis.h"] = (KIT / "pmsis.h").read_bytes()
        files |= {f"trainlib/include/{h}": (LIBRARY / "include" / h).read_bytes() for h in ("port.h", "port_dma.h")}
        files |= {"src/pmsis.c": PMSIS.encode(), "src/copies.c": (COPIES % {"load": load}).encode()}
        files["Makefile"] = b"NUM_CORES ?= 1\ninclude port/build.mk\n"
        project = tmp_path / name.replace(" ", "_")
        write_project(files, project)
        targets.build(project, target)
        if name == "right":
            targets.start(project)
            continue
        with pytest.raises(ToolFailed, match=r"port_dma\.h:\d+: check failed"):
            targets.start(project)
