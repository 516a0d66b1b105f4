"""The tensor of each scale: the last before the next downsampling on the way to the decision."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastsal import FastCAM, SMOEScale, find_scales
from fastsal.networks import hooks
from fastsal.networks.layers import NamedLayer


def conv(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride, 1)


def stage(inputs, outputs):
    return nn.Sequential(conv(inputs, outputs), nn.ReLU(), conv(outputs, outputs), nn.ReLU())


def image(height=32, width=48, number=1):
    return torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(0))


class Watched(nn.Module):
    """A network that keeps the tensors which the test names as its scales."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.kept = []

    def keep(self, tensor):
        self.kept.append(tensor)
        return tensor


class Gated(Watched):
    """A coarse gate on a branch between two stages."""

    def __init__(self, form="interpolate"):
        super().__init__()
        self.form = form
        self.first, self.second = stage(3, 8), stage(8, 16)
        self.gate, self.up = nn.Conv2d(16, 16, 1), nn.ConvTranspose2d(16, 16, 2, 2)
        self.last, self.head = stage(16, 16), nn.Linear(16, 5)

    def forward(self, x):
        self.kept = []
        x = F.max_pool2d(self.keep(self.first(x)), 2)
        x = self.second(x)
        coarse = torch.sigmoid(self.gate(F.avg_pool2d(x, 2)))
        if self.form == "interpolate":
            coarse = F.interpolate(coarse, scale_factor=2)
        elif self.form == "transposed":
            coarse = self.up(coarse)
        else:
            coarse = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = self.last(x * coarse)
        return self.head(self.keep(x).mean((2, 3)))


GATES = {
    "sigmoid": lambda coarse: F.interpolate(torch.sigmoid(coarse), scale_factor=2),
    "one more": lambda coarse: 1 + F.interpolate(coarse, scale_factor=2).sigmoid(),
    "hardsigmoid": lambda coarse: F.interpolate(F.hardsigmoid(coarse), scale_factor=2).mul(2),
    "softmax": lambda coarse: (
        coarse.flatten(2).softmax(2).view_as(coarse).repeat_interleave(2, 2).repeat_interleave(2, 3)
    ),
}


class HeavyGate(Watched):
    """A coarse gate with most of the weights at the end of the last stage."""

    def __init__(self, form, activation=torch.relu):
        super().__init__()
        self.form, self.activation = GATES[form], activation
        self.first, self.second = stage(3, 4), stage(4, 6)
        self.gate = nn.Sequential(conv(6, 24), nn.ReLU(), conv(24, 24), nn.ReLU(), conv(24, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        self.kept = []
        x = F.max_pool2d(self.keep(self.first(x)), 2)
        x = self.activation(self.second(x))
        x = x * self.form(self.gate(F.avg_pool2d(x, 2)))
        return self.head(self.keep(x).mean((2, 3)))


class Asked(Watched):
    """A last stage whose tokens learned queries ask, as of attention pooling; `form` writes it."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        self.first, self.second = stage(3, 8), stage(8, 12)
        self.queries = nn.Parameter(torch.randn(1, 4, 12))
        self.keys, self.values, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x):
        self.kept = []
        x = F.max_pool2d(self.keep(self.first(x)), 2)
        x = self.keep(self.second(x)).flatten(2).transpose(1, 2)
        queries = self.queries.expand(len(x), -1, -1)
        keys, values = self.keys(x), self.values(x)
        if self.form == "fused":
            asked = F.scaled_dot_product_attention(queries, keys, values)
        else:
            shares = queries @ keys.transpose(1, 2)
            shares = F.dropout((shares / 12**0.5).softmax(2), 0.1, self.training)
            asked = torch.bmm(shares, values)
        return self.head(asked.mean(1))


class ReducedKeys(Watched):
    """A first stage with attention whose keys are as coarse as the last stage's tensor."""

    def __init__(self):
        super().__init__()
        self.first, self.reduce = stage(3, 8), nn.Conv2d(8, 8, 4, 4)
        self.second, self.third = stage(8, 12), stage(12, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        self.kept = []
        x = self.first(x)
        for _ in range(2):
            keys = self.reduce(x).flatten(2).transpose(1, 2)
            tokens = x.flatten(2).transpose(1, 2)
            tokens = tokens + F.scaled_dot_product_attention(tokens, keys, keys)
            x = tokens.transpose(1, 2).unflatten(2, x.shape[2:])
        x = F.max_pool2d(self.keep(x.relu()), 2)
        x = F.max_pool2d(self.keep(self.second(x)), 2)
        return self.head(self.keep(self.third(x)).mean((2, 3)))


class LateSum(Watched):
    """An activation at the start of the last stage, then residual sums without one."""

    def __init__(self, blocks=3):
        super().__init__()
        self.first = stage(3, 8)
        self.down = nn.Sequential(conv(8, 16, 2), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(16), conv(16, 32), nn.ReLU(), conv(32, 16))
            for _ in range(blocks)
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))

    def forward(self, x):
        self.kept = []
        x = self.down(self.keep(self.first(x)))
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.keep(x))


