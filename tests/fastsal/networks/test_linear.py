"""Scales that no activation function made: which they are, and that statistics centre them."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastsal import FastCAM, SMOEScale, find_scales
from fastsal.attribution.planned_reader import PlannedReader
from fastsal.export.model import with_fast_cam, with_map
from fastsal.export.onnx import write_onnx
from fastsal.export.onnx_graph.insertion import write_map_into
from fastsal.geometry.placement import Placement, View
from fastsal.kernels import cpu
from fastsal.networks.roles import is_linear, users_of
from fastsal.networks.scales import candidates
from fastsal.networks.trace import Trace
from fastsal.statistics import get_statistic, smoe_scale
from fastsal.statistics.centred import centred, less_means
from fastsal.statistics.registry import STATISTICS


class Made(nn.Module):
    """A convolution's result `x` of two resolutions, each of which a function makes `last` of."""

    def __init__(self, make, after=None):
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 2, 2)
        self.more = nn.Conv2d(8, 8, 3, padding=1)
        self.batch = nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.full((1, 8, 1, 1), 0.5))
        self.last, self.end = nn.Identity(), nn.Conv2d(8, 4, 3, padding=1)
        self.make, self.after = make, after

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = self.last(self.make(self, self.down(x)))
        if self.after is not None:
            x = self.after(self, x)
        return self.end(x).mean((2, 3))


def gate(net, x):
    return x * torch.sigmoid(net.more(x.mean((2, 3), keepdim=True)))


def by_hand_gelu(_, x):
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def layer_norm(_, x):
    return F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2)


# What makes the tensor, what reads it, and if 0 has no meaning in it.
CASES = {
    "convolution": (lambda _, x: x, None, True),
    "batch norm": (lambda net, x: net.batch(x), None, True),
    "residual stream": (lambda net, x: x + net.more(F.gelu(net.batch(x))), None, True),
    "residual stream, scaled": (lambda net, x: x + net.scale * net.more(F.gelu(x)), None, True),
    "norm on the branch": (lambda net, x: F.relu(x) + layer_norm(net, net.more(x)), None, True),
    "gated convolution": (gate, None, True),
    "activations and a convolution": (
        lambda net, x: torch.cat([F.silu(x)[:, :4], net.more(x)[:, 4:]], 1),
        None,
        True,
    ),
    "activation plus convolution": (lambda net, x: F.silu(x) + net.more(x), None, True),
    "a stream that a norm reads": (lambda net, x: x + net.more(F.gelu(x)), layer_norm, True),
    "a stream that a norm and an activation read": (
        lambda _, x: x,
        lambda net, x: F.relu(net.batch(x)) + F.relu(x),
        True,
    ),
    "hand-written norm": (
        lambda _, x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True),
        None,
        True,
    ),
    "GELU": (lambda _, x: F.gelu(x), None, False),
    "SiLU by hand": (lambda _, x: x * torch.sigmoid(x), None, False),
    "GELU by hand": (by_hand_gelu, None, False),
    "leaky ReLU in place": (lambda _, x: F.leaky_relu(x, 0.1, inplace=True), None, False),
    "hardswish behind a gate": (lambda net, x: gate(net, F.hardswish(x)), None, False),
    "sum of activations": (lambda net, x: F.silu(x) + F.silu(net.more(F.silu(x))), None, False),
    "activations together": (
        lambda net, x: torch.cat([F.silu(x)[:, :4], F.gelu(net.more(x))[:, 4:]], 1),
        None,
        False,
    ),
    "pooled activations": (lambda _, x: F.avg_pool2d(F.elu(x), 3, 1, 1), None, False),
    "dropout of activations": (lambda net, x: F.dropout(F.elu(x), 0.5, net.training), None, False),
    "ReLU": (lambda _, x: F.relu(x), None, False),
    "rectified next": (lambda net, x: net.batch(x), lambda _, x: F.relu(x), False),
    "rectified behind pooling": (
        lambda _, x: x,
        lambda _, x: F.relu(F.max_pool2d(x, 3, 1, 1)),
        False,
    ),
    "clamped next": (lambda _, x: x, lambda _, x: x.clamp(min=0), False),
    "SiLU by hand next": (lambda _, x: x, lambda _, x: x * torch.sigmoid(x), False),
}
IMAGES = torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CASES)
def test_which_tensors_have_no_zero(name):
    make, after, expected = CASES[name]
    torch.manual_seed(0)
    network = Made(make, after).eval()
    trace, found = Trace([IMAGES]), []
    network.last.register_forward_hook(lambda *all_of: found.extend(trace.nodes_in(all_of[2])))
    with torch.no_grad(), trace:
        network(IMAGES)
    (node,) = found
    assert is_linear(trace, node, users_of(trace.nodes)) is expected


