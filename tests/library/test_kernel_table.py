"""The table of kernels against the library: what its headers declare, and what each row says of them."""

from __future__ import annotations

import re

from tinyclf.base.resources import resource_dir
from tinyclf.device.graph.kernels import KERNELS, TILES, args_struct

LIBRARY = resource_dir("external/pulp-trainlib")
NO_KERNELS = {"tcl_tile_op"}  # it does an operation of the table of tiles


def _declared(what: str) -> dict[str, str]:
    """Return the functions that headers declare with the parameter `what` alone, each with its header."""
    pattern = re.compile(rf"^void (\w+)\({what}\);", re.MULTILINE)
    return {name: h.name for h in LIBRARY.glob("include/*.h") for name in pattern.findall(h.read_text())}


def test_every_kernel_has_a_row_and_every_row_a_kernel() -> None:
    declared = _declared(r"void \*\w+")
    assert {row.symbol: row.header for row in KERNELS.values()} == {
        name: header for name, header in declared.items() if name not in NO_KERNELS
    }


def test_a_kernel_is_called_with_the_struct_of_its_layer() -> None:
    for row in KERNELS.values():
        header = (LIBRARY / "include" / row.header).read_text()
        assert f"void {row.symbol}(void *{row.args});" in header
        assert f"struct {row.args} {{" in header
        assert row.args == args_struct(row.layer)


def test_every_body_of_tiles_is_of_a_row() -> None:
    assert set(TILES) == set(_declared(r"struct tcl_tile const \*tile"))


def test_fast_forms_are_functions_of_the_library() -> None:
    text = "".join(h.read_text() for h in LIBRARY.glob("include/tcl_fast_*.h"))
    for row in KERNELS.values():
        assert not [form.symbol for form in row.fast if f"void {form.symbol}(" not in text]
        bodies = [form.body for form in row.fast]
        assert len(set(bodies)) == len(bodies)
        assert set(bodies) <= {tile.symbol for tile in row.tiles}


def test_a_body_has_a_fast_form_if_it_calls_one() -> None:
    """Of bodies whose C file calls tcl_fast_* functions: those of windows, products, global pooling, bias gradients."""
    fast = {form.body: form.symbol for row in KERNELS.values() for form in row.fast}
    called: dict[str, str] = {}
    for file in LIBRARY.glob("src/tiles/tile_*.c"):
        for body, code in re.findall(
            r"^void (tcl_tile_\w+)\(.*?\)\n\{\n(.*?)^\}", file.read_text(), re.MULTILINE | re.DOTALL
        ):
            functions = re.findall(r"\b(tcl_fast_\w+)\(", code)
            if functions and body in TILES:
                called[body] = functions[0]
    indirect = {"tcl_tile_bias_wg": "tcl_fast_bias_act_bw_fp32"}  # by a function that other bodies call too
    products = {body: name for body, name in called.items() if name.startswith("tcl_fast_pw_")}
    assert set(products) == {body for body, name in fast.items() if body.startswith("tcl_tile_pw_")}
    of_parts = {body: called[tile.calls[0]] for body, tile in TILES.items() if tile.calls}
    assert fast == {**called, **dict.fromkeys(products, "tcl_fast_gemm_fp32"), **indirect, **of_parts}
