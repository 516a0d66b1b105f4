"""One small network of each kind."""

from __future__ import annotations

from tests.generated.blocks import (
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

STEM = (Conv(4), Act())
STAGE = (Conv(6), Act())


def before(*parts: Part, **options) -> Case:
    """These parts, then two stages."""
    return Case((*parts, *STEM, Pool(), *STAGE, Decide()), **options)


def between(*parts: Part, **options) -> Case:
    """These parts after the first downsampling, and the second stage."""
    return Case((*STEM, Pool(), *parts, *STAGE, Decide()), **options)


def down(*parts: Part, **options) -> Case:
    """These parts for the downsampling."""
    return Case((*STEM, *parts, *STAGE, Decide()), **options)


def late(*parts: Part, **options) -> Case:
    """These parts at the end of both stages, then a third."""
    return Case(
        (*STEM, *parts, Pool(), *STAGE, *parts, Pool(), Conv(5), Act(), Decide()), **options
    )


KINDS: dict[str, Case] = {
    "plain": before(),
    "training mode": before(training=True),
    "float64": before(dtype="float64"),
    "float16": before(dtype="float16"),
    "bfloat16": before(dtype="bfloat16"),
    "one image channel": before(channels=1),
    "one channel inside": Case(
        (*STEM, Pool(), Conv(1), Act(), Pool(), *STAGE, Decide()), statistic="mean"
    ),
    "channels as many as rows": Case(
        (Conv(32), Act(), Pool(), Conv(24), Act(), Pool(), Conv(8), Act(), Decide())
    ),
    "crop by a slice": before(Crop(4, 12, 6, 0)),
    "crop by narrow": before(Crop(10, 2, 0, 8, "narrow")),
    "crop by index_select": before(Crop(8, 8, 4, 4, "index")),
    "crop by a negative pad": before(Crop(0, 16, 0, 8, "pad")),
    "pad to the right and below": before(Pad(0, 24, 0, 16)),
    "pad by reflection": before(Pad(4, 4, 4, 4, "reflect")),
    "mirror": before(Flip()),
    "upside down": before(Flip(rows=True, columns=False)),
    "transpose": before(Transpose()),
    "transpose by permute": before(Transpose("permute")),
    "quarter turn": before(Rotate(1)),
    "three quarter turns": before(Rotate(3)),
    "crop, then mirror": before(Crop(12, 0, 0, 4), Flip()),
    "resize to a square": before(Resize((40, 40))),
    "resize to half": before(Resize(0.5)),
    "resize to double": before(Resize(2.0, "nearest")),
    "every other pixel": before(Subsample()),
    "mirror between stages": between(Flip()),
    "crop between stages": between(Crop(4, 2, 1, 3)),
    "transpose between stages": between(Transpose()),
    "turn between stages": between(Rotate(2)),
    "pad between stages": between(Pad(0, 8, 0, 6)),
    "resize between stages": down(Resize(0.5)),
    "one axis": down(Pool(kernel=(1, 2), stride=(1, 2))),
    "one axis, then the other": Case(
        (
            *STEM,
            Pool("avg", (1, 2), (1, 2)),
            *STAGE,
            Pool("max", (2, 1), (2, 1)),
            Conv(5),
            Act(),
            Decide(),
        )
    ),
    "a convolution of stride (1, 2)": down(Conv(6, stride=(1, 2)), Act()),
    "stride 3": down(Conv(6, stride=(3, 3)), Act()),
    "stride 4": down(Conv(6, (5, 5), (4, 4), (2, 2)), Act()),
    "patches": Case(
        (Conv(6, (4, 4), (4, 4), (0, 0)), Act(), Conv(8, (2, 2), (2, 2), (0, 0)), Act(), Decide())
    ),
    "valid convolutions": Case(
        (
            Conv(4, (5, 5), padding="valid"),
            Act(),
            Conv(4, (5, 5), padding="valid"),
            Act(),
            Pool(),
            Conv(6, (3, 3), padding="valid"),
            Act(),
            Decide(),
        )
    ),
    "full convolutions": Case(
        (
            Conv(4, (5, 5), padding="full"),
            Act(),
            Conv(4, (5, 5), padding="full"),
            Act(),
            Pool(),
            Conv(6, (5, 5), padding="full"),
            Act(),
            Decide(),
        )
    ),
    "same by name": Case((Conv(4, padding="same", dilation=2), Act(), Pool(), *STAGE, Decide())),
    "circular": Case((Conv(4, mode="circular"), Act(), Pool(), *STAGE, Decide())),
    "groups": Case(
        (*STEM, Conv(4, groups="depthwise"), Act(), Pool(), Conv(6, groups=2), Act(), Decide())
    ),
    "max pooling that overlaps": down(Pool(kernel=(3, 3), padding=(1, 1))),
    "pooling with ceil": down(Pool(kernel=(3, 3), ceil=True), size=(33, 47)),
    "blur pooling": down(Pool(stride=(1, 1)), Blur()),
    "strided slice": down(Subsample()),
    "strided slice of one axis": down(Subsample(1, 2)),
    "pixel unshuffle": down(Unshuffle()),
    "pad, then a valid convolution": down(
        Pad(0, 1, 0, 1), Conv(6, stride=(2, 2), padding="valid"), Act()
    ),
    "gate at the end of stages": late(Gate()),
    "gate inside a stage": late(Gate(), Conv(5), Act()),
    "gate, bilinear": late(Gate("bilinear")),
    "gate of tanh at the end": Case(
        (*STEM, Pool(), Conv(6), Act("tanh"), Gate(), Decide("map")), statistic="mean"
    ),
    "edges repeated inside": Case(
        (
            *(*STEM, Pool(), *STAGE, Pad(2, 2, 1, 2, "replicate")),
            *(Conv(5, (2, 2), padding=(0, 0)), Act(), Decide()),
        )
    ),
    "denoiser, then pooling of stride 1": Case(
        (
            Denoise(residual=True),
            *STEM,
            Pool(stride=(1, 1)),
            Blur(),
            *STAGE,
            Pool(),
            *STAGE,
            Decide(),
        )
    ),
    "gate at the end": Case((*STEM, Pool(), *STAGE, Gate(), Decide())),
    "gate, then channels last": Case(
        (*STEM, Pool(), *STAGE, Gate(), ChannelsLast(back=False), Decide("last"))
    ),
    "gate, then blur pooling": down(Gate(), Pool(stride=(1, 1)), Blur()),
    "squeeze and excitation": late(Excite(), seed=1),
    "residuals": Case((*STEM, Residual(4), Residual(8, (2, 2)), Residual(8), Decide())),
    "residuals that end in a sum": Case(
        (
            *STEM,
            Residual(4, act=None),
            Residual(8, (2, 2), act=None),
            Residual(8, act=None),
            Decide(),
        )
    ),
    "residuals that add in place": Case(
        (*STEM, Residual(4, inplace=True), Pool(), *STAGE, Residual(6, inplace=True), Decide())
    ),
    "branches": late(Branches(3)),
    "siamese by sum": late(Siamese(4)),
    "siamese by cat": late(Siamese(3, "cat")),
    "tokens and back": late(Tokens(("linear",))),
    "tokens with attention and back": late(Tokens(("attention", "mix"))),
    "tokens to the end": Case(
        (*STEM, Pool(), *STAGE, Tokens(("mix", "attention"), back=False), Decide("tokens"))
    ),
    "tokens to the end, one more before them": Case(
        (*STEM, Pool(), *STAGE, Tokens(("mix", "linear"), True, False), Decide("tokens"))
    ),
    "repeated rows, then tokens": Case(
        (
            *(*STEM, Pool(), *STAGE, Pad(1, 0, 2, 0, "replicate")),
            *(Tokens(("mix",), back=False), Decide("tokens")),
        )
    ),
    "padded rows, then tokens": Case(
        (Pad(top=7), *STEM, Conv(6, stride=(2, 2)), Act(), Tokens(back=False), Decide("tokens"))
    ),
    "channels last and back": late(ChannelsLast(("linear", "mix"))),
    "channels last to the end": Case(
        (
            *STEM,
            Pool(),
            *STAGE,
            ChannelsLast(("mix",), back=False),
            MergePatches(8),
            ChannelsLast(("mix",), False, False),
            Decide("last"),
        )
    ),
    "views in the batch": before(Views()),
    "views, cropped": before(Views(), Crop(right=4)),
    "views, transposed, channels last": Case(
        (
            *(Views(), Transpose(), *STEM, Unshuffle(), *STAGE),
            *(ChannelsLast(("mix", "attention"), back=False), Decide("last")),
        )
    ),
    "a denoiser, then a classifier": before(Denoise()),
    "a denoiser with a residual": before(Denoise(residual=True)),
    "a decoder": Case(
        (*STEM, Pool(), *STAGE, Pool(), Conv(8), Act(), Decode(2, False), Decide("maps"))
    ),
    "a decoder with skips": Case(
        (*STEM, Pool(), *STAGE, Pool(), Conv(8), Act(), Decode(2), Decide("maps"))
    ),
    "a decoder with skips to one channel": Case(
        (*STEM, Pool(), *STAGE, Pool(), Conv(8), Act(), Decode(2), Decide("sigmoid map"))
    ),
    "an output of one channel": Case((*STEM, Pool(), *STAGE, Decide("map"))),
    "an output of one channel by sigmoid": Case((*STEM, Pool(), *STAGE, Decide("sigmoid map"))),
    "an output map of classes": Case((*STEM, Pool(), *STAGE, Decide("maps"))),
    "classes by convolution": Case((*STEM, Pool(), *STAGE, Decide("conv"))),
    "a mean of locations": Case((*STEM, Pool(), *STAGE, Decide("mean"))),
    "pooling to four cells": Case((*STEM, Pool(), *STAGE, Decide("cells"))),
    "in-place preprocessing": before(Normalise()),
    "in-place preprocessing of a part": before(Crop(4, 4, 2, 2), Normalise()),
    "in-place activations": Case(
        (Conv(4), Act("relu", "inplace"), Pool(), Conv(6), Act("silu", "inplace"), Decide())
    ),
    "activations by functions": Case(
        (Conv(4), Act("relu", "function"), Pool(), Conv(6), Act("gelu", "function"), Decide())
    ),
    "SiLU by hand": Case(
        (
            Conv(4),
            Act("x * sigmoid(x)"),
            Conv(4),
            Act("x * sigmoid(x)"),
            Pool(),
            Conv(6),
            Act("x * sigmoid(x)"),
            Decide(),
        )
    ),
    "SiLU by hand, between modules": Case(
        (
            Conv(4),
            Act("x * sigmoid(x)", "function"),
            Pool(),
            Conv(6),
            Act("x * sigmoid(x)", "function"),
            Decide(),
        )
    ),
    "ReLU by clamp": Case((Conv(4), Act("clamp"), Pool(), Conv(6), Act("clamp"), Decide())),
    "ReLU by maximum": Case((Conv(4), Act("maximum"), Pool(), Conv(6), Act("maximum"), Decide())),
    "batch norms": Case(
        (
            Conv(4, bias=False),
            Norm(),
            Act(),
            Pool(),
            Conv(6, bias=False),
            Norm(),
            Act("silu"),
            Decide(),
        )
    ),
    "group norms": Case((Conv(4), Norm("group"), Act(), Pool(), Conv(6), Act(), Decide())),
    "a user's hook on a scale": Case(
        (Conv(4), Hooked(Act(), "squared"), Pool(), Conv(6), Hooked(Act(), "silenced"), Decide())
    ),
    "a user's hook on a convolution": Case(
        (Hooked(Conv(4)), Act(), Pool(), Hooked(Conv(6), "squared"), Act(), Decide())
    ),
}
