"""What is trained decides where the backward pass stops; what cannot be lowered is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.kit.steps import training_graph
from tinyclf.base.errors import BadInput, Unsupported
from tinyclf.device.graph.ir import Call, Graph, Phase, Role, Tensor, check
from tinyclf.device.lowering.tracing import as_module_calls
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant
from tinyclf.workstation.nets.build import build_model, fold_batchnorm, freeze


def _graph(variant: Variant) -> Graph:
    model = build_model("mobilenet_wd4", num_classes=3, size=32)
    freeze(model, variant)
    return training_graph(fold_batchnorm(model), input_shape=(3, 32, 32), rule=UpdateRule(0.1, weight_decay=0.01))


def _lower(*layers: nn.Module, shape: tuple[int, int, int] = (3, 8, 8)) -> Graph:
    return training_graph(nn.Sequential(*layers), input_shape=shape, rule=UpdateRule(0.1))


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
        assert len(updates) == (len(_parts(graph, t.name)) if t.trained else 0)
        assert not updates or max(uses) < updates[0], t.name


def _parts(graph: Graph, parameter: str) -> list[Tensor]:
    """Return the tensors that hold a parameter's gradient: one, or blocks of its rows."""
    return [t for t in graph.tensors if f"{parameter}.grad" in (t.name, t.part_of)]


def test_a_layer_without_a_kernel_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match=r"layer '1' cannot be lowered: Tanh"):
        _lower(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 2))
    with pytest.raises(Unsupported, match=r"layer '0' cannot be lowered: Conv2d\(3, 4.*padding_mode=circular"):
        _lower(nn.Conv2d(3, 4, 3, padding_mode="circular"), nn.Flatten(), nn.Linear(4 * 36, 2))


def test_a_batchnorm_that_was_not_folded_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"layer '1' cannot be lowered: BatchNorm2d"):
        _lower(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))


class _Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3 * 64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.a(x)
        return self.head(self.b(x).flatten(1))


def test_a_layer_without_a_use_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"layer 'a' cannot be lowered: nothing uses its output"):
        training_graph(_Branch(), input_shape=(3, 8, 8), rule=UpdateRule(0.1))


