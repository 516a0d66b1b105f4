"""The memory that a map takes beyond the plain forward pass, counted storage by storage."""

import gc
import weakref

import pytest
import torch
import torchvision
from torch import nn

from evaluation.profiling.memory import peak_bytes
from fastsal import FastCAM, SMOEScale
from fastsal.kernels import cpu
from fastsal.kernels import threads as kernel_threads
from fastsal.kernels.memory import without_kernels
from fastsal.networks.scales import Scale

pytestmark = pytest.mark.heavy

# Of the paper, for a 224x224 image.
PAPER_BYTES = 117_000
RESNET50 = ((64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7))


class Activations(nn.Module):
    """A network whose activations exist already, so that only the map's memory is counted."""

    def __init__(self, shapes, images=1):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.taps = nn.ModuleList(nn.Identity() for _ in shapes)
        self.tensors = [
            torch.randn(images, channels, size, size, generator=generator).relu_()
            for channels, size in shapes
        ]
        self.scales = [
            Scale(f"taps.{k}", tap, None, tuple(tensor.shape), (2, 2), False)
            for k, (tap, tensor) in enumerate(zip(self.taps, self.tensors, strict=True))
        ]

    def forward(self, images):
        for tap, tensor in zip(self.taps, self.tensors, strict=True):
            tap(tensor)
        return images.sum((1, 2, 3))


def map_bytes(shapes, images=1):
    return 4 * images * sum(size * size for _, size in shapes)


@pytest.mark.skipif(not cpu.available(), reason="Numba is not installed")
@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("expand", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 8, 64])
def test_all_that_is_alive_beside_the_result(monkeypatch, images, expand, threads):
    # The bound allows for this number of threads; the machine may run fewer.
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(kernel_threads, "_team", lambda: None)
    net, batch = Activations(RESNET50, images), torch.zeros(images, 3, 224, 224)
    attributor = SMOEScale(net, net.scales)
    attributor.attribute(batch)
    with torch.inference_mode():
        most = peak_bytes(lambda: attributor.attribute(batch, expand_channels=expand))
    result = 4 * images * (3 if expand else 1) * 224 * 224
    assert most - result <= PAPER_BYTES * images
    assert most - result >= map_bytes(RESNET50, images)


@pytest.mark.skipif(not cpu.available(), reason="Numba is not installed")
@pytest.mark.filterwarnings("ignore:gradcam is 0 everywhere")
@pytest.mark.parametrize("method", [SMOEScale, FastCAM])
def test_resnet50_needs_no_more_than_the_paper_says(method):
    net = torchvision.models.resnet50().eval()
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    attributor = method(net)
    attributor.attribute(image, 1)
    with torch.inference_mode():
        plain = peak_bytes(lambda: net(image))
        assert 10e6 < plain < 11e6
        assert peak_bytes(lambda: attributor.attribute(image, 1)) - plain <= PAPER_BYTES


@pytest.mark.parametrize("form", ["fused", "plain"])
@pytest.mark.parametrize(("size", "channels", "images"), [(1024, 8, 1), (4096, 4, 1), (64, 32, 32)])
def test_memory_grows_with_the_maps_and_not_with_the_activations(form, size, channels, images):
    shapes = ((channels, size), (8 * channels, size // 4))
    net, batch = Activations(shapes, images), torch.zeros(images, 1, size, size)
    attributor = SMOEScale(net, net.scales)
    # The first call of a kind of batch follows the pixels, too.
    attributor.attribute(batch, expand_channels=False)
    with without_kernels() if form == "plain" else torch.no_grad():
        most = peak_bytes(lambda: attributor.attribute(batch, expand_channels=False))
    # The largest map before and after its normalisation, or those of all scales and the result.
    allowed = 2.2 * map_bytes(shapes, images)
    if form == "plain":
        # Further steps of the normalisation; a few slices of activations.
        allowed += 5 * map_bytes(shapes, images) + 20e6
    assert most <= allowed
    if (size, form) == (1024, "fused"):
        assert most <= sum(tensor.nbytes for tensor in net.tensors) / 3


@pytest.mark.parametrize("method", [SMOEScale, FastCAM])
def test_no_activation_is_alive_when_the_next_layers_run(method):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    seen, alive = [], []
    net[0].register_forward_hook(lambda *given: seen.append(weakref.ref(given[2])))
    net[2].register_forward_hook(lambda *_: alive.append(seen[-1]() is not None))
    attributor = method(net, net[2]) if method is FastCAM else method(net, [net[0], net[2]])
    gc.disable()
    try:
        attributor.attribute(torch.rand(1, 3, 8, 8), 1)
    finally:
        gc.enable()
    assert alive
    assert not any(alive)
