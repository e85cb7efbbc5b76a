"""The table of kernels: one row for each C function that a call can name, and all that Python knows of it.

A row is found by its symbol, or by its key: layer, direction, types of its operands. A layer costs its class in
`lowering/`, its rows here, and its C file with the header that declares its args struct.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from tinyclf.device.graph.dtypes import FLOAT32, INT8, DataType
from tinyclf.device.graph.ir import Graph, Role
from tinyclf.device.graph.tile_bodies import (
    GRADS,
    GRADS_OF_GROUPS,
    MASKED,
    OF_GROUPS,
    OF_PARAMETERS,
    OF_W,
    UPDATED,
    Tile,
    both,
    elementwise,
    map_tile,
)
from tinyclf.recipe.optimizers import OPTIMIZERS, Optimizer

# Directions of a layer. BW: both gradients by one function, of upstream's API; no graph has such a call.
FW, IG, WG, BW, UPDATE = "forward", "input gradient", "parameter gradients", "backward", "update"
ACT_NONE, ACT_RELU, ACT_RELU6 = 0, 1, 2  # enum tcl_act


class Launch(Enum):
    """On which cores the caller runs a kernel."""

    ITSELF = "itself"  # called on one core, it forks
    EVERY_CORE = "the caller, on every core"
    ONE_CORE = "the caller, on one core"


@dataclass(frozen=True)
class Kink:
    """Where the derivative of a layer jumps: at which inputs (none: where two inputs are the same).

    `of`: which of the layer's tensors the backward pass reads to tell on which side it is, "input" or "output".
    """

    of: str
    places: tuple[float, ...] = ()


@dataclass(frozen=True)
class FastForm:
    """A function for the same values with inner loops in `instructions`, and when it is called.

    Attributes:
        symbol: its name.
        body: the body of tiles that calls it, of those of the kernel.
        instructions: the folder of src/fast with its inner loops.
        condition: what it asks of the layer, in words; empty: nothing.
        of_usual_columns: its inner loops do what TileWindow.has_usual_columns says, the rest of it is plain C.
    """

    symbol: str
    body: str
    instructions: str = "xpulp"
    condition: str = ""
    of_usual_columns: bool = False


@dataclass(frozen=True)
class Kernel:
    """A row: one C function.

    Attributes:
        symbol: its name, whole.
        layer: what it is a direction of; the `kind` of nodes.
        direction: FW, IG, WG, BW or UPDATE.
        header: the file of include/ that declares it.
        args: the struct that it is called with.
        launch: on which cores it runs.
        types: of its operands: of what it reads, then of what it writes; one for all if they are alike.
        by_rows: rows of the weight gradient, output channels, can be computed apart from the whole of the input.
        kink: of a backward pass, where the derivative jumps.
        act: of an activation that other operations can do on their own tiles: its number in enum tcl_act.
        tiles: bodies that do it on tiles, the usual one first.
        fast: what those call; a body without one is plain C.
        ours: why it is never upstream's; empty: external/pulp-trainlib/upstream.toml says when it is.
    """

    symbol: str
    layer: str
    direction: str
    header: str
    args: str
    launch: Launch = Launch.ITSELF
    types: tuple[DataType, ...] = (FLOAT32,)
    by_rows: bool = False
    kink: Kink | None = None
    act: int = ACT_NONE
    tiles: tuple[Tile, ...] = ()
    fast: tuple[FastForm, ...] = ()
    ours: str = ""

    @property
    def key(self) -> tuple[str, str, tuple[DataType, ...]]:
        """Return what it is found by."""
        return self.layer, self.direction, self.types

    @property
    def tile(self) -> Tile | None:
        """Return the usual body of tiles; None: it is done where the tensors lie."""
        return self.tiles[0] if self.tiles else None


_CONV3 = "3x3, stride 2, padding 1, even width, at most 4 input channels"


def _gemm(body: str) -> tuple[FastForm, ...]:
    return (FastForm("tcl_fast_gemm_fp32", body),)


def _window(direction: str) -> tuple[FastForm, ...]:
    condition = "3x3, stride 1 or 2 both ways, padding 1, even width at stride 2"
    body = f"tcl_tile_dw_{direction}"
    return (FastForm(f"tcl_fast_dw_{direction}_fp32", body, condition=condition, of_usual_columns=True),)


_NO_BIAS = "upstream has no bias for depthwise and pointwise convolutions"
_NO_RULE = "upstream has plain gradient descent only"
_NO_RELU6, _NO_PADDING = "upstream has no ReLU6", "upstream's pooling has no padding"
_NO_GROUPS = "upstream has no convolution in groups and no dilation"
_NO_CASTS = "upstream has no casts to and from int8"
_NO_MOVES = "upstream has no layers that join, slice, shuffle or pad"

_POINTWISE = ("pulp_conv_pw_fp32.h", "PointWise_Conv_args")
_DEPTHWISE = ("pulp_conv_dw_fp32.h", "DepthWise_Conv_args")
_CONV = ("pulp_conv2d_fp32.h", "Conv2D_args")
_LINEAR = ("pulp_linear_fp32.h", "Linear_args")
_GROUPED = ("tcl_conv_group_fp32.h", "tcl_conv_group_args")
_CHANNELS = "tcl_channels_fp32.h"
_PAD = ("tcl_pad_fp32.h", "tcl_pad_args", Launch.EVERY_CORE)
_LOSS = ("pulp_losses_fp32.h", "loss_args")

_PW_FW = Tile("tcl_tile_pw_fw", "pointwise", ("Y",), (("X.columns", "Y.columns"), *OF_W), ("X.rows", "W.columns"))
_PW_IG = Tile(
    "tcl_tile_pw_ig",
    "pointwise",
    ("DX",),
    (("DY.columns", "DX.columns"), ("W.rows", "DY.rows"), ("W.columns", "DX.rows"), *MASKED),
    ("DY.rows", "W.rows"),
)
_PW_WG = Tile(
    "tcl_tile_pw_wg",
    "pointwise",
    OF_PARAMETERS,
    (("X.columns", "DY.columns"), *GRADS, *UPDATED),
    ("X.columns", "DY.columns"),
)
_CONV_IG = (("W.rows", "DY.rows"), ("W.columns", "DX.rows"), *MASKED)
_GROUP_FW, _GROUP_WG, _GROUP_IG = (
    Tile(f"tcl_tile_group_{name}", "grouped", outputs, alike, sums, calls=(f"tcl_tile_conv_{name}",))
    for name, outputs, alike, sums in (
        ("fw", ("Y",), OF_GROUPS, ("W.columns",)),
        ("wg", OF_PARAMETERS, (*GRADS_OF_GROUPS, *UPDATED), ("DY.columns",)),
        ("ig", ("DX",), (("W.rows", "DY.rows"), *MASKED), ("W.columns",)),
    )
)
_DW_FW = (("X.rows", "Y.rows"), ("W.rows", "Y.rows"), ("B.rows", "Y.rows"))
_DW_IG = (("DY.rows", "DX.rows"), ("W.rows", "DX.rows"), *MASKED)
_DW_WG = (("DW.rows", "DY.rows"), ("X.rows", "DY.rows"), *UPDATED)
_BIAS_WG = Tile("tcl_tile_bias_wg", "bias", ("DB",), (("DB.rows", "DY.rows"), *UPDATED), ("DY.columns",))
_RELU_FW, _RELU_BW = map_tile("tcl_tile_relu_fw", ("X",), "Y"), map_tile("tcl_tile_relu_bw", ("MASK", "DY"), "DX")
_ACTIVATION = ("tcl_activations_fp32.h", "tcl_activation_args", Launch.EVERY_CORE)
_SCALE = ("tcl_scale_fp32.h", "tcl_scale_args", Launch.EVERY_CORE)
_AVGPOOL = ("tcl_avgpool_fp32.h", "tcl_avgpool_args", Launch.EVERY_CORE)
_NO_ACTIVATION, _NO_PRODUCT = "upstream has no such activation", "upstream has no product of activations"
_SCALED = Tile("tcl_tile_scale", "scale", ("Y",), (*both(("X", "Y")), ("W.rows", "Y.rows")))
_MOVE, _FILL = Tile("tcl_tile_move", "move", ("Y",), both(("X", "Y"))), Tile("tcl_tile_fill", "move", ("Y",))
_X_TO_Y, _DY_TO_DX = (("X.rows", "Y.rows"),), (("DY.rows", "DX.rows"),)


def _update(row: Optimizer) -> Kernel:
    """Return the row of the kernel of an optimizer."""
    states = [slot for number, _ in enumerate(row.states, start=1) for slot in (f"STATE{number}", f"STATE{number}_NEW")]
    body = elementwise(row.body, "W_NEW", "W", "DW", *states, kind="update")
    header, args = "tcl_update_fp32.h", "tcl_update_args"
    return Kernel(row.kernel, row.name, UPDATE, header, args, Launch.EVERY_CORE, tiles=(body,), ours=_NO_RULE)


# In the order of the headers, and in each of its declarations.
_ROWS = (
    Kernel("pulp_relu_fp32_fw_cl", "relu", FW, "pulp_act_fp32.h", "act_args", act=ACT_RELU, tiles=(_RELU_FW,)),
    Kernel("pulp_relu_fp32_bw_cl", "relu", IG, "pulp_act_fp32.h", "act_args", act=ACT_RELU, tiles=(_RELU_BW,),
           kink=Kink("output", (0.0,))),
    Kernel("pulp_conv2d_fp32_fw_cl", "convolution", FW, *_CONV,
           tiles=(Tile("tcl_tile_conv_fw", "convolution", ("Y",), OF_W, ("X.rows", "W.columns")),
                  Tile("tcl_tile_conv3_fw", "convolution", ("Y",), OF_W, ("X.rows", "W.columns"))),
           fast=(*_gemm("tcl_tile_conv_fw"), FastForm("tcl_fast_conv_fw_fp32", "tcl_tile_conv3_fw", condition=_CONV3))),
    Kernel("pulp_conv2d_fp32_bw_cl", "convolution", BW, *_CONV),
    Kernel("pulp_conv2d_fp32_bw_param_grads_cl", "convolution", WG, *_CONV, by_rows=True,
           tiles=(Tile("tcl_tile_conv_wg", "convolution", OF_PARAMETERS, (*GRADS, *UPDATED), ("DY.columns",)),
                  Tile("tcl_tile_conv3_wg", "convolution", OF_PARAMETERS, (*GRADS, *UPDATED), ("DY.columns",))),
           fast=(*_gemm("tcl_tile_conv_wg"), FastForm("tcl_fast_conv_wg_fp32", "tcl_tile_conv3_wg", condition=_CONV3))),
    Kernel("pulp_conv2d_fp32_bw_input_grads_cl", "convolution", IG, *_CONV, fast=_gemm("tcl_tile_conv_ig"),
           tiles=(Tile("tcl_tile_conv_ig", "convolution", ("DX",), _CONV_IG, ("DY.rows", "W.rows")),)),
    Kernel("pulp_conv_dw_fp32_fw_cl", "depthwise", FW, *_DEPTHWISE,
           tiles=(Tile("tcl_tile_dw_fw", "depthwise", ("Y",), _DW_FW),),
           fast=_window("fw")),
    Kernel("pulp_conv_dw_fp32_bw_cl", "depthwise", BW, *_DEPTHWISE),
    Kernel("pulp_conv_dw_fp32_bw_param_grads_cl", "depthwise", WG, *_DEPTHWISE,
           tiles=(Tile("tcl_tile_dw_wg", "depthwise", OF_PARAMETERS, _DW_WG, ("DY.columns",)),),
           fast=_window("wg")),
    Kernel("pulp_conv_dw_fp32_bw_input_grads_cl", "depthwise", IG, *_DEPTHWISE,
           tiles=(Tile("tcl_tile_dw_ig", "depthwise", ("DX",), _DW_IG),),
           fast=_window("ig")),
    Kernel("pulp_conv_pw_fp32_fw_cl", "pointwise", FW, *_POINTWISE, tiles=(_PW_FW,), fast=_gemm(_PW_FW.symbol)),
    Kernel("pulp_conv_pw_fp32_bw_cl", "pointwise", BW, *_POINTWISE),
    Kernel("pulp_conv_pw_fp32_bw_param_grads_cl", "pointwise", WG, *_POINTWISE, by_rows=True, tiles=(_PW_WG,),
           fast=_gemm(_PW_WG.symbol)),
    Kernel("pulp_conv_pw_fp32_bw_input_grads_cl", "pointwise", IG, *_POINTWISE, tiles=(_PW_IG,),
           fast=_gemm(_PW_IG.symbol)),
    Kernel("pulp_linear_fp32_fw_cl", "linear", FW, *_LINEAR, tiles=(_PW_FW,), fast=_gemm(_PW_FW.symbol)),
    Kernel("pulp_linear_fp32_bw_cl", "linear", BW, *_LINEAR),
    Kernel("pulp_linear_fp32_bw_param_grads_cl", "linear", WG, *_LINEAR, by_rows=True, tiles=(_PW_WG,),
           fast=_gemm(_PW_WG.symbol)),
    Kernel("pulp_linear_fp32_bw_input_grads_cl", "linear", IG, *_LINEAR, tiles=(_PW_IG,), fast=_gemm(_PW_IG.symbol)),
    Kernel("pulp_CrossEntropyLoss", "cross_entropy", FW, *_LOSS, launch=Launch.ONE_CORE),
    Kernel("pulp_CrossEntropyLoss_backward", "cross_entropy", IG, *_LOSS, launch=Launch.ONE_CORE),
    Kernel("pulp_MSELoss", "mse", FW, *_LOSS, launch=Launch.ONE_CORE),
    Kernel("pulp_MSELoss_backward", "mse", IG, *_LOSS, launch=Launch.ONE_CORE),
    Kernel("pulp_gradient_descent_fp32", "descent", UPDATE, "pulp_optimizers_fp32.h", "optim_args",
           launch=Launch.EVERY_CORE, tiles=(elementwise("tcl_tile_descend", "W_NEW", "W", "DW", kind="descent"),)),
    Kernel("pulp_avgpool_fp32_fw_cl", "avgpool", FW, "pulp_pooling_fp32.h", "pool_args", launch=Launch.EVERY_CORE,
           tiles=(Tile("tcl_tile_avgpool_fw", "planes", ("Y",), _X_TO_Y),
                  Tile("tcl_tile_globalpool_fw", "global", ("Y",), _X_TO_Y, ("X.columns",))),
           fast=(FastForm("tcl_fast_avgpool_fw_fp32", "tcl_tile_globalpool_fw", condition="global"),)),
    Kernel("pulp_avgpool_fp32_bw_cl", "avgpool", IG, "pulp_pooling_fp32.h", "pool_args", launch=Launch.EVERY_CORE,
           tiles=(Tile("tcl_tile_avgpool_bw", "planes", ("DX",), _DY_TO_DX),
                  Tile("tcl_tile_globalpool_bw", "global", ("DX",), (*_DY_TO_DX, *MASKED))),
           fast=(FastForm("tcl_fast_avgpool_bw_fp32", "tcl_tile_globalpool_bw", condition="global"),)),
    Kernel("tcl_sigmoid_fp32_fw_cl", "sigmoid", FW, *_ACTIVATION, ours=_NO_ACTIVATION,
           tiles=(map_tile("tcl_tile_sigmoid_fw", ("X",), "Y"),)),
    Kernel("tcl_sigmoid_fp32_bw_cl", "sigmoid", IG, *_ACTIVATION, ours=_NO_ACTIVATION,
           tiles=(map_tile("tcl_tile_sigmoid_bw", ("MASK", "DY"), "DX"),)),
    Kernel("tcl_silu_fp32_fw_cl", "silu", FW, *_ACTIVATION, ours=_NO_ACTIVATION,
           tiles=(map_tile("tcl_tile_silu_fw", ("X",), "Y"),)),
    Kernel("tcl_silu_fp32_bw_cl", "silu", IG, *_ACTIVATION, ours=_NO_ACTIVATION,
           tiles=(map_tile("tcl_tile_silu_bw", ("X", "DY"), "DX"),)),
    Kernel("tcl_hardsigmoid_fp32_fw_cl", "hardsigmoid", FW, *_ACTIVATION, ours=_NO_ACTIVATION,
           tiles=(map_tile("tcl_tile_hardsigmoid_fw", ("X",), "Y"),)),
    Kernel("tcl_hardsigmoid_fp32_bw_cl", "hardsigmoid", IG, *_ACTIVATION, ours=_NO_ACTIVATION,
           kink=Kink("output", (-3.0, 3.0)), tiles=(map_tile("tcl_tile_hardsigmoid_bw", ("MASK", "DY"), "DX"),)),
    Kernel("tcl_hardswish_fp32_fw_cl", "hardswish", FW, *_ACTIVATION, ours=_NO_ACTIVATION,
           tiles=(map_tile("tcl_tile_hardswish_fw", ("X",), "Y"),)),
    Kernel("tcl_hardswish_fp32_bw_cl", "hardswish", IG, *_ACTIVATION, ours=_NO_ACTIVATION,
           kink=Kink("input", (-3.0, 3.0)), tiles=(map_tile("tcl_tile_hardswish_bw", ("X", "DY"), "DX"),)),
    Kernel("tcl_leaky_relu_fp32_fw_cl", "leaky_relu", FW, *_ACTIVATION, ours=_NO_ACTIVATION,
           tiles=(map_tile("tcl_tile_leaky_relu_fw", ("X",), "Y", fields=("slope",)),)),
    Kernel("tcl_leaky_relu_fp32_bw_cl", "leaky_relu", IG, *_ACTIVATION, ours=_NO_ACTIVATION,
           kink=Kink("output", (0.0,)),
           tiles=(map_tile("tcl_tile_leaky_relu_bw", ("MASK", "DY"), "DX", fields=("slope",)),)),
    Kernel("tcl_add_fp32_cl", "add", FW, "tcl_add_fp32.h", "tcl_add_args",
           tiles=(elementwise("tcl_tile_add", "Y", "X", "DY", "MASK", kind="sum"),),
           ours="upstream's residual connections pass gradients on by themselves"),
    Kernel("tcl_avgpool_fp32_fw_cl", "avgpool_padded", FW, *_AVGPOOL, ours=_NO_PADDING,
           tiles=(Tile("tcl_tile_avgpool_padded_fw", "planes", ("Y",), _X_TO_Y, fields=("count_padding",)),)),
    Kernel("tcl_avgpool_fp32_bw_cl", "avgpool_padded", IG, *_AVGPOOL, ours=_NO_PADDING,
           tiles=(Tile("tcl_tile_avgpool_padded_bw", "planes", ("DX",), _DY_TO_DX, fields=("count_padding",)),)),
    Kernel("tcl_bias_fp32_fw_cl", "bias", FW, "tcl_bias_fp32.h", "tcl_bias_args", ours=_NO_BIAS),
    Kernel("tcl_bias_fp32_bw_param_grads_cl", "bias", WG, "tcl_bias_fp32.h", "tcl_bias_args", tiles=(_BIAS_WG,),
           fast=(FastForm("tcl_fast_bias_act_bw_fp32", _BIAS_WG.symbol),), ours=_NO_BIAS),
    Kernel("tcl_cast_fp32_int8_cl", "cast", FW, "tcl_cast.h", "tcl_cast_args", types=(FLOAT32, INT8), ours=_NO_CASTS),
    Kernel("tcl_cast_int8_fp32_cl", "cast", FW, "tcl_cast.h", "tcl_cast_args", types=(INT8, FLOAT32), ours=_NO_CASTS),
    Kernel("tcl_maxpool_fp32_fw_cl", "maxpool", FW, "tcl_maxpool_fp32.h", "tcl_maxpool_args", ours=_NO_PADDING,
           tiles=(Tile("tcl_tile_maxpool_fw", "planes", ("Y",), _X_TO_Y),)),
    Kernel("tcl_maxpool_fp32_bw_cl", "maxpool", IG, "tcl_maxpool_fp32.h", "tcl_maxpool_args", ours=_NO_PADDING,
           tiles=(Tile("tcl_tile_maxpool_bw", "planes", ("DX",), (*_DY_TO_DX, ("X.rows", "DX.rows"))),),
           kink=Kink("input")),
    Kernel("tcl_relu6_fp32_fw_cl", "relu6", FW, "tcl_relu6_fp32.h", "tcl_relu6_args", act=ACT_RELU6,
           tiles=(_RELU_FW,), ours=_NO_RELU6),
    Kernel("tcl_relu6_fp32_bw_cl", "relu6", IG, "tcl_relu6_fp32.h", "tcl_relu6_args", act=ACT_RELU6,
           tiles=(_RELU_BW,), kink=Kink("output", (0.0, 6.0)), ours=_NO_RELU6),
    Kernel("tcl_scale_fp32_fw_cl", "scale", FW, *_SCALE, tiles=(_SCALED,), ours=_NO_PRODUCT),
    Kernel("tcl_scale_fp32_bw_input_grads_cl", "scale", IG, *_SCALE, tiles=(_SCALED,), ours=_NO_PRODUCT),
    Kernel("tcl_scale_fp32_bw_factor_grads_cl", "scale", WG, *_SCALE, ours=_NO_PRODUCT,
           tiles=(Tile("tcl_tile_scale_wg", "scale", ("DW",), (*both(("X", "DY")), ("DW.rows", "X.rows")),
                       ("X.columns",)),)),
    Kernel("tcl_conv_group_fp32_fw_cl", "grouped", FW, *_GROUPED, ours=_NO_GROUPS, tiles=(_GROUP_FW,),
           fast=_gemm(_GROUP_FW.symbol)),
    Kernel("tcl_conv_group_fp32_bw_param_grads_cl", "grouped", WG, *_GROUPED, ours=_NO_GROUPS, tiles=(_GROUP_WG,),
           fast=_gemm(_GROUP_WG.symbol)),
    Kernel("tcl_conv_group_fp32_bw_input_grads_cl", "grouped", IG, *_GROUPED, ours=_NO_GROUPS, tiles=(_GROUP_IG,),
           fast=_gemm(_GROUP_IG.symbol)),
    Kernel("tcl_join_fp32_fw_cl", "join", FW, _CHANNELS, "tcl_join_args", ours=_NO_MOVES, tiles=(_MOVE,)),
    Kernel("tcl_join_fp32_bw_cl", "join", IG, _CHANNELS, "tcl_join_args", ours=_NO_MOVES, tiles=(_MOVE,)),
    Kernel("tcl_slice_fp32_fw_cl", "slice", FW, _CHANNELS, "tcl_slice_args", ours=_NO_MOVES, tiles=(_MOVE,)),
    Kernel("tcl_slice_fp32_bw_cl", "slice", IG, _CHANNELS, "tcl_slice_args", ours=_NO_MOVES, tiles=(_MOVE, _FILL)),
    Kernel("tcl_shuffle_fp32_fw_cl", "shuffle", FW, _CHANNELS, "tcl_shuffle_args", ours=_NO_MOVES, tiles=(_MOVE,)),
    Kernel("tcl_shuffle_fp32_bw_cl", "shuffle", IG, _CHANNELS, "tcl_shuffle_args", ours=_NO_MOVES, tiles=(_MOVE,)),
    Kernel("tcl_pad_fp32_fw_cl", "pad", FW, *_PAD, ours=_NO_MOVES,
           tiles=(Tile("tcl_tile_pad_fw", "planes", ("Y",), _X_TO_Y, fields=("value",)),)),
    Kernel("tcl_pad_fp32_bw_cl", "pad", IG, *_PAD, ours=_NO_MOVES,
           tiles=(Tile("tcl_tile_pad_bw", "planes", ("DX",), _DY_TO_DX),)),
    *map(_update, OPTIMIZERS.values()),
    Kernel("tcl_accumulate_fp32", "accumulate", UPDATE, "tcl_update_fp32.h", "tcl_accumulate_args",
           launch=Launch.EVERY_CORE, ours=_NO_RULE,
           tiles=(elementwise("tcl_tile_accumulate", "STATE1_NEW", "STATE1", "DW", kind="accumulate"),)),
    Kernel("tcl_squared_norm_fp32", "norm", UPDATE, "tcl_update_fp32.h", "tcl_norm_args", launch=Launch.EVERY_CORE,
           ours=_NO_RULE),
    Kernel("tcl_clip_fp32", "clip", UPDATE, "tcl_update_fp32.h", "tcl_clip_args", launch=Launch.ONE_CORE,
           ours=_NO_RULE),
)  # fmt: skip


def _by_symbol(rows: Iterable[Kernel]) -> Mapping[str, Kernel]:
    table = {row.symbol: row for row in rows}
    assert len({row.key for row in table.values()}) == len(_ROWS), "two rows share a symbol or a key"
    return MappingProxyType(table)


KERNELS = _by_symbol(_ROWS)
_BY_KEY = {row.key: row for row in _ROWS}
TILES = MappingProxyType({tile.symbol: tile for row in _ROWS for tile in row.tiles})
DIRECTIONS = MappingProxyType({tile.symbol: row.direction for row in _ROWS for tile in row.tiles})  # of bodies


def find(layer: str, direction: str, types: tuple[DataType, ...] = (FLOAT32,)) -> Kernel:
    """Return the row of a layer's direction."""
    return _BY_KEY[layer, direction, types]


def check_operands(graph: Graph) -> None:
    """Assert that every call is on operands of the types of its row; what names no array in C is of any type."""
    for call in graph.calls:
        types = KERNELS[call.kernel].types
        for names, dtype in ((call.reads, types[0]), (call.writes, types[-1])):
            operands = [graph.by_name[name] for name in names]
            scales = {t.scale for t in operands}
            for t in operands:
                is_right = t.dtype is dtype or t.name in scales or t.role is Role.RULE
                assert is_right, f"{call.kernel} of {call.node} is for {dtype.name}, {t.name} is of {t.dtype.name}"


def args_struct(layer: str) -> str:
    """Return the struct that the kernels of a layer are called with."""
    return next(row.args for row in _ROWS if row.layer == layer)


def plane_bodies() -> frozenset[str]:
    """Return the bodies that work on whole planes, and whose work the plain kernel can as well do on L2."""
    return frozenset(tile.symbol for tile in TILES.values() if tile.kind == "planes")
