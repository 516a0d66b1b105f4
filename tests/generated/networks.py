"""Whole networks as data: their parts, what surrounds them, and the images that they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from tests.generated.blocks import Act, Chain, chained
from tests.generated.parts import Conv, Part, positive


class Cleaned(nn.Module):
    def __init__(self, body, last, residual):
        super().__init__()
        self.body, self.last, self.residual = body, last, residual

    def forward(self, x):
        y = F.interpolate(self.body(x), size=x.shape[2:])
        y = torch.relu(self.last(y))
        return 0.5 * (x + y) if self.residual else y


@dataclass(frozen=True)
class Denoise(Part):
    """A first network, down and back to an image; what comes after makes the decision."""

    residual: bool = False
    weighted = True

    def build(self, channels, random):
        inner = (Conv(4), Act(), Conv(6, stride=(2, 2)), Act(), Conv(6), Act())
        body, out = chained(inner, channels, random)
        last = positive(nn.Conv2d(out, channels, 3, padding=1), random)
        return Cleaned(body, last, self.residual), channels


@dataclass(frozen=True)
class Views(Part):
    """The images and their mirror images, one batch after the other; their outputs are averaged."""

    def build(self, channels, random):
        return Doubled(), channels


class Doubled(nn.Module):
    def forward(self, x):
        return torch.cat((x, x.flip(3)))


class Averaged(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        x = self.body(x)
        return 0.5 * (x[: len(x) // 2] + x[len(x) // 2 :])


@dataclass(frozen=True)
class Decode(Part):
    """Back to finer scales, with or without the tensors of the way down beside them."""

    levels: int = 1
    skips: bool = True
    weighted = True

    def build(self, channels, random):
        raise NotImplementedError


class Decoder(nn.Module):
    def __init__(self, widths, skips, random):
        super().__init__()
        self.skips = skips
        read = [before + (beside if skips else 0) for before, beside in pairwise(widths)]
        self.convs = nn.ModuleList(
            positive(nn.Conv2d(channels, out, 1), random)
            for channels, out in zip(read, widths[1:], strict=True)
        )
        self.act = nn.ReLU()

    def forward(self, x, kept):
        for conv, beside in zip(self.convs, kept, strict=True):
            x = F.interpolate(x, size=beside.shape[2:])
            x = self.act(conv(torch.cat((x, beside), 1) if self.skips else x))
        return x


class Hourglass(nn.Module):
    """The way down, a decoder, an output; `kept` are the layers whose inputs the decoder reads."""

    def __init__(self, layers, kept, decoder, decide):
        super().__init__()
        self.down = Chain(layers)
        self.kept, self.decoder, self.decide = kept, decoder, decide

    def forward(self, x):
        beside = []
        for number, layer in enumerate(self.down.layers):
            if number in self.kept:
                beside.append(x)
            x = layer(x)
        return self.decide(self.decoder(x, beside[::-1]))


@dataclass(frozen=True)
class Case:
    """A network and the images that it is shown.

    `parts` end with a `Decide`. `place` is the share of what all scales see, down and across, at
    which the first image has its object; the others have it elsewhere. `seed` draws the weights,
    `training` the modules' flags before the call.
    """

    parts: tuple[Part, ...]
    size: tuple[int, int] = (32, 48)
    channels: int = 3
    dtype: str = "float32"
    place: tuple[float, float] = (0.35, 0.7)
    images: int = 2
    seed: int = 0
    training: bool = False
    statistic: str = "smoe_scale"

    def network(self) -> tuple[nn.Module, list]:
        """The network in evaluation mode, and the layer of each part but the `Decode`."""
        random = torch.Generator().manual_seed(self.seed)
        layers, widths, channels, decoder = [], [], self.channels, None
        for part in self.parts:
            widths.append(channels)
            if isinstance(part, Decode):
                numbers = [n for n, p in enumerate(self.parts) if _goes_down(p)][-part.levels :]
                chain = [channels, *(widths[number] for number in reversed(numbers))]
                decoder = Decoder(chain, part.skips, random)
                channels = chain[-1]
                continue
            layer, channels = part.build(channels, random)
            layers.append(layer)
        if any(isinstance(part, Views) for part in self.parts):
            layers[-1] = Averaged(layers[-1])
        if decoder is not None:
            net: nn.Module = Hourglass(layers[:-1], numbers, decoder, layers[-1])
        elif all(isinstance(layer, nn.Module) for layer in layers):
            net = nn.Sequential(*layers)
        else:
            net = Chain(layers)
        net = net.to(getattr(torch, self.dtype)).eval()
        if self.training:
            net.train()
            for number, module in enumerate(net.modules()):
                if number % 3 == 2:
                    module.training = False
        return net, layers


def _goes_down(part: Part) -> bool:
    stride = getattr(part, "stride", None)
    return stride is not None and max(stride) > 1


def objects(case: Case, centres: list[tuple[float, float]]) -> torch.Tensor:
    """Dark images with one bright object each, at these rows and columns."""
    height, width = case.size
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    images = [
        torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 3.0**2))
        for row, column in centres
    ]
    gains = torch.linspace(1.0, 0.6, case.channels).reshape(1, -1, 1, 1)
    return (0.05 + 0.9 * torch.stack(images).unsqueeze(1) * gains).to(getattr(torch, case.dtype))
