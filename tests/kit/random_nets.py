"""Random nets for tests: what the device half lowers, in all shapes, from a seed."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import nn

from tinyclf.device.lowering.tracing import as_module_calls
from tinyclf.device.run.job import Job
from tinyclf.recipe.update_rule import UpdateRule
from tinyclf.recipe.variant import Variant

MAX_CHANNELS = 9


class Residual(nn.Module):
    """A sum of two or three branches of one input, one of which may be the input itself, then perhaps ReLU."""

    def __init__(self, branches: list[nn.Module], *, style: str, after: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.style, self.after = style, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.branches[0](x)
        for branch in self.branches[1:]:
            z = branch(x)
            if self.style == "iadd":
                y += z
            else:
                y = y + z if self.style == "add" else torch.add(z, y)
        if self.after == "relu":
            y = torch.relu(y)
        return nn.functional.relu6(y, inplace=True) if self.after == "relu6" else y


class Mixed(nn.Module):
    """Channels that are cut in two parts, of which a branch takes one; all joined again and perhaps shuffled."""

    def __init__(self, branch: nn.Module, *, sizes: list[int], shuffle: bool) -> None:
        super().__init__()
        self.branch, self.sizes = branch, sizes
        self.shuffle = nn.ChannelShuffle(2) if shuffle else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = torch.split(x, self.sizes, 1) if self.sizes else x.chunk(2, dim=1)
        y = torch.cat((self.branch(first), second), dim=1)
        return y if self.shuffle is None else self.shuffle(torch.cat([y, torch.relu(y)], 1))


class RandomNet(nn.Module):
    """Blocks, then a head that gives logits; `input_shape` is (C, H, W)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        torch.manual_seed(seed)
        self.num_classes = rng.randrange(2, 6)
        self.input_shape = (rng.randrange(1, 5), rng.randrange(4, 15), rng.randrange(4, 15))
        shape = self.input_shape
        blocks = []
        for _ in range(rng.randrange(1, 6)):
            block = _block(rng, shape)
            shape = tuple(block(torch.zeros(1, *shape)).shape[1:])
            blocks.append(block)
        self.features = nn.Sequential(*blocks)
        self.head = rng.choice(("pool", "conv", "flatten"))
        if self.head != "flatten":
            self.pool = nn.AdaptiveAvgPool2d(1)
            num_features = shape[0]
        else:
            num_features = shape[0] * shape[1] * shape[2]
        bias = rng.random() < 0.8
        if self.head == "conv":
            self.output: nn.Module = nn.Conv2d(num_features, self.num_classes, 1, bias=bias)
        else:
            self.output = nn.Linear(num_features, self.num_classes, bias=bias)
        _train_some(rng, self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        if self.head == "flatten":
            return self.output(torch.flatten(x, 1))
        x = self.pool(x)
        if self.head == "conv":
            x = self.output(x)
            return x.view(x.shape[0], -1)
        return self.output(x.view(x.size(0), -1))


def _block(rng: random.Random, shape: tuple[int, ...]) -> nn.Module:
    kind = rng.choice(("chain", "chain", "residual", "residual", "strided", "pool", "mixed", "grouped"))
    channels, height, width = shape
    if kind == "pool" and min(height, width) >= 3:
        if rng.random() < 0.3:
            return nn.AvgPool2d(rng.choice((2, (2, 3))), rng.choice((1, 2)))
        return nn.MaxPool2d(rng.choice((2, 3, (2, 3))), rng.choice((1, 2)), padding=rng.choice((0, 1)))
    if kind == "mixed" and channels > 1:
        first = rng.choice((0, rng.randrange(1, channels)))  # 0: cut in halves, the first may have one more
        branch = _chain(rng, first or -(-channels // 2), rng.randrange(1, 4), before=True)
        return Mixed(branch, sizes=[first, channels - first] if first else [], shuffle=rng.random() < 0.5)
    if kind == "grouped":
        return _grouped(rng, shape)
    if kind == "residual":
        branches: list[nn.Module] = [_chain(rng, channels, channels, before=True) for _ in range(rng.randrange(1, 3))]
        branches.append(nn.Identity())
        rng.shuffle(branches)
        # `+=` must not change the input, which the other branches take.
        style = rng.choice(("add", "torch.add") + (() if isinstance(branches[0], nn.Identity) else ("iadd",)))
        return Residual(branches, style=style, after=rng.choice(("", "relu", "relu6")))
    if kind == "strided":
        out = rng.randrange(1, MAX_CHANNELS)
        branches = [_chain(rng, channels, out, stride=2), nn.Conv2d(channels, out, 1, stride=2)]
        rng.shuffle(branches)
        return Residual(branches, style=rng.choice(("add", "iadd")), after=rng.choice(("", "relu", "relu6")))
    kernel = (rng.choice((1, 3, 5)), rng.choice((1, 3, 5))) if rng.random() < 0.3 else (rng.choice((1, 3, 5)),) * 2
    down, across = (rng.randrange(max(0, (k - n + 1) // 2), k // 2 + 2) for k, n in zip(kernel, shape[1:], strict=True))
    padding = (down, across)
    stride = rng.choice((1, 1, 2, (1, 2)))
    depthwise = channels > 1 and rng.random() < 0.4
    out = channels if depthwise else rng.randrange(1, MAX_CHANNELS)
    groups = channels if depthwise else 1
    conv = nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=rng.random() < 0.7)
    return nn.Sequential(_scaled(rng, conv), *_activation(rng))


def _grouped(rng: random.Random, shape: tuple[int, ...]) -> nn.Module:
    """Return a padded convolution in groups, perhaps with dilation, most with an activation."""
    channels, height, width = shape
    groups = rng.choice([n for n in range(1, channels + 1) if channels % n == 0])
    dilation = rng.choice((1, 2, (1, 2)))
    left, right, top, bottom = (rng.randrange(0, 3) for _ in range(4))
    kernel = (rng.choice((1, 2, 3)) if height + top + bottom > 4 else 1, 3 if width + left + right > 4 else 1)
    out = groups * rng.randrange(1, 3)
    conv = nn.Conv2d(channels, out, kernel, rng.choice((1, (2, 1))), 0, dilation, groups, bias=rng.random() < 0.7)
    return nn.Sequential(
        nn.ConstantPad2d((left, right, top, bottom), rng.choice((0.0, 0.5))), _scaled(rng, conv), *_activation(rng)
    )


def _chain(rng: random.Random, num_in: int, num_out: int, *, stride: int = 1, before: bool = False) -> nn.Sequential:
    """Return one to three convolutions that keep the size but for `stride`, most with an activation."""
    layers: list[nn.Module] = []
    if before and rng.random() < 0.3:
        layers.append(rng.choice((nn.ReLU, nn.ReLU6))())  # its input has other users: it must not work in place
    num = rng.randrange(1, 4)
    channels = num_in
    for i in range(num):
        kernel = rng.choice((1, 3, 5))
        depthwise = channels > 1 and rng.random() < 0.5 and (i < num - 1 or channels == num_out)
        out = num_out if i == num - 1 else channels if depthwise else rng.randrange(1, MAX_CHANNELS)
        groups = channels if depthwise and out == channels else 1
        step = stride if i == 0 else 1
        conv = nn.Conv2d(channels, out, kernel, step, kernel // 2, groups=groups, bias=rng.random() < 0.7)
        layers += [_scaled(rng, conv), *(_activation(rng) if i < num - 1 or rng.random() < 0.5 else [])]
        channels = out
    return nn.Sequential(*layers)


def _activation(rng: random.Random) -> list[nn.Module]:
    choices: tuple[list[nn.Module], ...] = (
        [],
        [nn.ReLU(inplace=True)],
        [nn.ReLU()],
        [nn.ReLU6(inplace=True)],
        [nn.ReLU6()],
    )
    return rng.choice(choices)


def _scaled(rng: random.Random, conv: nn.Conv2d) -> nn.Conv2d:
    """Make some weights so large that ReLU6 reaches 6."""
    with torch.no_grad():
        conv.weight.mul_(rng.choice((1.0, 2.0, 4.0)))
    return conv


def _train_some(rng: random.Random, net: nn.Module) -> None:
    """Set `requires_grad`: all, an end, only weights, only biases, or any parameters; at least one."""
    parameters = list(net.named_parameters())
    kind = rng.choice(("full", "end", "weights", "biases", "scattered", "scattered"))
    first = rng.randrange(len(parameters))
    for i, (name, parameter) in enumerate(parameters):
        trained = {
            "full": True,
            "end": i >= first,
            "weights": name.endswith("weight"),
            "biases": name.endswith("bias"),
            "scattered": rng.random() < 0.3,
        }[kind]
        parameter.requires_grad_(trained)
    if not any(p.requires_grad for p in net.parameters()):
        parameters[first][1].requires_grad_(True)


def random_variant(rng: random.Random, net: RandomNet) -> Variant:
    """Return a selection of layers of `net` by names and globs, perhaps only biases, perhaps fractions of channels."""
    layers = [(name, m) for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    name, layer = rng.choice(layers)
    globs = {name, rng.choice(("output", "features.*", "*.0*", f"{name[:-1]}?"))} if len(layers) > 2 else {name}
    globs = {glob if _matched(layers, glob) else "output" for glob in globs}
    bias_only = layer.bias is not None and rng.random() < 0.3
    channels = [("*", rng.choice((0.2, 0.5, 1 / 3, 0.7)))] if rng.random() < 0.7 else []
    if rng.random() < 0.5:
        channels.append((name, rng.choice((0.4, 0.6, 1.0))))
    return Variant("layers", 0, tuple(sorted(globs)), bias_only, tuple(channels))


def _matched(layers: Sequence[tuple[str, nn.Module]], glob: str) -> bool:
    return any(fnmatchcase(name, glob) for name, _ in layers)


SEED = 20261121


def _is_well_conditioned(net: RandomNet, samples: np.ndarray) -> bool:
    """Tell whether every ReLU passes at least a hundredth of its largest input.

    Where a ReLU stops all but a few values near zero, these are differences of larger ones: their rounding, PyTorch's
    float32 included, is large beside all that is left, and no comparison says anything.
    """
    ratios: list[float] = []
    traced = as_module_calls(copy.deepcopy(net).double())
    for module in traced.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6):
            module.register_forward_pre_hook(
                lambda _m, x: ratios.append(float(x[0].amax() / x[0].abs().amax()) if x[0].any() else 0.0)
            )
    with torch.no_grad():
        for sample in torch.from_numpy(samples).double():
            traced(sample[None])
    return min(ratios, default=1.0) >= 0.01


def random_job(seed: int) -> Job:
    """Return a job for the first well-conditioned net of `seed`."""
    for attempt in range(10):
        rng = np.random.default_rng(seed)
        net = RandomNet(1000 * seed + attempt).eval()
        samples = (2 * rng.standard_normal((2, *net.input_shape))).astype(np.float32)
        if _is_well_conditioned(net, samples):
            break
    return Job(
        model=net,
        samples=samples,
        labels=np.eye(net.num_classes, dtype=np.float32)[rng.integers(0, net.num_classes, 2)],
        num_steps=2,
        rule=UpdateRule(0.01, weight_decay=1e-3),
        command="tests",
    )
