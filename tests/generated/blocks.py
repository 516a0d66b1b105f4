"""The parts that leave the grid as it is: norms, activations, residuals, gates, tokens, heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from tests.generated.grid import Grid
from tests.generated.parts import Conv, Function, Part, positive


class Written(nn.Module):
    """SiLU as it is written by hand."""

    def forward(self, x):
        return x * torch.sigmoid(x)


class Clamped(nn.Module):
    """ReLU as it is written by hand."""

    def forward(self, x):
        return x.clamp(min=0)


ACTIVATIONS = {
    "relu": (nn.ReLU, F.relu),
    "relu6": (nn.ReLU6, F.relu6),
    "leaky_relu": (nn.LeakyReLU, F.leaky_relu),
    "silu": (nn.SiLU, F.silu),
    "gelu": (nn.GELU, F.gelu),
    "elu": (nn.ELU, F.elu),
    "hardswish": (nn.Hardswish, F.hardswish),
    "mish": (nn.Mish, F.mish),
    "tanh": (nn.Tanh, torch.tanh),
    "softplus": (nn.Softplus, F.softplus),
    "x * sigmoid(x)": (Written, lambda x: x * x.sigmoid()),
    "clamp": (Clamped, lambda x: torch.clamp(x, min=0)),
    "maximum": (None, lambda x: torch.maximum(x, torch.zeros_like(x))),
}


@dataclass(frozen=True)
class Act(Part):
    """An activation: a module, a module that writes in place, or a function between modules."""

    name: str = "relu"
    how: str = "module"
    ends = True

    def build(self, channels, random):
        module, function = ACTIVATIONS[self.name]
        if self.how == "function":
            return function, channels
        if self.how == "inplace":
            return module(inplace=True), channels
        return (Function(function, self.name) if module is None else module()), channels


@dataclass(frozen=True)
class Norm(Part):
    kind: str = "batch"

    def build(self, channels, random):
        norm = {
            "batch": lambda: nn.BatchNorm2d(channels),
            "group": lambda: nn.GroupNorm(1, channels),
            "instance": lambda: nn.InstanceNorm2d(channels, affine=True),
        }[self.kind]()
        norm.weight.data.copy_(torch.linspace(0.5, 1.5, channels))
        if self.kind == "batch":
            norm.running_var.copy_(0.5 + torch.rand(channels, generator=random))
        return norm, channels


class Chain(nn.Module):
    """Layers in a row, where not all are modules."""

    def __init__(self, layers):
        super().__init__()
        self.layers = list(layers)
        for number, layer in enumerate(self.layers):
            if isinstance(layer, nn.Module):
                self.add_module(f"layer{number}", layer)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def chained(
    parts: tuple[Part, ...], channels: int, random: torch.Generator
) -> tuple[nn.Module, int]:
    """Parts in a row as one module."""
    layers = []
    for part in parts:
        layer, channels = part.build(channels, random)
        layers.append(layer)
    modules = all(isinstance(layer, nn.Module) for layer in layers)
    return (nn.Sequential(*layers) if modules else Chain(layers)), channels


class Added(nn.Module):
    def __init__(self, body, shortcut, act, inplace):
        super().__init__()
        self.body, self.shortcut, self.act, self.inplace = body, shortcut, act, inplace

    def forward(self, x):
        y = self.body(x)
        x = self.shortcut(x)
        y = y.add_(x) if self.inplace else x + y
        return self.act(y)


@dataclass(frozen=True)
class Residual(Part):
    """act(x + act(conv(x))), with a stride both ways if it is not 1."""

    out: int
    stride: tuple[int, int] = (1, 1)
    act: str | None = "relu"
    inplace: bool = False
    weighted = True
    ends = True

    def _main(self):
        return Conv(self.out, (3, 3), self.stride, (1, 1))

    def build(self, channels, random):
        main, out = self._main().build(channels, random)
        short, _ = Conv(self.out, (1, 1), self.stride, (0, 0)).build(channels, random)
        same = self.stride == (1, 1) and out == channels
        shortcut = nn.Identity() if same else short
        body = nn.Sequential(main, nn.ReLU())
        act = nn.Identity() if self.act is None else ACTIVATIONS[self.act][0]()
        return Added(body, shortcut, act, self.inplace), out

    def grid(self, grid, size):
        return self._main().grid(grid, size)


class Times(nn.Module):
    def __init__(self, conv, mode):
        super().__init__()
        self.conv, self.mode = conv, mode

    def forward(self, x):
        gate = torch.sigmoid(self.conv(F.avg_pool2d(x, 2)))
        return x * F.interpolate(gate, size=x.shape[2:], mode=self.mode)


@dataclass(frozen=True)
class Gate(Part):
    """x * interpolate(sigmoid(conv(avg_pool(x))))."""

    mode: str = "nearest"
    weighted = True
    ends = True

    def build(self, channels, random):
        conv = positive(nn.Conv2d(channels, channels, 3, padding=1), random)
        return Times(conv, self.mode), channels


class Excited(nn.Module):
    def __init__(self, down, up):
        super().__init__()
        self.down, self.up = down, up

    def forward(self, x):
        pooled = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.up(F.relu(self.down(pooled))))


@dataclass(frozen=True)
class Excite(Part):
    """Squeeze and excitation."""

    weighted = True
    ends = True

    def build(self, channels, random):
        down = positive(nn.Conv2d(channels, max(1, channels // 2), 1), random)
        up = positive(nn.Conv2d(max(1, channels // 2), channels, 1), random)
        return Excited(down, up), channels


class Joined(nn.Module):
    def __init__(self, branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


@dataclass(frozen=True)
class Branches(Part):
    """Two branches side by side, as of Inception; their channels in a row."""

    out: int
    weighted = True
    ends = True

    def build(self, channels, random):
        wide, _ = chained((Conv(self.out), Act("relu")), channels, random)
        narrow, _ = chained(
            (Conv(self.out, (1, 1), (1, 1), (0, 0)), Act("relu6")), channels, random
        )
        return Joined([wide, narrow]), 2 * self.out


class Twins(nn.Module):
    def __init__(self, branch, join):
        super().__init__()
        self.branch, self.join = branch, join

    def forward(self, x):
        first, second = self.branch(x), self.branch(x.flip(3)).flip(3)
        if self.join == "cat":
            return torch.cat((first, second), 1)
        return torch.maximum(first, second) if self.join == "max" else first + second


@dataclass(frozen=True)
class Siamese(Part):
    """One module, called with the tensor and its mirror image."""

    out: int
    join: str = "sum"
    weighted = True
    ends = True

    def build(self, channels, random):
        branch, out = chained((Conv(self.out), Act("relu")), channels, random)
        return Twins(branch, self.join), out * (2 if self.join == "cat" else 1)


def halved(_, __, output):
    """A user's hook."""
    return output * 0.5


def silenced(_, __, output):
    """A user's hook that takes a channel away."""
    output = output.clone()
    output[:, 0] = 0
    return output


def squared(_, __, output):
    """A user's hook."""
    return output.clamp(min=0) ** 2


HOOKS = {"halved": halved, "silenced": silenced, "squared": squared}


@dataclass(frozen=True)
class Hooked(Part):
    """A part with a user's forward hook, which changes its result."""

    part: Part
    hook: str = "halved"
    weighted = True
    ends = True

    def build(self, channels, random):
        layer, out = self.part.build(channels, random)
        layer.register_forward_hook(HOOKS[self.hook])
        return layer, out

    def grid(self, grid: Grid, size):
        return self.part.grid(grid, size)


class InPlace(nn.Module):
    def forward(self, x):
        return x.sub_(0.02).div_(0.8)


@dataclass(frozen=True)
class Normalise(Part):
    """x.sub_(mean).div_(deviation), which changes the caller's tensor."""

    def build(self, channels, random):
        return InPlace(), channels