class Tokens(Watched):
    """A last stage of tokens (N, L, C), with a class token in front or none."""

    def __init__(self, with_class=False, back=False):
        super().__init__()
        self.with_class, self.back = with_class, back
        self.first, self.down = stage(3, 8), conv(8, 16, 2)
        self.norm, self.mix = nn.LayerNorm(16), nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        self.kept = []
        x = self.down(self.keep(self.first(x)))
        height, width = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        if self.with_class:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        q, k, v = self.mix(self.norm(x)).chunk(3, -1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v))
        tokens = x[:, 1:] if self.with_class else x
        self.keep(tokens.transpose(1, 2).unflatten(2, (height, width)))
        if self.back:
            x = tokens.transpose(1, 2).reshape(-1, 16, height, width)
            return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return self.head(self.norm(x).mean(1))


class Denoiser(nn.Module):
    """Down and up again, to an image."""

    def __init__(self, depth):
        super().__init__()
        self.first, self.down = stage(3, 8), nn.ModuleList(stage(8, 8) for _ in range(depth))
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        skips = [self.first(x)]
        for down in self.down:
            skips.append(down(F.max_pool2d(skips[-1], 2)))
        x = skips.pop()
        for skip in reversed(skips):
            x = skip + F.interpolate(x, size=skip.shape[2:])
        return self.last(x)


