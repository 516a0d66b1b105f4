"""Networks by name, their size and their scales."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evaluation.networks.build import BUILT_IN, build_network, state_hash
from evaluation.networks.fast_network import patch_filters
from fastsal import find_scales


def _multiply_adds(network: nn.Module) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops() / 2


def test_resnet9_takes_24_million_multiply_adds():
    counted = _multiply_adds(build_network("resnet9", 10, 0, size=(32, 32)))
    # 3x3 convolutions of width 16 by hand: inputs * outputs * 9 * pixels.
    convolutions = [
        (3, 16, 1024), (16, 32, 1024), (32, 32, 256), (32, 32, 256),
        (32, 64, 256), (64, 128, 64), (128, 128, 16), (128, 128, 16),
    ]  # fmt: skip
    by_hand = sum(9 * inputs * outputs * pixels for inputs, outputs, pixels in convolutions)
    assert counted == by_hand + 128 * 10
    assert round(counted / 1e6) == 24


def test_resnet20_is_that_of_the_paper():
    network = build_network("resnet20", 10, 0, size=(32, 32))
    # He et al. 2016, Table 6: 0.27 M parameters; 41 M multiply-adds (section 4.2's network).
    parameters = sum(p.numel() for p in network.parameters())
    assert round(parameters / 1e6, 2) == 0.27
    assert round(_multiply_adds(network) / 1e6) == 41
    # 20 weighted layers: the 3x3 convolutions and the classifier; shortcuts do not count.
    weighted = [
        m
        for m in network.modules()
        if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3))
    ]
    assert len(weighted) == 20


def test_fastnet_has_the_convolutions_of_airbench94():
    # 2x2, then two of 3x3 a group; widths of the paper's listing. The first layer is padded.
    convolutions = [
        (24, 64, 1024), (64, 64, 256), (64, 256, 256), (256, 256, 64),
        (256, 256, 64), (256, 256, 16),
    ]  # fmt: skip
    by_hand = 4 * 3 * 24 * 1024 + sum(9 * i * o * pixels for i, o, pixels in convolutions)
    counted = _multiply_adds(build_network("fastnet", 10, 0, size=(32, 32)))
    assert counted == by_hand + 256 * 10
    assert round(counted / 1e6) == 147


def test_patch_filters_whiten_a_photograph():
    data = pytest.importorskip("skimage.data")
    image = torch.from_numpy(data.astronaut()).float().permute(2, 0, 1)[None]
    image = nn.functional.avg_pool2d(image, 8)
    image = (image - image.mean((2, 3), keepdim=True)) / image.std((2, 3), keepdim=True)

    def spread(patches: torch.Tensor) -> float:
        """Largest principal variance of patches over the median one."""
        variances = torch.linalg.eigvalsh(torch.cov(patches))
        return float(variances[-1] / variances.median())

    raw = nn.functional.unfold(image, 2)[0]
    filters = patch_filters()
    white = nn.functional.conv2d(image, filters)[0].flatten(1)
    assert spread(raw) > 30
    assert spread(white) < spread(raw) / 10
    # Axes of a basis, each with a length of its own.
    products = filters.flatten(1) @ filters.flatten(1).T
    scale = products.diagonal().sqrt()
    torch.testing.assert_close(products / scale / scale[:, None], torch.eye(12))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("resnet9", [(32, 32), (16, 16), (8, 8), (4, 4)]),
        ("resnet20", [(32, 32), (16, 16), (8, 8)]),
        ("fastnet", [(32, 32), (16, 16), (8, 8), (4, 4)]),
    ],
)
def test_scales_of_the_built_in_networks(name, sizes):
    network = build_network(name, 10, 0, size=(32, 32))
    inputs = torch.zeros(2, 3, 32, 32)
    scales = find_scales(network, inputs)
    seen: dict[int, tuple[int, ...]] = {}

    def watch(number: int):
        def hook(module, args, output) -> None:
            seen[number] = tuple(output.shape[2:])

        return hook

    for number, scale in enumerate(scales):
        scale.module.register_forward_hook(watch(number))
    network(inputs)
    assert [seen[number] for number in range(len(scales))] == sizes


# Channels and sides of the networks that take no images.
GRIDS = {"convnet-3d": (1, 16, 16, 16), "convnet-1d": (2, 64)}


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_relu_is_called_once_as_guided_backprop_needs(name):
    channels, *size = GRIDS.get(name, (3, 32, 32))
    network = build_network(name, 4, 0, size=tuple(size), channels=channels)
    calls = []

    def hook(module, args, output) -> None:
        calls.append(module)

    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(hook)
    network(torch.zeros(2, channels, *size))
    assert len(calls) == len({id(module) for module in calls})
    assert len(calls) == sum(isinstance(m, nn.ReLU) for m in network.modules())


def test_weights_depend_on_the_seed_alone():
    hashes = []
    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(global_seed)
        hashes.append(state_hash(build_network("resnet9", 8, seed, size=(32, 32))))
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_global_generator_is_left_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_network("resnet9", 8, 0, size=(32, 32))
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_the_trial_run_leaves_batch_norm_untouched():
    network = build_network("resnet9", 8, 0, size=(32, 32))
    assert network.training
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked == 0
            assert (module.running_mean == 0).all()


def test_state_hash_sees_one_weight_and_buffers():
    network = build_network("resnet9", 8, 0, size=(32, 32))
    before = state_hash(network)
    with torch.no_grad():
        network.head.bias[3] += 1e-6
    changed = state_hash(network)
    network.stem[1].running_var[0] += 1e-3
    assert len({before, changed, state_hash(network)}) == 3


def test_a_torchvision_classifier_by_name():
    torchvision = pytest.importorskip("torchvision")
    network = build_network("mobilenet_v3_small", 7, 0, size=(32, 32))
    assert isinstance(network, torchvision.models.MobileNetV3)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.fixture
def own_module(monkeypatch):
    """A user's module, as package.module:function names it."""
    module = types.ModuleType("zoo")
    module.linear = lambda classes: nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))
    module.more = lambda classes: nn.Sequential(nn.Flatten(), nn.LazyLinear(classes + 1))
    module.number = 3
    module.weights = lambda classes: {"weight": torch.zeros(classes)}
    module.pixels = lambda classes: nn.Conv2d(3, classes, 1)
    module.pair = _Pair
    module.no_argument = lambda: nn.Identity()
    module.fail = _fail
    monkeypatch.setitem(sys.modules, "zoo", module)


