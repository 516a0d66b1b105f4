"""Operations of PyTorch's own layers, forwards and backwards, and of attention."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from evaluation.profiling.operations import Operations, count_operations

# Arguments of the layers that want some, and what they are for.
_GIVEN: dict[str, tuple[object, ...]] = {
    "Threshold": (0.1, 1.0),
    "LPPool1d": (2, 2),
    "LPPool2d": (2, 2),
    "LPPool3d": (2, 2),
    "LocalResponseNorm": (3,),
    "GroupNorm": (2, 4),
    "LayerNorm": ([8] * 2,),
    "RMSNorm": ([8] * 2,),
}
# Unpooling needs the places of a pooling, attention three inputs (below); the lazy ones become
# those that are here, and their own backward pass is none of PyTorch's operations.
_LEFT_OUT = re.compile(
    "MaxUnpool|MultiheadAttention|Lazy|SyncBatchNorm|CrossMapLRN2d|Unflatten|Fold$"
)


_MODULES = ("activation", "pooling", "padding", "normalization", "batchnorm", "instancenorm")


def _layers() -> Iterator[nn.Module]:
    """An instance of each layer of PyTorch without weights of many channels."""
    for module in (
        "activation",
        "pooling",
        "padding",
        "normalization",
        "batchnorm",
        "instancenorm",
    ):
        for name in getattr(nn.modules, module).__all__:
            if _LEFT_OUT.search(name):
                continue
            given = _GIVEN.get(name)
            if given is None:
                given = {
                    "pooling": (2,), "padding": (1,), "batchnorm": (4,), "instancenorm": (4,)
                }.get(module, ())  # fmt: skip
            if name.startswith("ConstantPad"):
                given = (1, 0.5)
            if name.startswith("FractionalMaxPool"):
                yield getattr(nn, name)(2, output_size=3)
            else:
                yield getattr(nn, name)(*given)
    for mode in ("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear"):
        yield nn.Upsample(scale_factor=2, mode=mode)
    yield from (nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2), nn.Unfold(2))
    yield from (nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.Flatten())


def _axes(layer: nn.Module) -> int:
    """The number of axes of the samples that a layer is for."""
    if isinstance(layer, nn.Upsample):
        return {"linear": 1, "trilinear": 3}.get(layer.mode, 2)
    found = re.search(r"([123])d$", type(layer).__name__)
    return 2 if found is None else int(found[1])


@pytest.mark.filterwarnings("ignore:Implicit dimension choice", "ignore:.*non-deterministic")
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("layer", list(_layers()), ids=repr)
def test_every_layer_has_rules_forwards_and_backwards(layer, training):
    layer = layer.train(training)
    inputs = torch.rand(2, 4, *[8] * _axes(layer), requires_grad=True)

    def gradient() -> None:
        torch.autograd.grad(layer(inputs).sum(), inputs)

    assert count_operations(gradient).unknown == ()


def test_backward_operations_by_hand():
    x = torch.rand(2, 4, 8, 8, requires_grad=True)
    n = x.numel()

    def gradient(of: Callable[[torch.Tensor], torch.Tensor]) -> Operations:
        with torch.no_grad():
            output = of(x)
        # Of the sum that is derived, and its gradient, which is spread without arithmetic.
        total = count_operations(lambda: torch.autograd.grad(of(x).sum(), x))
        return (
            total - count_operations(lambda: of(x.detach())) - Operations(reduction=output.numel())
        )

    assert gradient(F.relu6) == Operations(elementwise=n)
    # A slope of 0 is a ReLU's.
    assert gradient(lambda x: F.leaky_relu(x, 0.0)) == Operations(elementwise=n)
    assert count_operations(lambda: F.leaky_relu(x.detach(), 0.0)) == Operations(elementwise=n)
    assert count_operations(lambda: F.leaky_relu(x.detach())) == Operations(elementwise=2 * n)
    assert gradient(F.leaky_relu) == Operations(elementwise=2 * n)
    assert gradient(F.elu) == Operations(elementwise=2 * n, transcendental=n)
    assert gradient(lambda x: x.softmax(1)) == Operations(elementwise=3 * n, reduction=n)
    assert gradient(lambda x: F.layer_norm(x, [8])) == Operations(
        elementwise=7 * n, reduction=4 * n
    )
    assert gradient(lambda x: F.adaptive_max_pool2d(x, 2)) == Operations(elementwise=n // 16)
    assert gradient(lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")) == Operations(
        elementwise=35 * 4 * n
    )


def test_volumes_by_hand():
    x = torch.rand(1, 2, 4, 4, 4)
    n = x.numel()
    cases = {
        lambda: F.max_pool3d(x, 2): Operations(elementwise=n),
        lambda: F.avg_pool3d(x, (2, 2, 1)): Operations(elementwise=n),
        lambda: F.adaptive_avg_pool3d(x, 2): Operations(elementwise=n // 8, reduction=n),
        lambda: F.interpolate(x, scale_factor=2, mode="trilinear"): Operations(
            elementwise=21 * 8 * n
        ),
        lambda: F.interpolate(x[..., 0, 0], scale_factor=2, mode="linear"): Operations(
            elementwise=3 * 2 * n // 16
        ),
    }
    for work, expected in cases.items():
        assert count_operations(work) == expected


@pytest.mark.parametrize("backwards", [False, True])
def test_fused_attention_has_the_matrix_products_of_its_formula(backwards):
    heads, queries, keys, width = 3, 5, 7, 16
    q, k, v = (
        torch.rand(2, heads, length, width, requires_grad=True) for length in (queries, keys, keys)
    )

    def attention() -> torch.Tensor:
        found = F.scaled_dot_product_attention(q, k, v)
        if backwards:
            torch.autograd.grad(found.sum(), (q, k, v))
        return found

    # Q K^T and its product with V; backwards two products for each.
    products = 2 * (3 if backwards else 1)
    found = count_operations(attention)
    assert found.flops == products * 2 * (2 * heads * queries * keys * width)
    assert found.unknown == ()


def test_transformer_layers_count_the_same_with_and_without_pytorch_s_fast_path():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    inputs = torch.rand(2, 5, 16)

    def fast() -> torch.Tensor:
        with torch.inference_mode():
            return layer(inputs)

    before = torch.backends.mha.get_fastpath_enabled()
    found = count_operations(fast)
    assert torch.backends.mha.get_fastpath_enabled() is before
    tokens = 2 * 5
    projections, hidden, products = 4 * 16 * 16, 2 * 16 * 32, 2 * 5 * 16
    assert found.flops == 2 * tokens * (projections + hidden + products)
    assert found.unknown == ()