class _Net(nn.Module):
    """What `body` makes of (3, 8, 8), flattened, then a linear layer."""

    def __init__(self, body: Callable[[_Net, torch.Tensor], torch.Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.body = body
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.flat, self.head = nn.Flatten(), nn.Linear(3 * 64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.flat(self.body(self, x)))


def _conv() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1)


def _graph_of(net: nn.Module) -> Graph:
    return training_graph(net, input_shape=(3, 8, 8), rule=UpdateRule(0.1))


def _backward(graph: Graph) -> list[tuple[str, str]]:
    return [(c.kernel, c.node) for c in graph.calls if c.phase is Phase.BACKWARD]


def test_a_gradient_that_arrives_twice_is_added_and_one_that_only_passes_is_not_copied() -> None:
    net = _Net(lambda n, x: (y := n.a(x)) + n.c(n.b(y)), a=_conv(), b=_conv(), c=_conv())
    graph = training_graph(net, input_shape=(3, 8, 8), rule=UpdateRule(0.1, clip=1.0))  # gradients in whole
    assert [kernel for kernel, _ in _backward(graph)] == [
        "pulp_CrossEntropyLoss_backward",
        "pulp_linear_fp32_bw_input_grads_cl",
        "pulp_linear_fp32_bw_param_grads_cl",
        "pulp_conv2d_fp32_bw_input_grads_cl",  # c
        "pulp_conv2d_fp32_bw_param_grads_cl",
        "pulp_conv2d_fp32_bw_input_grads_cl",  # b
        "tcl_add_fp32_cl",  # the gradient of y: of the sum, and through b
        "pulp_conv2d_fp32_bw_param_grads_cl",
        "pulp_conv2d_fp32_bw_param_grads_cl",  # a
    ]
    add = next(c for c in graph.calls if c.kernel == "tcl_add_fp32_cl" and c.phase is Phase.BACKWARD)
    assert add.writes[0] in add.reads, "the sum needs no third buffer"
    assert len([t for t in graph.tensors_of(Role.GRADIENT) if t.shape == (3, 8, 8)]) == 3


@pytest.mark.parametrize("trained", ["a", "b"])
def test_a_frozen_branch_has_no_backward_calls(trained: str) -> None:
    net = _Net(lambda n, x: n.a(n.s(x)) + n.b(n.s2(x)), s=_conv(), s2=_conv(), a=_conv(), b=_conv())
    net.requires_grad_(False)
    net.get_submodule(trained).requires_grad_(True)
    assert _backward(_graph_of(net)) == [
        ("pulp_CrossEntropyLoss_backward", "loss"),
        ("pulp_linear_fp32_bw_input_grads_cl", "head"),
        ("pulp_conv2d_fp32_bw_param_grads_cl", trained),
    ]


def test_mobilenetv2_adds_gradients_only_where_something_below_is_trained() -> None:
    model = build_model("mobilenetv2_wd4", num_classes=2, size=96)
    for k, num_sums in ((0, 0), (2, 1), (3, 2), (4, 2)):  # of stage 5, units 2 to 4 have shortcuts; unit 4 changes size
        freeze(model, Variant("FT", k))
        graph = training_graph(fold_batchnorm(model), input_shape=(3, 96, 96), rule=UpdateRule(0.1))
        kernels = [kernel for kernel, _ in _backward(graph)]
        assert kernels.count("tcl_add_fp32_cl") == num_sums - (1 if k in (2, 3) else 0), k


def test_only_a_bias_or_only_a_weight_costs_no_more_than_that() -> None:
    for groups, kernel in ((1, "pulp_conv2d_fp32_bw_param_grads_cl"), (3, "pulp_conv_dw_fp32_bw_param_grads_cl")):
        net = _Net(lambda n, x: n.a(x), a=nn.Conv2d(3, 3, 3, padding=1, groups=groups))
        net.requires_grad_(False)
        net.a.bias.requires_grad_(True)
        graph = _graph_of(net)
        assert not [c for c in graph.calls if c.phase is Phase.BACKWARD and "input" in c.reads]
        assert "a.weight.grad" not in graph.by_name
        update = next(c for c in graph.calls if c.phase is Phase.UPDATE)
        assert update.writes == ("a.bias",)
        net.requires_grad_(False)
        net.a.weight.requires_grad_(True)
        graph = _graph_of(net)
        (grad,) = (c for c in graph.calls if c.phase is Phase.BACKWARD and c.node.startswith("a"))
        assert (grad.kernel, grad.writes) == (kernel, ("a.weight.grad",))
        assert "a.bias.grad" not in graph.by_name


def _written_by(graph: Graph, node: str) -> str:
    return next(c.writes[0] for c in graph.calls if c.node == node)


def test_a_layer_works_in_place_only_where_nobody_misses_what_it_overwrites() -> None:
    in_place = _graph_of(_Net(lambda n, x: n.r(n.a(x)), a=_conv(), r=nn.ReLU()))
    assert _written_by(in_place, "r") == "a.output"
    other_user = _graph_of(_Net(lambda n, x: n.r(y := n.a(x)) + y, a=_conv(), r=nn.ReLU()))
    assert _written_by(other_user, "r") == "r.output"
    image = _graph_of(_Net(lambda n, x: n.r(x), r=nn.ReLU6()))
    assert _written_by(image, "r") == "r.output"
    # The sum may take the memory of a convolution's output, but not that of a ReLU, whose backward pass needs it.
    both = _Net(lambda n, x: n.r(n.a(x)) + n.b(x), a=_conv(), b=_conv(), r=nn.ReLU())
    assert _written_by(_graph_of(both), "add") == "b.output"
    only_relu = _Net(lambda n, x: n.r(n.a(x)) + x, a=_conv(), r=nn.ReLU())
    assert _written_by(_graph_of(only_relu), "add") == "add.output"
    only_relu.a.requires_grad_(False)
    assert _written_by(_graph_of(only_relu), "add") == "a.output"  # no backward pass reads it


def test_functions_and_repeated_calls_are_layers_of_their_own() -> None:
    net = _Net(lambda n, x: torch.relu(n.r(n.b(n.r(n.a(x))) + x)), a=_conv(), b=_conv(), r=nn.ReLU(inplace=True))
    graph = _graph_of(net)
    assert [c.node for c in graph.calls if c.kernel == "pulp_relu_fp32_fw_cl"] == ["r", "r_2", "relu"]
    assert [node for kernel, node in _backward(graph) if kernel == "pulp_relu_fp32_bw_cl"] == ["relu", "r_2", "r"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda n, x: n.a(x) + n.p(x), r"'add' cannot be lowered: a sum of shapes \(1, 3, 8, 8\) and \(1, 3, 1, 1\)"),
        (lambda n, x: n.a(x) + 1, r"'add' cannot be lowered: add with 1 is computed outside of a layer"),
        (lambda n, x: n.a(x) * 2, r"'mul' cannot be lowered: mul with 2 is computed outside of a layer"),
        (lambda n, x: (y := n.a(x)) * y, r"'mul' cannot be lowered: a product of a tensor with itself"),
        (
            lambda n, x: n.a(x) * n.a2(x),
            r"'mul' .*: a product of shapes \(1, 3, 8, 8\) and \(1, 1, 8, 8\) \(broadcasting\)",
        ),
        (lambda n, x: n.a(n.a(x)), r"layer 'a' cannot be lowered: it is called twice"),
        (lambda n, x: n.b(n.a(x)), r"layer 'b' cannot be lowered: 'a' has its weight too"),
        (lambda n, x: n.r(y := n.a(x)) + y, r"layer 'r' .* works in place on what others use too: set inplace=False"),
        (lambda n, x: n.a(x).view(1, 64, 3), r"'view' cannot be lowered: it changes the shape from"),
        (lambda n, x: n.l(n.a(x)), r"layer 'l' cannot be lowered: Linear.* gives \(1, 3, 8, 8\): flatten its input"),
        (lambda n, x: n.a(x) if x.sum() > 0 else x, r"_Net cannot be traced by torch.fx"),
        (lambda n, x: n.p(n.a(x)), r"the net does not run on an input of 3x8x8"),
    ],
)
def test_what_cannot_be_lowered_is_refused_with_its_reason(
    body: Callable[[_Net, torch.Tensor], torch.Tensor], message: str
) -> None:
    net = _Net(body, a=_conv(), b=_conv(), r=nn.ReLU(inplace=True), p=nn.AdaptiveAvgPool2d(1), l=nn.Linear(8, 8))
    net.a2 = nn.Conv2d(3, 1, 1)
    net.b.weight = net.a.weight
    with pytest.raises(Unsupported, match=message):
        _graph_of(net)