def _fail(classes: int) -> nn.Module:
    raise RuntimeError("planted")


class _Pair(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x):
        return x, x


def test_a_function_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "planted.py"
    file.write_text(
        "from torch import nn\n"
        "def make(n):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(n))\n"
    )
    assert build_network(f"{file}:make", 6, 0, size=(4, 4))[1].out_features == 6


def test_a_function_of_torchvision_gets_its_number_of_classes():
    assert build_network("torchvision.models:squeezenet1_1", 6, 0, size=(64, 64)).num_classes == 6


def test_a_function_of_one_s_own(own_module):
    network = build_network("zoo:linear", 6, 0, size=(4, 4))
    assert network(torch.zeros(1, 3, 4, 4)).shape == (1, 6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet99",
            "unknown model 'resnet99': expected resnet9, resnet9-stride2, resnet20, fastnet, "
            "convnet-3d, convnet-1d, the name of",
        ),
        ("deeplabv3_resnet50", "unknown model 'deeplabv3_resnet50'"),
        ("nowhere.at_all:make", r"'nowhere.at_all:make' cannot be imported: .*nowhere"),
        ("zoo:missing", r"'zoo:missing' cannot be imported: .*missing"),
        ("zoo:number", "'zoo:number' is of type int, not a function"),
        ("zoo:no_argument", r"'zoo:no_argument' returns \(2, 3, 32, 32\) for two images"),
        ("zoo:fail", "cannot make a network from 'zoo:fail': planted"),
        ("zoo:weights", "'zoo:weights' gave a dict: expected a function"),
        ("zoo:more", r"'zoo:more' returns \(2, 7\) for two images: expected \(2, 6\)"),
        ("zoo:pixels", r"'zoo:pixels' returns \(2, 6, 32, 32\) for two images"),
        ("zoo:pair", "'zoo:pair' returns tuple for two images"),
    ],
)
def test_networks_that_cannot_be_used_are_named(own_module, name, message):
    with pytest.raises(ValueError, match=message):
        build_network(name, 6, 0, size=(32, 32))


@pytest.mark.parametrize("name", ["resnet9", "alexnet"])
def test_a_network_that_fails_on_the_size_says_so(name):
    with pytest.raises(ValueError, match=f"model {name!r} fails on images of 4x4 .*--image-size"):
        build_network(name, 6, 0, size=(4, 4))


class _Small(nn.Module):
    """Two convolutions after a preparation of the images, which may write into them."""

    def __init__(self, classes: int, prepare) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, classes, 3)
        self.prepare = prepare

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(self.prepare(x)))).mean((2, 3))


def _subtracted(x: torch.Tensor) -> torch.Tensor:
    return x.sub_(0.1)


def _rectified(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.relu(x, inplace=True)


def _view_of_a_channel(x: torch.Tensor) -> torch.Tensor:
    x[:, 0].mul_(2)
    return x


def _assigned(x: torch.Tensor) -> torch.Tensor:
    x[:, :, :2] = 0
    return x


@pytest.mark.parametrize("prepare", [_subtracted, _rectified, _view_of_a_channel, _assigned])
def test_a_network_that_writes_into_its_images_gets_copies(monkeypatch, prepare):
    module = types.ModuleType("zoo_in_place")
    module.written = lambda classes: _Small(classes, prepare)
    module.pure = lambda classes: _Small(classes, lambda x: prepare(x.clone()))
    monkeypatch.setitem(sys.modules, "zoo_in_place", module)
    written, pure = (
        build_network(f"zoo_in_place:{name}", 4, 0, size=(16, 16)) for name in ("written", "pure")
    )
    torch.manual_seed(0)
    images = torch.randn(2, 3, 16, 16)
    kept, gradients = images.clone(), []
    for network in (written, pure):
        leaf = images.requires_grad_()
        network(leaf)[:, 1].sum().backward()
        gradients.append(leaf.grad.clone())
        leaf.grad = None
    assert torch.equal(images, kept)
    assert torch.equal(*gradients)
    assert gradients[0].any()
    assert len(pure._forward_pre_hooks) == 0  # others keep their speed
