"""The PULP SDK's makefile of pulp projects: it lists what the program needs, which fits L1 and compiles with the SDK.

PULP_SDK_HOME names a checkout of the SDK for the test that needs one, TINYCLF_TRAINLIB_HOME one of PULP-TrainLib.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.device.emit import test_upstream
from tests.device.emit.test_upstream import checkout, stand_in  # noqa: F401  # fixtures
from tests.device.run import test_training as test_device_run
from tests.kit.paths import KIT, LIBRARY, include_flags
from tinyclf.device.emit.project import emit
from tinyclf.device.emit.upstream import Upstream, find_upstream
from tinyclf.device.run.steps import emit_project
from tinyclf.device.run.training import emit_training
from tinyclf.device.targets.target import find_target, with_l1
from tinyclf.recipe.variant import Variant

CC = ("clang-19", "--target=riscv32-unknown-elf", "-march=rv32imc_zicsr_zfinx", "-mabi=ilp32")
SDK_L1_BYTES = 0xFFFC  # of the SDK's linker script
SDK_OWN_L1_BYTES = 256  # what the SDK's cluster driver, its allocator and alignment take of them; 32 and gaps in fact
PROJECTS = ("single steps", "without L1", "training run")


def _emit(kind: str, project: Path, *, upstream: Upstream | None = None) -> Path:
    pulp = find_target("pulp")
    if kind == "training run":
        emit_training(test_device_run._job(cache="int8"), pulp, project, upstream=upstream)
        return project
    target = with_l1(pulp, "off") if kind == "without L1" else pulp
    emit_project(test_upstream._job(Variant("FT", 1)), target, project, upstream=upstream)
    return project


def _sources(makefile: str) -> list[str]:
    listed = re.search(r"^APP_SRCS = \\\n((?:\t.*\\\n)*\t.*)$", makefile, re.MULTILINE)
    assert listed
    return listed[1].replace("\\", "").split()


@pytest.mark.parametrize("with_upstream", [False, True])
def test_the_makefile_lists_exactly_the_sources(stand_in: Path, *, with_upstream: bool) -> None:  # noqa: F811
    found = find_upstream(str(stand_in)) if with_upstream else None
    program = test_upstream.make_program(test_upstream._job(Variant("FT", 1)), upstream=found)
    files = emit(program, target=find_target("pulp"), num_cores=8, command="tests")
    makefile = files["Makefile.sdk"].decode()
    ours = {f for f in files if f.endswith(".c") and f.split("/")[0] in ("sdk", "src", "trainlib")}
    theirs = {f"$(TRAINLIB_HOME)/lib/sources/{s}" for s in program.linkage.sources} if program.linkage else set()
    assert sorted(_sources(makefile)) == sorted(ours | theirs)
    assert "PULP_APP_ASM_SRCS = src/data.S\n" in makefile
    assert "Makefile.sdk" not in emit(program, target=find_target("qemu"), num_cores=1, command="tests")


# --- with our compiler, without the SDK ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Return the objects of what Makefile.sdk lists, of each kind of project; tests/pmsis.h stands in for the SDK."""
    for tool in (CC[0], "riscv64-unknown-elf-nm", "riscv64-unknown-elf-size"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is missing")
    root = tmp_path_factory.mktemp("sdk")
    objects: dict[tuple[str, bytes], Path] = {}
    result = {}
    for kind in PROJECTS:
        project = _emit(kind, root / kind)
        sources = [project / s for s in (*_sources((project / "Makefile.sdk").read_text()), "src/data.S")]
        result[kind] = []
        for source in sources:
            key = (source.name, source.read_bytes() if "trainlib" in source.parts else kind.encode())
            if key not in objects:
                objects[key] = root / f"{len(objects)}.o"
                _compile(source, objects[key], project)
            result[kind].append(objects[key])
    return result


def _compile(source: Path, output: Path, project: Path) -> None:
    includes = [
        "-include",
        "sdk/sdk.h",
        "-Isrc",
        "-Iport",
        "-Itrainlib/include",
        "-Itrainlib/src/fast/plain",
        f"-I{KIT}",
    ]
    picolibc = ["-isystem", "/usr/lib/picolibc/riscv64-unknown-elf/include"]
    flags = ["-std=gnu99", "-O0", "-Wall", "-Wextra", "-Werror", "-DNUM_CORES=8"]
    subprocess.run([*CC, *flags, *includes, *picolibc, "-c", source, "-o", output], cwd=project, check=True)


def _symbols(objects: list[Path]) -> tuple[set[str], set[str]]:
    """Return what the objects define, and what they want, of our names."""
    listing = subprocess.run(["riscv64-unknown-elf-nm", *objects], capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^[0-9a-f ]{8} (\w) ((?:port|tcl|pulp)_\w+)$", listing, re.MULTILINE)
    wanted = {name for letter, name in rows if letter in "Uwv"}
    return {name for letter, name in rows if letter.isupper() and letter != "U"}, wanted


@pytest.mark.parametrize("kind", PROJECTS)
def test_what_the_listed_sources_want_they_define(compiled: dict[str, list[Path]], kind: str) -> None:
    defined, wanted = _symbols(compiled[kind])
    assert wanted - defined == set()
    assert "port_fork" in wanted
    assert ("port_dma_load" in wanted) == (kind != "without L1")


@pytest.mark.parametrize("kind", PROJECTS)
def test_tiles_lie_in_l1_beside_the_stacks(compiled: dict[str, list[Path]], kind: str) -> None:
    sizes = subprocess.run(
        ["riscv64-unknown-elf-size", "-A", *compiled[kind]], capture_output=True, text=True, check=True
    ).stdout
    in_l1 = {name: int(size) for name, size in re.findall(r"^\.(bss_l1|data_l1)\s+(\d+)", sizes, re.MULTILINE)}
    port = (find_target("pulp").folder / "sdk/port.c").read_text()
    stacks = re.search(r"enum \{ STACK_BYTES = (\d+), WORKER_STACK_BYTES = (\d+) \};", port)
    assert stacks
    assert ("bss_l1" in in_l1) == (kind != "without L1")
    total = sum(in_l1.values()) + int(stacks[1]) + 7 * int(stacks[2])
    assert total <= SDK_L1_BYTES - SDK_OWN_L1_BYTES
    assert not re.search(r"^\.bss\.l1\s", sizes, re.MULTILINE), "which the SDK's linker script places in L2"


def test_both_makefiles_make_the_storage_that_a_run_opens(tmp_path: Path) -> None:
    _emit("training run", tmp_path / "p")
    made = re.search(r"^STORAGE = (.*)$", (tmp_path / "p/Makefile").read_text(), re.MULTILINE)
    touched = re.search(r"&& touch (.*)$", (tmp_path / "p/Makefile.sdk").read_text(), re.MULTILINE)
    assert made
    assert touched
    assert made[1] == touched[1]
    sources = "".join(f.read_text() for f in (tmp_path / "p/trainlib/src").rglob("*.c"))
    opened = set(re.findall(r'port_open\("(.*?)"\)', sources))
    assert opened == {"samples.bin", *made[1].split()}


# --- Xpulpv2 instructions by name -----------------------------------------------------------------------------------

# A macro's use, the name's spelling, and what binutils 2.28 of PULP (-march=rv32imcxgap9) makes of it.
INSTRUCTIONS = (
    ('P_LW("x10", "x11", "4")', "p.lw x10, 4(x11!)", 0x0045A50B),
    ('P_LWR("x10", "x11", "x12")', "p.lw x10, x12(x11!)", 0x20C5F50B),
    ('P_SW("x10", "x11", "8")', "p.sw x10, 8(x11!)", 0x00A5A42B),
    ('LP_SETUP("x12", "9")', "lp.setup x0, x12, 4 * 9", 0x0126407B),
    ('P_MAX("x10", "x11", "x0")', "p.max x10, x11, x0", 0x0405E533),
    ('P_MIN("x10", "x11", "x12")', "p.min x10, x11, x12", 0x04C5C533),
)


def test_an_instruction_is_the_same_by_name_and_by_encoding(tmp_path: Path) -> None:
    if not shutil.which(CC[0]):
        pytest.skip(f"{CC[0]} is missing")
    uses = " ".join(use for use, _, _ in INSTRUCTIONS)
    source = tmp_path / "all.c"
    source.write_text(f'#include "xpulp.h"\nvoid all(void) {{ __asm__ volatile({uses}); }}\n')
    command = [*CC, "-O1", source]
    insn, names = (include_flags("xpulp", f"xpulp_{spelling}") for spelling in ("insn", "names"))
    subprocess.run([*command, *insn, "-c", "-o", tmp_path / "all.o"], check=True)
    subprocess.run(
        ["riscv64-unknown-elf-objcopy", "-O", "binary", "-j", ".text", "all.o", "all.bin"], cwd=tmp_path, check=True
    )
    words = np.frombuffer((tmp_path / "all.bin").read_bytes()[: 4 * len(INSTRUCTIONS)], dtype="<u4")
    assert [f"{word:#x}" for word in words] == [f"{word:#x}" for _, _, word in INSTRUCTIONS]
    by_name = subprocess.run([*command, *names, "-E"], capture_output=True, text=True, check=True)
    literals = "".join(re.findall(r'"((?:[^"\\\n]|\\n)*)"', by_name.stdout.splitlines()[-1]))
    assert literals.split("\\n")[:-1] == [name for _, name, _ in INSTRUCTIONS]


@pytest.mark.parametrize("source", sorted(f.name for f in LIBRARY.glob("src/fast/*.c")))
def test_gcc_takes_the_fast_kernels(source: str, tmp_path: Path) -> None:
    """GCC allows an asm 30 operands, clang more; Debian's shows the limit, though it cannot assemble the names."""
    if not shutil.which("riscv64-unknown-elf-gcc"):
        pytest.skip("riscv64-unknown-elf-gcc is missing")
    flags = ["-std=gnu99", "-O2", "-Wall", "-Wextra", "-Werror", "-march=rv32imc_zicsr_zfinx", "-mabi=ilp32"]
    flags += ["-DNUM_CORES=8", "-ffreestanding"]
    flags += ["-include", str(find_target("pulp").folder / "sdk/sdk.h")]
    includes = include_flags("xpulp", "xpulp_names")
    picolibc = ["-isystem", "/usr/lib/picolibc/riscv64-unknown-elf/include"]
    output = tmp_path / "kernel.s"
    command = [
        "riscv64-unknown-elf-gcc",
        *flags,
        *includes,
        *picolibc,
        "-S",
        "-o",
        output,
        LIBRARY / "src" / "fast" / source,
    ]
    subprocess.run(command, check=True)
    assert ".insn" not in output.read_text()


# --- with the PULP SDK --------------------------------------------------------------------------------------------

_SDK_BUILD = """
source "$PULP_SDK_HOME/configs/pulp-open.sh"
exec make -k -f Makefile.sdk PULP_CC=clang-19 PULP_ARCH_CFLAGS="$FLAGS" "$@"
"""


@pytest.mark.target("pulp")
@pytest.mark.parametrize(
    ("kind", "with_upstream"),
    [*((kind, False) for kind in PROJECTS), ("single steps", True), ("training run", True)],
)
def test_emitted_sources_compile_with_the_sdks_rules_and_headers(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, *, with_upstream: bool
) -> None:
    """Its compiler is not at hand: clang compiles, and tests/pulp_builtins.h declares what it lacks."""
    if not os.environ.get("PULP_SDK_HOME"):
        pytest.skip("PULP_SDK_HOME is not set: no PULP SDK")
    if not shutil.which("clang-19"):
        pytest.skip("clang-19 is missing")
    found = request.getfixturevalue("checkout") if with_upstream else None
    project = _emit(kind, (tmp_path / "project").resolve(), upstream=found)
    sources = _sources((project / "Makefile.sdk").read_text())
    home = str(found.home) if found else ""
    stems = [s.replace("$(TRAINLIB_HOME)", home).removesuffix(".c") for s in [*sources, "src/data"]]
    objects = [f"{project}/BUILD/PULP/GCC_RISCV//tinyclf/{stem}.o" for stem in stems]
    builtins = KIT / "pulp_builtins.h"
    flags = (
        "--target=riscv32-unknown-elf -march=rv32imc_zicsr_zfinx -mabi=ilp32 -ffreestanding -w "
        f"-include {builtins} -idirafter /usr/lib/picolibc/riscv64-unknown-elf/include"
    )
    done = subprocess.run(
        ["bash", "-c", _SDK_BUILD, "sdk", *objects],
        cwd=project,
        env={**os.environ, "FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(Path(o).is_file() for o in objects)
