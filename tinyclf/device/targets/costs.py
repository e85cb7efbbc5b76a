"""What operations on tiles cost on a target, in cycles: the figures of the model by which tiles are chosen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DmaCosts:
    """A copy between L2 and L1."""

    bytes_per_cycle: float
    latency: float  # until the first byte has come from L2
    row: float  # of each row of a copy in rows
    change: float  # of each copy, beside its bytes
    copy: float  # bookkeeping of a copy


@dataclass(frozen=True)
class GemmCosts:
    """A product of matrices (m, k) x (k, n), in blocks of 4 rows and 4 columns; see tcl_fast_gemm_fp32."""

    block: float
    block_term: float  # of each of k
    column: float  # of one column that is left over
    column_term: float
    strip: float  # of each strip of rows
    start: float


@dataclass(frozen=True)
class WindowCosts:
    """Convolutions by their windows: depthwise, and 3x3 from few channels; and columns of other convolutions."""

    mac: float
    fast_mac: float  # of a 3x3 window
    row: float
    start: float
    first_layer_mac: float
    first_layer_start: float
    group: float  # of each of the groups of channels of a tile
    columns_per_cycle: float  # elements copied to where a product of matrices takes them
    gradient_columns_per_cycle: float  # the same of a gradient by the input


@dataclass(frozen=True)
class ElementCosts:
    """What is done element by element, on one core but for what a gradient's tile does besides."""

    map: float
    update: float  # by a rule, without a state
    update_of_state: float
    move: float
    scale: float
    scale_channel: float
    bias: float
    pool: float  # global
    pool_channel: float
    pool_tap: float  # of a window
    pool_output: float
    mask: float
    bias_per_cycle: float  # elements summed beside a weight gradient
    descent: float  # of a weight that is updated with its gradient
    descent_at_once: float  # the same where the gradient's sum is whole
    start: float


@dataclass(frozen=True)
class Costs:
    """The figures of a target; `cores` share an operation, `tile` is the bookkeeping of each."""

    cores: int
    tile: float
    dma: DmaCosts
    gemm: GemmCosts
    window: WindowCosts
    element: ElementCosts
