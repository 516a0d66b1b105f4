"""Hypothesis draws networks: moves of the image, stages with downsampling between, an output."""

from __future__ import annotations

from math import gcd

import torch
from hypothesis import strategies as st

from tests.generated.blocks import (
    ACTIVATIONS,
    Act,
    Branches,
    Excite,
    Gate,
    Hooked,
    Norm,
    Normalise,
    Residual,
    Siamese,
)
from tests.generated.networks import Case, Decode, Denoise, Views
from tests.generated.parts import (
    Blur,
    Conv,
    Crop,
    Flip,
    Pad,
    Part,
    Pool,
    Resize,
    Rotate,
    Subsample,
    Transpose,
    Unshuffle,
)
from tests.generated.tokens import ChannelsLast, Decide, MergePatches, Tokens

SIZES = ((32, 48), (48, 32), (33, 47), (40, 40), (24, 64))
# One channel has no statistic but its mean; 16, 24, 32 and 48 are also numbers of rows or columns.
WIDTHS = (4, 6, 3, 5, 7, 8, 2, 1, 16, 24, 32, 48)
STRIDES = ((2, 2), (2, 2), (2, 2), (1, 2), (2, 1), (3, 3), (4, 4))
SINGLE = (1, 1)
# The fewest rows or columns of a scale.
LEAST = 4
# The most that a network shrinks an axis.
MOST = 8


class _Draft:
    """The parts so far, with a tensor that went through them, to see what fits."""

    def __init__(self, draw, size: tuple[int, int], channels: int):
        self.draw = draw
        self.parts: list[Part] = []
        self.x = torch.zeros(1, channels, *size)
        self.channels = channels
        self.last = False
        self.shrunk = 1.0

    def pick(self, *options):
        return self.draw(st.sampled_from(options))

    def chance(self, one_in: int) -> bool:
        return self.draw(st.integers(0, one_in - 1)) == one_in - 1

    @property
    def size(self) -> tuple[int, int]:
        shape = self.x.shape
        return (shape[1], shape[2]) if self.last else (shape[2], shape[3])

    def add(self, *parts: Part) -> bool:
        """Add parts if enough locations are left after them."""
        x, channels = self.x, self.channels
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for part in parts:
                try:
                    layer, channels = part.build(channels, random)
                    x = layer(x.clone())
                except RuntimeError:
                    # The part is larger than what is left.
                    return False
        flat = x.dim() == 3
        if not flat and min(x.shape[1:3] if self.last else x.shape[2:]) < LEAST:
            return False
        self.parts += parts
        self.x, self.channels = x, channels
        return True

    def width(self) -> int:
        area = self.size[0] * self.size[1]
        return self.pick(*[width for width in WIDTHS if width <= 8 or width * area <= 12_000])


def _moves(draft: _Draft, most: int, early: bool) -> None:
    """Moves of the image or of a stage's tensor."""
    for _ in range(draft.draw(st.integers(0, most))):
        kind = draft.pick("crop", "pad", "flip", "transpose", "rotate", *(["resize"] * early))
        few = st.integers(0, 8 if early else 2)
        left, right, top, bottom = (draft.draw(few) for _ in range(4))
        if kind == "crop":
            draft.add(Crop(left, right, top, bottom, draft.pick("slice", "narrow", "index", "pad")))
        elif kind == "pad":
            mode = draft.pick("constant", "constant", "replicate", "reflect")
            if mode == "reflect":
                left, right, top, bottom = (min(side, 3) for side in (left, right, top, bottom))
            draft.add(Pad(left, right, top, bottom, mode))
        elif kind == "flip":
            draft.add(Flip(*draft.pick((False, True), (True, False), (True, True))))
        elif kind == "transpose":
            draft.add(Transpose(draft.pick("transpose", "permute")))
        elif kind == "rotate":
            draft.add(Rotate(draft.pick(1, 2, 3)))
        else:
            to = draft.pick(0.5, 2.0, (40, 40), (36, 60))
            draft.add(Resize(to, draft.pick("bilinear", "nearest")))


def _act(draft: _Draft) -> Act:
    name = draft.pick("relu", "relu", *ACTIVATIONS)
    hows = ["module", "module", "function"]
    if name in ("relu", "silu", "hardswish"):
        hows.append("inplace")
    return Act(name, draft.pick(*hows))


