"""Steps for tests of one stage: the graph that the stages behind lowering are given."""

from __future__ import annotations

from torch import nn

from tinyclf.device.graph.ir import Graph
from tinyclf.device.lowering import lower
from tinyclf.device.memory.rows import cut_rows
from tinyclf.recipe.update_rule import UpdateRule


def training_graph(model: nn.Module, *, input_shape: tuple[int, int, int], rule: UpdateRule = lower.PLAIN) -> Graph:
    """Return a lowered training step with its rows cut."""
    return cut_rows(lower.training_graph(model, input_shape=input_shape, rule=rule)).graph
