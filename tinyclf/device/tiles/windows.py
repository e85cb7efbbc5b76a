"""Sizes of layers as tiles see them: windows that move over images, and groups of channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from tinyclf.device.tiles.choose import Axis


@dataclass(frozen=True)
class TileWindow:
    """Sizes of a layer with a window: of its input, output and kernel planes (height, width), and how it moves."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]  # above and left; below and right it follows from the sizes

    def input_rows(self, loop: int) -> Axis:
        """Return the rows of the input that a tile of rows of the output meets."""
        (height, _), stride, pad, kernel = self.inputs, self.stride[0], self.pad[0], self.kernel[0]
        return Axis(height, loop, lambda rows: (rows * stride, (rows - 1) * stride + kernel, pad))

    def output_rows(self, loop: int) -> Axis:
        """Return the rows of the output that a tile of rows of the input meets; it is a multiple of the stride."""
        stride, pad, kernel = self.stride[0], self.pad[0], self.kernel[0]
        # No later than the row whose window begins at the tile: bodies count from there.
        first = min(-((kernel - 1 - pad) // stride), pad // stride)

        def rows_met(rows: int) -> tuple[int, int, int]:
            step = ceil(rows / stride)
            return step, (rows - 1 + pad) // stride + 1 - first, -first

        return Axis(self.outputs[0], loop, rows_met)

    @property
    def has_usual_columns(self) -> bool:
        """Tell whether windows are fast, as far as columns tell: has_usual_columns of fast_rows.h says the same."""
        strides = {1: self.outputs[1], 2: 2 * self.outputs[1]}
        is_3x3 = self.kernel == (3, 3) and self.stride[0] == self.stride[1]
        return is_3x3 and strides.get(self.stride[1]) == self.inputs[1] >= 2 and self.pad[1] == 1

    @classmethod
    def of_fields(cls, fields: Mapping[str, int | float]) -> TileWindow:
        """Return the window that fields of struct tcl_layer describe; those that are not named are 0."""
        pairs = ("in_height in_width", "out_height out_width", "kernel_height kernel_width", "stride_h stride_w")
        inputs, outputs, kernel, stride, pad = (
            (int(fields.get(first, 0)), int(fields.get(second, 0)))
            for first, second in (pair.split() for pair in (*pairs, "pad_top pad_left"))
        )
        return cls(inputs, outputs, kernel, stride, pad)

    @property
    def fields(self) -> tuple[tuple[str, int | float], ...]:
        """Return the fields of struct tcl_layer."""
        names = ["in_height", "in_width", "out_height", "out_width", "kernel_height", "kernel_width"]
        names += ["stride_h", "stride_w", "pad_top", "pad_left"]
        values = (*self.inputs, *self.outputs, *self.kernel, *self.stride, *self.pad)
        return tuple((name, value) for name, value in zip(names, values, strict=True) if value)


@dataclass(frozen=True)
class Groups:
    """A convolution in groups of channels: how many groups, and the input and output channels of each."""

    num: int
    inputs: int
    outputs: int

    def channels(self, of_each: int) -> Axis:
        """Return the channels of a tile of whole groups, loop 0, each of `of_each` channels."""
        return Axis(self.num * of_each, 0, lambda groups: (groups * of_each, groups * of_each, 0))
