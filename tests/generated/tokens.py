"""Stages that go on as tokens (N, L, C) or with channels last, and what a network ends in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from tests.generated.grid import Grid
from tests.generated.parts import Part, positive


def _norm(channels):
    # A large epsilon: else each location is scaled to one length, and no place is bright.
    norm = nn.LayerNorm(channels, eps=1.0)
    norm.weight.data.copy_(torch.linspace(0.5, 1.5, channels))
    return norm


class LinearBlock(nn.Module):
    def __init__(self, channels, random):
        super().__init__()
        self.linear = positive(nn.Linear(channels, channels), random)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.linear(x))


class MixBlock(nn.Module):
    """x + W2 relu(W1 norm(x)), which is not negative where x is not."""

    def __init__(self, channels, random):
        super().__init__()
        self.norm = _norm(channels)
        self.first = positive(nn.Linear(channels, 2 * channels), random)
        self.second = positive(nn.Linear(2 * channels, channels, bias=False), random)

    def forward(self, x):
        return x + 0.5 * self.second(F.relu(self.first(self.norm(x))))


class AttentionBlock(nn.Module):
    """x + W attention(norm(x)) over all locations, not negative where x is not."""

    def __init__(self, channels, random):
        super().__init__()
        self.norm = _norm(channels)
        self.inner = positive(nn.Linear(channels, 3 * channels), random)
        self.outer = positive(nn.Linear(channels, channels, bias=False), random)

    def forward(self, x):
        tokens = self.norm(x).flatten(1, -2)
        query, key, value = self.inner(tokens).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(query, key, value.relu())
        return x + 0.3 * self.outer(mixed).reshape(x.shape)


BLOCKS = {"linear": LinearBlock, "mix": MixBlock, "attention": AttentionBlock}


class TokenStage(nn.Module):
    def __init__(self, blocks, first, back):
        super().__init__()
        self.blocks, self.back = nn.ModuleList(blocks), back
        self.first = first

    def forward(self, x):
        size = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        if self.first is not None:
            x = torch.cat((self.first.expand(len(x), -1, -1), x), 1)
        for block in self.blocks:
            x = block(x)
        if self.back:
            x = x[:, 0 if self.first is None else 1 :]
            x = x.transpose(1, 2).reshape(len(x), -1, *size)
        return x


@dataclass(frozen=True)
class Tokens(Part):
    """(N, L, C) and, if `back`, (N, C, H, W) again; `extra` puts a learned token before them."""

    blocks: tuple[str, ...] = ("linear",)
    extra: bool = False
    back: bool = True
    weighted = True
    ends = True

    def build(self, channels, random):
        blocks = [BLOCKS[name](channels, random) for name in self.blocks]
        first = None
        if self.extra:
            first = nn.Parameter(0.01 * torch.rand(1, 1, channels, generator=random))
        return TokenStage(blocks, first, self.back), channels


class LastStage(nn.Module):
    def __init__(self, blocks, enter, back):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.enter, self.back = enter, back

    def forward(self, x):
        if self.enter:
            x = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        return x.permute(0, 3, 1, 2) if self.back else x


@dataclass(frozen=True)
class ChannelsLast(Part):
    """(N, H, W, C); `enter` permutes before, `back` after."""

    blocks: tuple[str, ...] = ("linear",)
    enter: bool = True
    back: bool = True
    weighted = True
    ends = True

    def build(self, channels, random):
        blocks = [BLOCKS[name](channels, random) for name in self.blocks]
        return LastStage(blocks, self.enter, self.back), channels


class Merged(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, x):
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.linear(torch.cat(parts, -1))


@dataclass(frozen=True)
class MergePatches(Part):
    """Four neighbours become one location of (N, H, W, C), as in Swin."""

    out: int
    weighted = True

    def build(self, channels, random):
        return Merged(positive(nn.Linear(4 * channels, self.out), random)), self.out

    def grid(self, grid, size):
        return Grid(grid.rows.windows(size[0], 2, 2, 0), grid.columns.windows(size[1], 2, 2, 0))


class Decision(nn.Module):
    def __init__(self, kind, channels, random):
        super().__init__()
        self.kind = kind
        if kind in ("conv", "map", "maps", "sigmoid map"):
            out = 1 if "maps" not in kind and "map" in kind else 3
            self.last = positive(nn.Conv2d(channels, out, 1), random)
        else:
            cells = 4 if kind == "cells" else 1
            self.norm = _norm(channels) if kind == "tokens" else None
            self.last = positive(nn.Linear(cells * channels, 3), random)

    def forward(self, x):
        if self.kind == "pool":
            return self.last(F.adaptive_avg_pool2d(x, 1).flatten(1))
        if self.kind == "mean":
            return self.last(x.mean((2, 3)))
        if self.kind == "cells":
            return self.last(F.adaptive_avg_pool2d(x, 2).flatten(1))
        if self.kind == "tokens":
            return self.last(self.norm(x).mean(1))
        if self.kind == "last":
            return self.last(x.mean((1, 2)))
        x = self.last(x)
        if self.kind == "conv":
            return x.mean((2, 3))
        return x.sigmoid() if self.kind == "sigmoid map" else x


@dataclass(frozen=True)
class Decide(Part):
    """The output: classes by pooling, or maps of one channel or of several."""

    kind: str = "pool"
    weighted = True

    @property
    def maps(self) -> bool:
        return "map" in self.kind

    def build(self, channels, random):
        return Decision(self.kind, channels, random), channels