class InARow(Watched):
    """A network that makes an image, then one that classifies it."""

    def __init__(self, depth):
        super().__init__()
        self.denoise = Denoiser(depth)
        self.first, self.second, self.head = stage(3, 8), stage(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        self.kept = []
        x = self.keep(self.first(x - self.denoise(x)))
        x = self.keep(self.second(F.max_pool2d(x, 2)))
        return self.head(x.mean((2, 3)))


class Dense(Watched):
    """Features, and an output on the images' grid."""

    def __init__(self, channels, end):
        super().__init__()
        self.first, self.second = stage(3, 8), stage(8, 8)
        self.head, self.end = nn.Conv2d(8, channels, 1), end

    def forward(self, x):
        self.kept = []
        x = self.keep(self.first(x))
        x = self.keep(self.second(F.max_pool2d(x, 2)))
        return self.end(self.head(x))


class TwoPaths(Watched):
    """Cells that read the two cells before: no tensor of the middle scale cuts the network."""

    def __init__(self):
        super().__init__()
        self.first = stage(3, 8)
        self.cells = nn.ModuleList(stage(16, 8) for _ in range(4))
        self.last, self.head = stage(16, 8), nn.Linear(8, 5)

    def forward(self, x):
        self.kept = []
        x = self.keep(self.first(x))
        a, b = F.max_pool2d(x, 2), F.avg_pool2d(x, 2)
        for cell in self.cells:
            a, b = b, cell(torch.cat([a, b], 1))
        self.keep(b)
        a, b = F.max_pool2d(a, 2), F.max_pool2d(b, 2)
        x = self.keep(self.last(torch.cat([a, b], 1)))
        return self.head(x.mean((2, 3)))


class OneAxis(Watched):
    """Pooling of one axis, with as many channels as columns."""

    def __init__(self, pooling):
        super().__init__()
        self.pooling = pooling
        self.first, self.second, self.head = stage(3, 48), stage(48, 48), nn.Linear(48, 5)

    def forward(self, x):
        self.kept = []
        x = self.keep(self.first(x))
        x = self.keep(self.second(F.max_pool2d(x, self.pooling)))
        return self.head(x.mean((2, 3)))


class Recurrent(Watched):
    """Text: pooled to one row, and read by a recurrent network."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([stage(3, 8), stage(8, 8), stage(8, 8), stage(8, 8)])
        self.pooling = [(2, 2), (2, 2), (4, 1), (2, 1)]
        self.read, self.head = nn.LSTM(8, 8, bidirectional=True), nn.Linear(16, 5)

    def forward(self, x):
        self.kept = []
        for own, pooling in zip(self.stages, self.pooling, strict=True):
            x = F.max_pool2d(self.keep(own(x)), pooling)
        found, _ = self.read(x.squeeze(2).permute(2, 0, 1))
        self.keep(found.permute(1, 2, 0).unsqueeze(2))
        return self.head(found)


NETWORKS = {
    "a gate, interpolated": lambda: Gated(),
    "a gate, by a transposed convolution": lambda: Gated("transposed"),
    "a gate, repeated": lambda: Gated("repeated"),
    **{f"a heavy gate, {form}": lambda form=form: HeavyGate(form) for form in GATES},
    "a heavy gate of values in a range": lambda: HeavyGate("sigmoid", torch.tanh),
    "learned queries, fused": lambda: Asked("fused"),
    "learned queries, written": lambda: Asked("written"),
    "coarse keys and values": lambda: ReducedKeys(),
    "a residual sum late in the stage": lambda: LateSum(),
    "many residual sums": lambda: LateSum(6),
    "tokens": lambda: Tokens(),
    "tokens with a class token": lambda: Tokens(with_class=True),
    "tokens that come back to the grid": lambda: Tokens(back=True),
    "class tokens that go": lambda: Tokens(with_class=True, back=True),
    "a shallow denoiser before": lambda: InARow(1),
    "a deep denoiser before": lambda: InARow(3),
    "an output of one channel": lambda: Dense(1, nn.Sigmoid()),
    "a density map": lambda: Dense(1, nn.ReLU()),
    "a map of numbers": lambda: Dense(1, nn.Identity()),
    "a segmentation": lambda: Dense(4, nn.Softmax(1)),
    "an enlarged segmentation": lambda: Dense(4, nn.Upsample(scale_factor=2, mode="bilinear")),
    "two paths": lambda: TwoPaths(),
    "pooled along rows": lambda: OneAxis((1, 2)),
    "pooled along columns": lambda: OneAxis((2, 1)),
    "pooled to one row": lambda: OneAxis((32, 1)),
    "text": lambda: Recurrent(),
}


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_tensors_are_those_that_the_network_names(name, number):
    network = NETWORKS[name]().eval()
    images = image(number=number)
    scales = find_scales(network, images)
    network(images)
    expected = network.kept
    taps = [NamedLayer.of_scale(scale).tap(torch.clone) for scale in scales]
    with torch.no_grad():
        _, values = hooks.forward(network, (images,), None, taps)
    read = [
        scale.channels_first(value.relu() if scale.functional_relu else value)
        for scale, value in zip(scales, values, strict=True)
    ]
    assert [tuple(tensor.shape) for tensor in read] == [tuple(t.shape) for t in expected]
    for tensor, kept in zip(read, expected, strict=True):
        torch.testing.assert_close(tensor, kept)


ACTIVATIONS = {
    "silu": (nn.SiLU(), lambda x: x * torch.sigmoid(x)),
    "silu, in another order": (nn.SiLU(), lambda x: torch.sigmoid(x).mul(x)),
    "relu by clamp": (nn.ReLU(), lambda x: x.clamp(min=0)),
    "relu by maximum": (nn.ReLU(), lambda x: torch.maximum(x, torch.zeros(()))),
    "relu by a mask": (nn.ReLU(), lambda x: x * (x > 0)),
    "leaky relu by where": (nn.LeakyReLU(0.1), lambda x: torch.where(x > 0, x, 0.1 * x)),
    "hardswish": (nn.Hardswish(), lambda x: x * F.relu6(x + 3) / 6),
    "mish": (nn.Mish(), lambda x: x * torch.tanh(F.softplus(x))),
    "gelu": (nn.GELU(), lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))),
}


class Written(nn.Module):
    """Convolutions with a given activation function, and pooling by modules or by functions."""

    def __init__(self, function, pool=None):
        super().__init__()
        self.pooled = pool
        torch.manual_seed(0)
        self.one, self.two, self.three = conv(3, 8), conv(8, 8), conv(8, 8)
        self.down, self.pool, self.head = conv(8, 8, 2), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)
        self.function = function

    def forward(self, x):
        x = self.function(self.one(x))
        x = self.function(self.two(x))
        x = self.function(self.down(x))
        if self.pooled is not None:
            return self.head(self.pooled(self.function(self.three(x))).flatten(1))
        return self.head(self.pool(self.function(self.three(x))).flatten(1))


def pooled(x):
    return F.adaptive_avg_pool2d(x, 1)


@pytest.mark.parametrize("pool", [None, pooled], ids=["modules", "functions"])
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.filterwarnings("ignore:layer.* give negative activations")
def test_an_activation_is_what_it_computes(name, pool):
    module, written = ACTIVATIONS[name]
    named, by_hand = Written(module, pool).eval(), Written(written, pool).eval()
    torch.testing.assert_close(named(image()), by_hand(image()))
    expected, found = SMOEScale(named).maps(image()), SMOEScale(by_hand).maps(image())
    for one, other in zip(expected.per_scale, found.per_scale, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    cams = [FastCAM(network).attribute(image(), 1) for network in (named, by_hand)]
    assert cams[0].amax() > 0.1
    torch.testing.assert_close(cams[0], cams[1], atol=1e-3, rtol=1e-3)


class InWindows(nn.Module):
    """Sums inside windows of 4x4, put together again by functions, perhaps inside a module."""

    def __init__(self, together):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 12, 2, 2)
        self.mixed = nn.ModuleList([nn.Linear(8, 8), nn.Linear(12, 12)])
        self.together = together
        self.head = nn.Linear(12, 5)

    def stage(self, x, mixed):
        n, c, h, w = x.shape
        x = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        x = x + mixed(x).relu()
        x = x.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4)
        return self.together(x.reshape(n, c, h, w))

    def forward(self, x):
        x = self.stage(self.one(x), self.mixed[0])
        return self.head(self.stage(self.two(x), self.mixed[1]).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:layer.* give negative activations")
def test_sums_inside_windows_are_read_where_they_are_put_together():
    inputs = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    bare, inside = InWindows(lambda x: x).eval(), InWindows(nn.Identity()).eval()
    scales = find_scales(inside, inputs)
    assert [(scale.name, scale.stride) for scale in scales] == [("together", 4), ("together", 8)]
    expected, found = (SMOEScale(network).maps(inputs) for network in (inside, bare))
    assert [scale.stride for scale in found.scales] == [4, 8]
    for one, other in zip(expected.per_scale, found.per_scale, strict=True):
        assert torch.equal(one, other)


class NormByHand(nn.Module):
    """A channel norm written by hand, before the downsampling."""

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-6) * 2.0 + 0.5


class RootMeanSquare(nn.Module):
    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)


@pytest.mark.parametrize("norm", [NormByHand(), RootMeanSquare(), nn.GroupNorm(1, 8)])
def test_a_norm_is_no_scale_however_it_is_written(norm):
    torch.manual_seed(0)
    network = nn.Sequential(
        conv(3, 8), nn.ReLU(), norm, conv(8, 8, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    assert [scale.name for scale in find_scales(network.eval(), image())] == ["1", "4"]


def test_channels_last_on_evidence_alone():
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d((1, 2))),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    scales = find_scales(network, torch.rand(1, 1, 64, 64))
    assert [(s.name, s.strides, s.channels_last) for s in scales] == [
        ("1", (1, 1), False),
        ("4", (1, 2), False),
    ]
