"""One class per layer: the torch type, its shapes, the args struct, the kernels of each direction, test cases."""

from __future__ import annotations

from tinyclf.device.lowering.elementwise import Add, ReLU, ReLU6
from tinyclf.device.lowering.layer import Case, Layer, Lowered
from tinyclf.device.lowering.pooling import AvgPool, MaxPool
from tinyclf.device.lowering.weighted import Conv2d, Depthwise, Linear, Pointwise

# The first class that accepts a module lowers it.
LAYERS: tuple[type[Layer], ...] = (Pointwise, Depthwise, Conv2d, Linear, ReLU, ReLU6, AvgPool, MaxPool, Add)

__all__ = ["LAYERS", "Case", "Layer", "Lowered"]