def _conv(draft: _Draft, stride: tuple[int, int] = SINGLE) -> Conv:
    if stride == SINGLE:
        kernel = draft.pick((3, 3), (3, 3), (1, 1), (5, 5), (3, 1), (1, 3), (2, 2))
    else:
        kernel = draft.pick(*[tuple(one + more for one in stride) for more in (0, 1)], (5, 5))
    out = draft.width()
    groups: int | str = 1
    if draft.chance(5):
        groups = draft.pick("depthwise", gcd(draft.channels, out))
    dilation = 2 if stride == SINGLE and draft.chance(6) else 1
    half = tuple(dilation * (one - 1) // 2 for one in kernel)
    padding: tuple[int, int] | str = half
    if draft.chance(4):
        padding = draft.pick("valid", "full", *(["same"] * (stride == SINGLE)))
    zero = padding not in ("valid", "full") and max(half) > 0 and padding != "same"
    mode = "zeros"
    if zero and draft.chance(5):
        mode = draft.pick("reflect", "replicate", "circular")
    return Conv(out, kernel, stride, padding, dilation, groups, mode, draft.pick(True, False))


def _weighted(draft: _Draft, stride: tuple[int, int] = SINGLE) -> bool:
    """A convolution with its norm and activation."""
    conv: Part = _conv(draft, stride)
    if draft.chance(8):
        conv = Hooked(conv, draft.pick("halved", "squared"))
    norm = (Norm(draft.pick("batch", "batch", "group")),) if draft.chance(4) else ()
    act: Part = _act(draft)
    if act.how == "module" and draft.chance(8):
        act = Hooked(act, draft.pick("halved", "squared", "silenced"))
    return draft.add(conv, *norm, act)


def _blocks(draft: _Draft) -> tuple[str, ...]:
    return tuple(draft.pick("linear", "mix", "attention") for _ in range(draft.pick(1, 2)))


def _stage(draft: _Draft, first: bool) -> None:
    """One or more blocks at one resolution; the first, if there are no weights yet, has some."""
    if first:
        draft.add(Conv(4), Act()) if not _weighted(draft) else None
    for _ in range(draft.draw(st.integers(0, 2))):
        kind = draft.pick(
            *("conv", "residual", "gate", "excite", "branches", "siamese", "tokens", "last")
        )
        if kind == "conv":
            _weighted(draft)
        elif kind == "residual":
            out = draft.pick(draft.channels, draft.width())
            draft.add(Residual(out, SINGLE, draft.pick("relu", None, "silu"), draft.chance(3)))
        elif kind == "gate":
            draft.add(Gate(draft.pick("nearest", "bilinear")))
        elif kind == "excite":
            draft.add(Excite())
        elif kind == "branches":
            draft.add(Branches(draft.pick(2, 3, 4)))
        elif kind == "siamese":
            draft.add(Siamese(draft.pick(2, 3, 4), draft.pick("sum", "cat", "max")))
        elif kind == "tokens" and draft.size[0] * draft.size[1] <= 800:
            draft.add(Tokens(_blocks(draft), draft.chance(3)))
        elif kind == "last":
            blocks = _blocks(draft)
            if "attention" not in blocks or draft.size[0] * draft.size[1] <= 800:
                draft.add(ChannelsLast(blocks))


def _down(draft: _Draft) -> bool:
    """A downsampling, and the first weights after it."""
    stride = draft.pick(*STRIDES)
    if draft.shrunk * max(stride) > MOST:
        stride = (2, 2)
    kinds = ["pool", "conv", "residual", "pad"]
    if stride == (2, 2):
        kinds += ["blur", "subsample", "unshuffle", "resize"]
    kind = draft.pick(*kinds)
    before = len(draft.parts)
    if kind == "pool":
        more = draft.pick(0, 1)
        kernel = tuple(one + more for one in stride)
        padding = tuple(min(more, one // 2) for one in kernel)
        pooling = Pool(draft.pick("max", "avg"), kernel, stride, padding, draft.chance(3))
        done = draft.add(pooling)
    elif kind == "conv":
        done = _weighted(draft, stride)
    elif kind == "residual":
        done = draft.add(Residual(draft.width(), stride, draft.pick("relu", None)))
    elif kind == "pad":
        done = draft.add(
            Pad(0, 1, 0, 1),
            Conv(draft.width(), tuple(one + 1 for one in stride), stride, "valid"),
            _act(draft),
        )
    elif kind == "blur":
        pooled = (Pool("max", (2, 2), SINGLE),) if draft.chance(2) else ()
        done = draft.add(*pooled, Blur())
    elif kind == "subsample":
        done = draft.add(Subsample())
    elif kind == "unshuffle":
        done = draft.add(Unshuffle())
    else:
        done = draft.add(Resize(0.5, draft.pick("bilinear", "nearest", "area")))
    if not done:
        del draft.parts[before:]
        return False
    draft.shrunk *= max(stride)
    return True


def _end(draft: _Draft, downs: int, plain: bool) -> None:
    """The last blocks and the output."""
    kind = draft.pick("classes", "classes", "classes", "map", "decoder", "tokens", "last")
    if kind == "tokens":
        draft.add(Tokens(_blocks(draft), draft.chance(3), back=False))
        draft.parts.append(Decide("tokens"))
    elif kind == "last":
        draft.last = True
        draft.add(ChannelsLast(_blocks(draft), back=False))
        if draft.chance(2) and min(draft.size) >= 2 * LEAST:
            draft.add(MergePatches(8), ChannelsLast(("mix",), enter=False, back=False))
        draft.parts.append(Decide("last"))
    elif kind == "decoder" and plain:
        draft.parts.append(Decode(draft.draw(st.integers(1, downs)), draft.draw(st.booleans())))
        draft.parts.append(Decide(draft.pick("maps", "map", "sigmoid map", "pool")))
    elif kind == "map":
        draft.parts.append(Decide(draft.pick("map", "sigmoid map", "maps")))
    else:
        draft.parts.append(Decide(draft.pick("pool", "mean", "cells", "conv")))


def _widths(part: object) -> list[int]:
    inner = getattr(part, "part", None)
    return ([part.out] if hasattr(part, "out") else []) + (_widths(inner) if inner else [])


@st.composite
def cases(draw) -> Case:
    """A network of two to four scales, with its images."""
    size = draw(st.sampled_from(SIZES))
    channels = draw(st.sampled_from((3, 3, 1, 4)))
    draft = _Draft(draw, size, channels)
    if draft.chance(12):
        draft.parts.append(Views())
    _moves(draft, 2, early=True)
    if draft.chance(6):
        draft.add(Normalise())
    if draft.chance(8):
        draft.add(Denoise(draft.pick(False, True)))
    _stage(draft, first=True)
    plain, downs = True, 0
    for _ in range(draw(st.integers(1, 3))):
        begin = len(draft.parts)
        if not _down(draft):
            continue
        downs += 1
        added = draft.parts[begin:]
        plain &= len(added) == 1 or isinstance(added[0], Conv | Hooked)
        plain &= not isinstance(added[0], Blur | Subsample | Unshuffle | Resize | Hooked)
        weighted = any(part.weighted for part in added)
        if draft.chance(4):
            _moves(draft, 1, early=False)
            # The last tensor of a scale is what weights make, and not what then moves.
            weighted &= len(draft.parts) == begin + len(added)
            plain &= len(draft.parts) == begin + len(added)
        _stage(draft, first=not weighted)
    if not downs:
        draft.add(Pool(), Conv(6), Act())
        downs = 1
    _end(draft, downs, plain)
    single = any(1 in _widths(part) for part in draft.parts)
    return Case(
        tuple(draft.parts),
        size,
        channels,
        draw(st.sampled_from(("float32", "float32", "float64", "float16", "bfloat16"))),
        (draw(st.sampled_from((0.3, 0.5, 0.7))), draw(st.sampled_from((0.7, 0.35, 0.5)))),
        draw(st.sampled_from((2, 3, 1))),
        draw(st.integers(0, 9)),
        draw(st.booleans()),
        "mean" if single else draw(st.sampled_from(("smoe_scale", "smoe_scale", "mean"))),
    )