@pytest.mark.parametrize(
    "body",
    [
        lambda n, x: torch.cat((n.a(x), n.b(x)), 1),
        lambda n, x: torch.cat([n.a(x), x, n.b(x)], dim=-3),
        lambda n, x: torch.cat(tensors=(n.a(x), x), dim=1),
        lambda n, x: n.a(x).chunk(2, dim=1)[1],
        lambda n, x: torch.chunk(n.a(x), chunks=2, dim=1)[0],
        lambda n, x: torch.split(n.a(x), [1, 2], 1)[1] + n.b(x).split((2, 1), dim=1)[0],
        lambda n, x: n.s(n.a(x)) + nn.functional.pad(n.c(x), (1, 0, 0, 2)),
        lambda n, x: nn.functional.pad(n.a(x), (0, 1), value=0.5),
    ],
)
def test_calls_of_modules_compute_what_the_net_computes(body: Callable[[_Net, torch.Tensor], torch.Tensor]) -> None:
    net = _Net(body, a=_conv(), b=_conv(), c=nn.Conv2d(3, 3, (3, 2), padding=0), s=nn.ChannelShuffle(3))
    net.head, net.flat = nn.Identity(), nn.Identity()
    traced, x = as_module_calls(net), torch.randn(2, 3, 8, 8)
    assert {node.op for node in traced.graph.nodes} == {"placeholder", "call_module", "output"}
    assert torch.equal(traced(x), net(x))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda n, x: torch.cat((n.a(x), n.b(x)), 2), r"'cat' cannot be lowered: cat with .* outside of a layer"),
        (lambda n, x: torch.cat([y := n.a(x), y], 1), r"layer 'cat' cannot be lowered: it joins a tensor with itself"),
        (lambda n, x: n.a(x).chunk(2, 3)[0], r"'getitem' cannot be lowered: getitem with 0 is computed outside"),
        (lambda n, x: nn.functional.pad(n.a(x), (-1, 0)), r"layer 'pad' cannot be lowered: ConstantPad2d"),
        (lambda n, x: nn.functional.pad(n.a(x), (1, 1, 1, 1), mode="reflect"), r"'pad' cannot be lowered: pad with"),
        (lambda n, x: n.a(x).chunk(2, 1)[::-1][0], r"'getitem_1' cannot be lowered: getitem with 0"),
    ],
)
def test_what_cannot_be_moved_is_refused_with_its_reason(
    body: Callable[[_Net, torch.Tensor], torch.Tensor], message: str
) -> None:
    net = _Net(body, a=_conv(), b=_conv())
    net.head = nn.LazyLinear(2)
    net(torch.zeros(1, 3, 8, 8))
    with pytest.raises(Unsupported, match=message):
        _graph_of(net)


def test_a_net_that_does_not_end_in_logits_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"it returns \(1, 2, 6, 6\), not a number for each class"):
        _lower(nn.Conv2d(3, 2, 3))


def test_nothing_trained_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).requires_grad_(False)
    with pytest.raises(BadInput, match="no parameter of the model is trained"):
        training_graph(model, input_shape=(3, 2, 2), rule=UpdateRule(0.1))


def test_check_finds_broken_graphs() -> None:
    graph = _graph(Variant("LP"))
    check(graph)
    with pytest.raises(AssertionError, match="before it is written"):
        check(replace(graph, calls=graph.calls[1:]))
    with pytest.raises(AssertionError, match="share a name"):
        check(replace(graph, tensors=(*graph.tensors, Tensor("input", (1,), Role.INPUT))))
    with pytest.raises(AssertionError, match="unknown node"):
        check(replace(graph, calls=(*graph.calls, Call("k", "nobody", Phase.FORWARD, (), ()))))


def test_a_graph_with_an_update_before_the_gradient_is_clipped_is_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    graph = training_graph(net, input_shape=(3, 2, 2), rule=UpdateRule(0.1, clip=1.0))
    calls = list(graph.calls)
    clip = next(i for i, call in enumerate(calls) if call.kernel == "tcl_clip_fp32")
    assert calls[-1].phase is Phase.UPDATE
    calls.insert(clip, calls.pop())
    with pytest.raises(AssertionError, match="gradient_scale changes after a call has read it"):
        check(replace(graph, calls=tuple(calls)))
    with pytest.raises(AssertionError, match="unknown tensor"):
        check(replace(graph, tensors=graph.tensors[1:]))
