"""Inner loops, one folder for each set of instructions: alike to the walks, chosen by the build alone."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import pytest

from tests.kit.paths import LIBRARY, include_flags
from tinyclf.device.tiles.windows import TileWindow

FAST = LIBRARY / "src" / "fast"
SETS = (("plain",), ("xpulp", "xpulp_insn"), ("xpulp", "xpulp_names"))  # what builds choose
MOST_PARAMETERS = 8


def conditions_within_functions(text: str) -> list[int]:
    """Return the lines that choose by the preprocessor what is compiled of a function, an array or a struct."""
    text = re.sub(r"/\*.*?\*/", lambda comment: "\n" * comment[0].count("\n"), text, flags=re.DOTALL)
    lines, depth = [], 0
    for number, line in enumerate(text.split("\n"), start=1):
        if re.match(r"\s*#\s*(if|el)", line) and depth > 0:
            lines.append(number)
        if not line.lstrip().startswith("#"):
            code = re.sub(r'"(\\.|[^"\\])*"|\'(\\.|[^\'\\])\'', "", line)
            depth += code.count("{") - code.count("}")
    return lines


def test_no_function_is_compiled_in_part() -> None:
    sources = list(LIBRARY.rglob("*.[ch]"))
    assert {str(f): found for f in sources if (found := conditions_within_functions(f.read_text()))} == {}
    wrong = "#ifdef A\nint f(void)\n{\n#ifdef B /* { */\n    return 1;\n#else\n    return 2;\n#endif\n}\n#endif\n"
    assert conditions_within_functions(wrong) == [4, 6]


def _found(names: tuple[str, ...], header: str) -> Path:
    return next(path for name in names if (path := FAST / name / header).is_file())


def _functions(header: Path) -> set[tuple[str, str]]:
    """Return the names and parameters of the functions that are there for others: those that every set has."""
    text = header.read_text()
    including = re.search(r'^#include "(\.\./plain/.*?)"', text, re.MULTILINE)
    if including:
        return _functions(header.parent / including[1])
    found = re.findall(r"^static (?:inline )?\w+ (\w+)\(([^)]*)\)\n\{", text, re.MULTILINE)
    return {(name, " ".join(parameters.split())) for name, parameters in found}


def test_every_set_has_the_same_inner_loops() -> None:
    headers = {f.name for f in FAST.glob("*/inner_*.h")}
    assert headers == {f.name for f in FAST.glob("plain/inner_*.h")}
    for header in headers:
        plain, *others = (_functions(_found(names, header)) for names in SETS)
        walks = " ".join(f.read_text() for f in (*FAST.glob("*.[ch]"), *LIBRARY.glob("include/*.h")))
        called = {function for function in plain if re.search(rf"\b{function[0]}\(", walks)}
        assert called, header
        assert all(called <= other for other in others), header


def test_functions_have_few_parameters() -> None:
    declared = re.compile(r"^[a-z][\w *]*?\b(\w+)\(([^()]*)\)\s*[{;]", re.MULTILINE)
    for file in LIBRARY.rglob("*.[ch]"):
        text = re.sub(r"/\*.*?\*/", "", file.read_text(), flags=re.DOTALL)
        many = [name for name, parameters in declared.findall(text) if parameters.count(",") >= MOST_PARAMETERS]
        assert not many, f"{file}: a struct in place of the many parameters of {many}"


def _windows() -> list[tuple[int, ...]]:
    """Return windows as struct tcl_window has them: the usual ones and what differs from them in each way."""
    sizes = [(1, 1), (1, 2), (2, 2), (4, 4), (7, 7), (8, 4), (7, 4), (9, 4), (8, 3)]  # width of input and output
    kernels, strides, pads = [(3, 3), (3, 1), (5, 5)], [(1, 1), (2, 2), (1, 2), (2, 1), (3, 3)], (0, 1, 2)
    return [
        (9, width, 9, out, *kernel, *stride, 1, pad)
        for (width, out), kernel, stride, pad in itertools.product(sizes, kernels, strides, pads)
    ]


@pytest.mark.target("host")
def test_what_is_fast_is_the_same_in_c_and_in_python(tmp_path: Path) -> None:
    windows = _windows()
    rows = ",\n".join(f"    {{{', '.join(map(str, window))}}}" for window in windows)
    (tmp_path / "usual.c").write_text(
        f"""#include <stdio.h>
#include "fast_rows.h"
void port_panic(char const *file, int line)
{{
    (void)file, (void)line;
}}
static struct tcl_window const windows[] = {{
{rows}
}};
int main(void)
{{
    for (unsigned i = 0; i < sizeof windows / sizeof windows[0]; i++)
        putchar('0' + has_usual_columns(&windows[i]));
    return 0;
}}
"""
    )
    flags = ["-std=c99", "-DNUM_CORES=1", *include_flags("plain"), f"-I{FAST}"]
    subprocess.run(["cc", *flags, "-o", tmp_path / "usual", tmp_path / "usual.c"], check=True)
    printed = subprocess.run([tmp_path / "usual"], capture_output=True, text=True, check=True).stdout
    said = [
        TileWindow(inputs=w[:2], outputs=w[2:4], kernel=w[4:6], stride=w[6:8], pad=w[8:10]).has_usual_columns  # type: ignore[arg-type]
        for w in windows
    ]
    assert [digit == "1" for digit in printed] == said
    assert 0 < sum(said) < len(said)