def test_a_tensor_that_nothing_reads():
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 2, 2)).eval()
    assert [one.scale.linear for one in candidates(features, IMAGES)] == [False, False, True]


TORCHVISION = {
    "resnet18": "no no no no no",
    "mobilenet_v3_small": "no no no no no",
    "efficientnet_b0": "no no no no no",
    # Its first stage ends in a sum of SiLUs, its second in a linear bottleneck.
    "efficientnet_v2_s": "no yes no no no",
    "convnext_tiny": "yes yes yes yes",
    "swin_t": "yes yes yes yes",
    # Its norms end the branches, and none reads the stream.
    "swin_v2_t": "yes yes yes yes",
    "maxvit_t": "yes yes yes yes yes",
    "vit_b_32": "yes yes yes yes",
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_s_networks(name):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    network = models.get_model(name, weights=None).eval()
    scales = find_scales(network, torch.rand(1, 3, 224, 224))
    assert " ".join("yes" if scale.linear else "no" for scale in scales) == TORCHVISION[name]


class Stream(nn.Module):
    """A stem with a ReLU, then a residual stream with large offsets, of any number of axes."""

    def __init__(self, dimensions=2):
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
        ones = [1] * dimensions
        self.stem, self.down = conv(3, 12, 3, padding=1), conv(12, 16, 2, 2)
        self.offset = nn.Parameter(5 * torch.randn(1, 16, *ones))
        self.block, self.last = conv(16, 16, 3, padding=1), nn.Identity()
        self.act, self.head = nn.ReLU(), nn.Linear(16, 4)

    def forward(self, x):
        x = self.act(self.stem(x))
        x = self.down(x) + self.offset
        x = self.last(x + torch.tanh(self.block(x)))
        return self.head(x.flatten(2).mean(2))


def of_domain(name, domain):
    return STATISTICS[name].domain == domain


def expected_maps(network, images, statistic=smoe_scale):
    """The two scales' maps by the equation, the second of the stream less its channels' means."""
    with torch.no_grad():
        first = network.stem(images).relu()
        x = network.down(first) + network.offset
        stream = (x + torch.tanh(network.block(x))).double()
    axes = tuple(range(2, stream.dim()))
    stream = (stream - stream.mean(axes, keepdim=True)).clamp_min(0).float()
    maps = []
    for tensor in (first, stream):
        values = get_statistic(statistic)(tensor[:, :, None] if tensor.dim() == 3 else tensor)
        spread = values - values.flatten(1).mean(1).reshape(-1, *[1] * (values.dim() - 1))
        deviation = values.flatten(1).std(1).reshape(-1, *[1] * (values.dim() - 1))
        maps.append(torch.distributions.Normal(0.0, 1.0).cdf(spread / deviation))
    return maps


@pytest.fixture(params=[1, 2, 3], ids=["signals", "images", "volumes"])
def network_and_images(request):
    torch.manual_seed(0)
    shape = {1: (2, 3, 40), 2: (2, 3, 16, 20), 3: (2, 3, 6, 8, 10)}[request.param]
    return Stream(request.param).eval(), torch.rand(*shape)


def test_a_stream_is_centred_without_a_word(network_and_images):
    network, images = network_and_images
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = SMOEScale(network).maps(images)
    assert [scale.signed for scale in maps.scales] == [False, True]
    for found, expected in zip(maps.per_scale, expected_maps(network, images), strict=True):
        torch.testing.assert_close(found.reshape(expected.shape), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "name", [name for name in STATISTICS if STATISTICS[name].domain == "post_relu"]
)
def test_every_statistic_that_is_defined_after_the_relu(name):
    torch.manual_seed(0)
    network = Stream().eval()
    maps = SMOEScale(network, statistic=name).maps(IMAGES)
    for found, expected in zip(maps.per_scale, expected_maps(network, IMAGES, name), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_a_statistic_before_the_relu_is_taken_of_the_stream_as_it_is():
    torch.manual_seed(0)
    network = Stream().eval()
    found = SMOEScale(network, statistic="normal_entropy").maps(IMAGES).scales
    plain = [replace(scale, linear=False) for scale in found]
    for name in (one for one in STATISTICS if of_domain(one, "pre_relu")):
        maps = SMOEScale(network, statistic=name).maps(IMAGES)
        of_plain = SMOEScale(network, plain, statistic=name).maps(IMAGES)
        assert torch.equal(maps.combined, of_plain.combined)


def test_offsets_of_the_stream_count_for_nothing():
    torch.manual_seed(0)
    network = Stream().eval()
    with torch.no_grad():
        # A branch that does not read the stream's offsets.
        network.block.weight.zero_()
        before = SMOEScale(network).attribute(IMAGES)
        network.offset += 3 * torch.randn_like(network.offset)
    torch.testing.assert_close(SMOEScale(network).attribute(IMAGES), before, atol=1e-3, rtol=0)


def test_a_scale_is_read_as_it_is_if_one_says_so():
    torch.manual_seed(0)
    network = Stream().eval()
    scales = find_scales(network, IMAGES)
    plain = [replace(scale, linear=False) for scale in scales]
    with pytest.warns(UserWarning, match=r"layer\(s\) last give negative activations"):
        found = SMOEScale(network, plain).maps(IMAGES).per_scale[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        of_name = SMOEScale(network, ["stem", "last"]).maps(IMAGES).per_scale[1]
    assert torch.equal(found, of_name)
    centred = SMOEScale(network, scales).maps(IMAGES).per_scale[1]
    assert torch.equal(centred, SMOEScale(network).maps(IMAGES).per_scale[1])
    assert not torch.allclose(found, centred, atol=0.1)


@pytest.mark.parametrize("statistic", ["smoe_scale", "mean", "std", "gamma_scale"])
def test_with_map_and_its_exported_program(network_and_images, statistic):
    network, images = network_and_images
    expected = SMOEScale(network, statistic=statistic).maps(images).combined
    module = with_map(network, images, statistic=statistic)
    torch.testing.assert_close(module(images)[1], expected, atol=1e-3, rtol=0)
    program = torch.export.export(module, (images,)).module()
    torch.testing.assert_close(program(images)[1], expected, atol=1e-3, rtol=0)


def test_the_compiled_map():
    torch.manual_seed(0)
    network = Stream().eval()
    compiled = torch.compile(with_map(network, IMAGES), fullgraph=True)
    expected = SMOEScale(network).maps(IMAGES).combined
    torch.testing.assert_close(compiled(IMAGES)[1], expected, atol=1e-3, rtol=0)


def test_fast_cam_and_its_exported_form():
    torch.manual_seed(0)
    network = Stream().eval()
    target = network(IMAGES).argmax(1)
    expected = FastCAM(network).attribute(IMAGES, target=target)[:, 0]
    smoe = SMOEScale(network).attribute(IMAGES)[:, 0]
    assert not torch.allclose(expected, smoe)
    found = with_fast_cam(network, IMAGES)(IMAGES)[1]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_parts_of_a_batch_and_calls_again_give_the_same():
    torch.manual_seed(0)
    network = Stream().eval()
    attributor = SMOEScale(network)
    whole = attributor.attribute(IMAGES)
    assert torch.equal(attributor.attribute(IMAGES), whole)
    parts = SMOEScale(network, max_batch=1).attribute(IMAGES)
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=0)
    for index in range(2):
        alone = attributor.attribute(IMAGES[index : index + 1])
        torch.testing.assert_close(alone, whole[index : index + 1], atol=1e-4, rtol=0)


class Tokens(nn.Module):
    """Blocks of tokens behind a class token, and a map with its channels last in front of them."""

    def __init__(self):
        super().__init__()
        self.stem, self.embed = nn.Conv2d(3, 24, 2, 2), nn.Conv2d(24, 24, 2, 2)
        self.channels_last = nn.Identity()
        self.token = nn.Parameter(torch.randn(1, 1, 24))
        self.blocks = nn.ModuleList(nn.Linear(24, 24) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 4)

    def forward(self, x):
        x = self.channels_last(self.stem(x).permute(0, 2, 3, 1) + torch.arange(24).to(x))
        x = self.embed(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x + torch.arange(24).to(x)], 1)
        for block in self.blocks:
            x = x + F.gelu(block(self.norm(x)))
        return self.head(self.norm(x)[:, 0])


@pytest.mark.skipif(not cpu.available(), reason="Numba is not installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("make", "shape"),
    [(Stream, (2, 3, 16, 20)), (lambda: Stream(1), (2, 3, 40)), (Tokens, (2, 3, 16, 20))],
    ids=["2d", "1d", "tokens"],
)
def test_later_calls_run_prepared_kernels(monkeypatch, make, shape, dtype):
    torch.manual_seed(0)
    network = make().eval().to(dtype)
    images = [torch.rand(*shape).to(dtype) for _ in range(3)]
    passes = []
    begin = PlannedReader.begin
    monkeypatch.setattr(
        PlannedReader, "begin", lambda plan, *given: (passes.append(plan), begin(plan, *given))
    )
    attributor = SMOEScale(network)
    assert any(scale.linear for scale in attributor.maps(images[0]).scales)
    for batch in images:
        expected = attributor.maps(batch).combined
        found = attributor.attribute(batch, expand_channels=False)[:, 0]
        torch.testing.assert_close(found.float(), expected.float(), atol=1e-6, rtol=0)
    assert len(passes) == 2
    # Tensors of another layout than was prepared are read as in the first call.
    if dtype is torch.float32 and len(shape) == 4:
        batch = images[0].contiguous(memory_format=torch.channels_last)
        found = attributor.attribute(batch, expand_channels=False)[:, 0]
        torch.testing.assert_close(found, attributor.maps(batch).combined, atol=1e-5, rtol=0)


@pytest.mark.parametrize("interleaved", [True, False])
def test_the_blocks_of_an_image_have_one_mean(interleaved):
    """The windows of an image that a network puts into its batch."""
    torch.manual_seed(0)
    images = torch.randn(2, 5, 4, 6) + 3 * torch.randn(2, 5, 1, 1)
    # Two windows an image: its left half and its right one.
    halves = torch.stack([images[..., :3], images[..., 3:]], 1 if interleaved else 0)
    view = View(0, (0.5,), (0.5,), ((0.0, 1.0), (0.0, 1.0)))
    placement = Placement((view, view._replace(block=1)), 2, interleaved)
    found = less_means(halves.flatten(0, 1), placement)
    expected = images - images.mean((2, 3), keepdim=True)
    found = found.unflatten(0, (2, 2))
    left, right = found.unbind(1 if interleaved else 0)
    torch.testing.assert_close(torch.cat([left, right], 3), expected)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_channels_of_one_value_leave_no_noise(size):
    """Rounding would else be all that there is, and normalisation makes a map of anything."""
    torch.manual_seed(0)
    constant = (size * torch.randn(2, 64, 1, 1)).expand(2, 64, 13, 17).contiguous()
    for found in (less_means(constant), centred(constant)):
        assert found.max() <= 0
    torch.manual_seed(0)
    network = Stream().eval()
    # Padding would make the border another value.
    network.stem.padding = network.block.padding = (0, 0)
    network.block.weight.data = network.block.weight.data[:, :, 1:2, 1:2]
    maps = SMOEScale(network, find_scales(network, IMAGES)[1:]).maps(torch.full_like(IMAGES, size))
    assert torch.equal(maps.combined, torch.full_like(maps.combined, 0.5))


@pytest.mark.parametrize("size", [1e30, 1e37])
def test_large_activations_have_a_mean(size):
    values = size * (torch.rand(1, 3, 40, 40, dtype=torch.float64) + 1)
    expected = (values - values.mean((2, 3), keepdim=True)).numpy()
    np.testing.assert_allclose(less_means(values.float()), expected, rtol=0, atol=1e-5 * size)


def test_what_is_not_finite_is_named():
    torch.manual_seed(0)
    network = Stream().eval()
    attributor = SMOEScale(network)
    attributor.attribute(IMAGES)
    with torch.no_grad():
        network.offset[0, 3] = torch.inf
    with pytest.raises(ValueError, match="last"):
        attributor.attribute(IMAGES)


def test_the_written_file_s_map(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = Stream().eval()
    one = IMAGES[:1]
    found = SMOEScale(network).maps(one).combined
    explicit = SMOEScale(network, ["act", "last"], statistic="centred_smoe_scale").maps(one)
    of_model, plain = tmp_path / "mapped.onnx", tmp_path / "plain.onnx"
    write_onnx(with_map(network, one), one, of_model)
    torch.onnx.export(network, (one,), plain, dynamo=True, verbose=False)
    of_file, of_names = tmp_path / "file-mapped.onnx", tmp_path / "names-mapped.onnx"
    tensors = write_map_into(plain, of_file).scales
    # The same tensors by name are taken as they are, and a statistic centres them.
    write_map_into(plain, of_names, layers=tensors, statistic="centred_smoe_scale")
    for path, expected in (
        (of_model, found),
        (of_file, found),
        (of_names, explicit.combined),
    ):
        session = runtime.InferenceSession(path)
        (made,) = session.run(["map"], {session.get_inputs()[0].name: one.numpy()})
        np.testing.assert_allclose(made, expected, atol=1e-3)
