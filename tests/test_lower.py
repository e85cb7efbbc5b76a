"""What is trained decides where the backward pass stops; what cannot be lowered is refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tinyclf.errors import BadInput, Unsupported
from tinyclf.ir import Call, Graph, Phase, Role, Tensor, check
from tinyclf.lower import training_graph
from tinyclf.models import build_model, fold_batchnorm, freeze
from tinyclf.variants import Variant


def _graph(variant: Variant) -> Graph:
    model = build_model("mobilenet_wd4", num_classes=3, size=32)
    freeze(model, variant)
    return training_graph(fold_batchnorm(model), input_shape=(3, 32, 32), learning_rate=0.1, weight_decay=0.01)


def _lower(*layers: nn.Module, shape: tuple[int, int, int] = (3, 8, 8)) -> Graph:
    return training_graph(nn.Sequential(*layers), input_shape=shape, learning_rate=0.1)


def test_linear_probe_has_no_backward_beyond_the_linear_layer() -> None:
    graph = _graph(Variant("LP"))
    backward = [c.kernel for c in graph.calls if c.phase is Phase.BACKWARD]
    assert backward == ["pulp_CrossEntropyLoss_backward", "pulp_linear_fp32_bw_param_grads_cl"]
    assert [t.name for t in graph.tensors_of(Role.PARAMETER) if t.trained] == ["output.weight", "output.bias"]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_backward_stops_at_the_first_trained_layer(k: int) -> None:
    graph = _graph(Variant("FT", k))
    kernels = [c.kernel for c in graph.calls if c.phase is Phase.BACKWARD]
    assert kernels.count("pulp_conv_dw_fp32_bw_param_grads_cl") == k
    assert kernels.count("pulp_conv_dw_fp32_bw_input_grads_cl") == k - 1  # the first one's input is nobody's
    assert kernels.count("pulp_conv_pw_fp32_bw_input_grads_cl") == k
    assert kernels[-1] == "tcl_bias_fp32_bw_param_grads_cl"


def test_full_training_reaches_the_first_layer_but_not_the_image() -> None:
    graph = _graph(Variant("full"))
    kernels = [c.kernel for c in graph.calls]
    assert "pulp_conv2d_fp32_bw_param_grads_cl" in kernels
    assert "pulp_conv2d_fp32_bw_input_grads_cl" not in kernels
    assert "input.grad" not in graph.by_name


def test_a_layer_passes_its_gradient_on_before_its_weights_change() -> None:
    graph = _graph(Variant("FT", 3))
    for t in graph.tensors_of(Role.PARAMETER):
        updates = [i for i, c in enumerate(graph.calls) if t.name in c.writes]
        uses = [i for i, c in enumerate(graph.calls) if t.name in c.reads and i not in updates]
        assert len(updates) == (1 if t.trained else 0)
        assert not updates or max(uses) < updates[0], t.name


def test_a_layer_without_a_kernel_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match=r"layer '1' cannot be lowered: Sigmoid"):
        _lower(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(4 * 36, 2))
    with pytest.raises(Unsupported, match=r"layer '0' cannot be lowered: Conv2d\(4, 8.*groups=2"):
        _lower(nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(8 * 36, 2), shape=(4, 8, 8))
    with pytest.raises(Unsupported, match=r"dilation"):
        _lower(nn.Conv2d(3, 4, 3, dilation=2), nn.Flatten(), nn.Linear(4 * 16, 2))


def test_a_batchnorm_that_was_not_folded_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"layer '1' cannot be lowered: BatchNorm2d"):
        _lower(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3 * 64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((x + self.conv(x)).flatten(1))


class _Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3 * 64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.a(x)
        return self.head(self.b(x).flatten(1))


def test_a_layer_without_a_use_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"layer 'a' cannot be lowered: nothing uses its output"):
        training_graph(_Branch(), input_shape=(3, 8, 8), learning_rate=0.1)


def test_nothing_trained_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).requires_grad_(False)
    with pytest.raises(BadInput, match="no parameter of the model is trained"):
        training_graph(model, input_shape=(3, 2, 2), learning_rate=0.1)


def test_check_finds_broken_graphs() -> None:
    graph = _graph(Variant("LP"))
    check(graph)
    with pytest.raises(AssertionError, match="before it is written"):
        check(replace(graph, calls=graph.calls[1:]))
    with pytest.raises(AssertionError, match="share a name"):
        check(replace(graph, tensors=(*graph.tensors, Tensor("input", (1,), Role.INPUT))))
    with pytest.raises(AssertionError, match="unknown node"):
        check(replace(graph, calls=(*graph.calls, Call("k", "nobody", Phase.FORWARD, (), ()))))
    with pytest.raises(AssertionError, match="unknown tensor"):
        check(replace(graph, tensors=graph.tensors[1:]))
