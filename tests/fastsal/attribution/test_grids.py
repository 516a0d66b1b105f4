"""Maps of volumes and signals: the paper's equations over any grid, and where they lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import GuidedGradCam, LayerAttribution, LayerGradCam
from scipy.stats import norm
from torch import nn

from fastsal import CAM, FastCAM, GradCAM, SMOEScale, find_scales
from fastsal.attribution.cams.recipro import ReciproCAM
from fastsal.attribution.cams.score import ScoreCAM
from fastsal.attribution.cams.several_layers import MultiLayerCAM
from fastsal.attribution.class_activation import ClassActivationMap
from fastsal.cam.registry import CAMS

SIZES = {1: (48,), 2: (24, 20), 3: (12, 16, 20)}
AXES = (1, 3)


def network(axes: int, strides: tuple[int, ...] | None = None, channels: int = 2) -> nn.Sequential:
    """Three scales; the second downsampling along some axes alone if strides say so."""
    torch.manual_seed(axes)
    conv, norm_of, pool, mean = (
        getattr(nn, f"{name}{axes}d")
        for name in ("Conv", "BatchNorm", "MaxPool", "AdaptiveAvgPool")
    )
    return nn.Sequential(
        conv(channels, 8, 3, padding=1), norm_of(8), nn.ReLU(), pool(2),
        conv(8, 12, 3, padding=1), nn.ReLU(), pool(strides or 2),
        conv(12, 16, 3, padding=1), nn.ReLU(), mean(1), nn.Flatten(), nn.Linear(16, 5),
    ).eval()  # fmt: skip


def batch(axes: int, count: int = 2, channels: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.rand((count, channels, *SIZES[axes]), generator=generator)


def line_at(line: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.interp(at, np.arange(len(line)), line)


def stretched(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Linear interpolation along each axis, pixel centres at half, by NumPy."""
    for axis, length in enumerate(size):
        count = values.shape[axis]
        at = (np.arange(length) + 0.5) * count / length - 0.5
        values = np.apply_along_axis(line_at, axis, values, at)
    return values


def by_hand(activations: list[np.ndarray], size: tuple[int, ...]) -> np.ndarray:
    """Equations 1 to 3 of the paper, in float64, of one image, location by location."""
    total = np.zeros(size)
    for number, tensor in enumerate(activations, 1):
        shifted = tensor.astype(np.float64) + 1e-6
        mean = shifted.mean(0)
        statistic = mean * (np.log2(mean) - np.log2(shifted).mean(0))
        scores = (statistic - statistic.mean()) / statistic.std(ddof=1)
        total += number * stretched(norm.cdf(scores), size)
    return total / sum(range(1, len(activations) + 1))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_map_is_that_of_the_equations_on_any_grid(axes):
    net, inputs = network(axes), batch(axes)
    kept: list[torch.Tensor] = []
    handles = [
        net[index].register_forward_hook(lambda _, __, out: kept.append(out.clone()))
        for index in (2, 5, 8)
    ]
    with torch.no_grad():
        net(inputs)
    for handle in handles:
        handle.remove()
    maps = SMOEScale(net).maps(inputs)
    assert [scale.name for scale in maps.scales] == ["2", "5", "8"]
    assert maps.combined.shape == (2, *SIZES[axes])
    assert [tuple(one.shape[1:]) for one in maps.per_scale] == [tuple(k.shape[2:]) for k in kept]
    assert maps.stacked.shape == (2, 3, *SIZES[axes])
    for image in range(2):
        expected = by_hand([one[image].numpy() for one in kept], SIZES[axes])
        np.testing.assert_allclose(maps.combined[image].numpy(), expected, atol=2e-5)
    attribution = SMOEScale(net).attribute(inputs)
    assert attribution.shape == inputs.shape
    assert torch.equal(attribution[:, 1], attribution[:, 0])
    np.testing.assert_allclose(attribution[:, 0], maps.combined, atol=1e-6)


def test_the_map_of_a_volume_without_depth_is_that_of_the_image():
    """A network whose kernels have one tap along an axis is that of each plane by itself."""
    flat = network(2)
    torch.manual_seed(0)
    image = batch(2)
    deep = nn.Sequential()
    for module in flat[:9]:
        if isinstance(module, nn.Conv2d):
            channels = module.in_channels, module.out_channels
            made = nn.Conv3d(*channels, (1, 3, 3), padding=(0, 1, 1))
            made.weight.data.copy_(module.weight.data[:, :, None])
            made.bias.data.copy_(module.bias.data)
            deep.append(made)
        elif isinstance(module, nn.MaxPool2d):
            deep.append(nn.MaxPool3d((1, 2, 2)))
        elif isinstance(module, nn.BatchNorm2d):
            deep.append(nn.BatchNorm3d(module.num_features))
        else:
            deep.append(nn.ReLU())
    deep.eval()
    volume = image[:, :, None].expand(-1, -1, 6, -1, -1)
    scales = find_scales(deep, volume)
    assert [scale.strides for scale in scales] == [(1, 1, 1), (1, 2, 2), (1, 4, 4)]
    found = SMOEScale(deep, normalize="minmax").attribute(volume)
    expected = SMOEScale(flat[:9], normalize="minmax").attribute(image)
    torch.testing.assert_close(found, expected[:, :, None].expand_as(volume), atol=1e-5, rtol=0)


def test_octaves_are_found_along_each_axis():
    """Anisotropic strides, as for slices thicker than their pixels, and for spectrograms."""
    assert [s.strides for s in find_scales(network(3), batch(3))] == [
        (1, 1, 1), (2, 2, 2), (4, 4, 4)
    ]  # fmt: skip
    assert [s.strides for s in find_scales(network(3, (1, 2, 2)), batch(3))] == [
        (1, 1, 1), (2, 2, 2), (2, 4, 4)
    ]  # fmt: skip
    assert [s.strides for s in find_scales(network(3, (2, 1, 1)), batch(3))] == [
        (1, 1, 1), (2, 2, 2), (4, 2, 2)
    ]  # fmt: skip
    signals = find_scales(network(1), batch(1))
    assert [(s.strides, s.stride) for s in signals] == [((1, 1), 1), ((1, 2), 2), ((1, 4), 4)]


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("cam", [name for name in CAMS if name != "smoothgradcam++"])
def test_class_activation_maps_of_any_grid(axes, cam):
    net, inputs = network(axes), batch(axes)
    found = ClassActivationMap(net, net[8], cam=cam).attribute(inputs, 3)
    grid = tuple(net[:9](inputs).shape[2:])
    assert found.shape == (2, 1, *grid)
    assert torch.equal(ClassActivationMap(net, cam=cam).attribute(inputs, 3), found)
    # The same on an image of as many rows: a CAM's weights do not know the grid.
    layer = net[:9](inputs).detach()
    tail = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), net[-1])
    as_image = layer.flatten(2, -2) if axes == 3 else layer[:, :, None]
    expected = ClassActivationMap(tail, tail[0], cam=cam).attribute(as_image, 3)
    torch.testing.assert_close(found.flatten(1), expected.flatten(1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("axes", AXES)
def test_grad_cam_and_fast_cam_stand_in_for_captums(axes):
    net, inputs = network(axes), batch(axes)
    captum = LayerGradCam(net, net[8]).attribute(inputs, 3)
    ours = GradCAM(net, net[8]).attribute(inputs, 3, relu_attributions=False)
    torch.testing.assert_close(ours, captum, atol=1e-6, rtol=1e-4)
    fast = FastCAM(net, net[8]).attribute(inputs, 3)
    assert fast.shape == inputs.shape == GuidedGradCam(net, net[8]).attribute(inputs, 3).shape
    # Fast-CAM is the product of its two maps.
    cam = captum.relu() / captum.relu().flatten(1).amax(1).reshape(-1, *[1] * (axes + 1))
    mode = {1: "linear", 3: "trilinear"}[axes]
    laid = LayerAttribution.interpolate(cam, SIZES[axes], mode)
    expected = SMOEScale(net).attribute(inputs) * laid
    torch.testing.assert_close(fast, expected, atol=1e-5, rtol=1e-4)
    complement = FastCAM(net, net[8], complement=True).attribute(inputs, 3)
    torch.testing.assert_close(fast + complement, SMOEScale(net).attribute(inputs))
    assert FastCAM(net, net[8]).class_activation_map(inputs, 3).shape == captum[:, 0].shape


@pytest.mark.parametrize("axes", AXES)
def test_the_other_cams_of_any_grid(axes):
    net, inputs = network(axes), batch(axes)
    grid = tuple(net[:9](inputs).shape[2:])
    recipro = ReciproCAM(net, net[8]).attribute(inputs, 3)
    layer = net[:9](inputs).detach()
    for image, place in ((0, 0), (1, layer[0, 0].numel() - 1)):
        kept = torch.zeros_like(layer[:1])
        kept.flatten(2)[..., place] = layer[image : image + 1].flatten(2)[..., place]
        expected = net[9:](kept).softmax(1)[0, 3]
        torch.testing.assert_close(recipro[image].flatten()[place], expected)
    assert ScoreCAM(net, net[8]).attribute(inputs, 3).shape == (2, 1, *grid)
    zhou = torch.einsum("nc...,c->n...", layer, net[11].weight.detach()[3])
    torch.testing.assert_close(CAM(net, net[8]).attribute(inputs, 3)[:, 0], zhou)
    fused = MultiLayerCAM(net).attribute(inputs, 3)
    assert fused.shape == inputs.shape
    assert fused.amax() <= 1


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("statistic", ["std", "gamma_scale", "lognormal_entropy", "mean"])
@pytest.mark.parametrize("normalize", ["gaussian", "gamma", "minmax", "none"])
def test_statistics_and_normalisations_do_not_know_the_grid(axes, statistic, normalize):
    """A network of one tap, on a volume, is that on an image of as many pixels."""
    torch.manual_seed(0)
    of_grid = nn.Sequential(getattr(nn, f"Conv{axes}d")(2, 6, 1), nn.ReLU())
    of_image = nn.Sequential(nn.Conv2d(2, 6, 1), nn.ReLU())
    of_image[0].weight.data.copy_(of_grid[0].weight.data.reshape(6, 2, 1, 1))
    of_image[0].bias.data.copy_(of_grid[0].bias.data)
    inputs = batch(axes)
    options = {"statistic": statistic, "normalize": normalize}
    as_image = inputs.flatten(2, -2) if axes == 3 else inputs[:, :, None]
    found = SMOEScale(of_grid, of_grid[1], **options).attribute(inputs)
    expected = SMOEScale(of_image, of_image[1], **options).attribute(as_image)
    torch.testing.assert_close(found.flatten(1), expected.flatten(1))
    together = {**options, "normalize_over": "batch"}
    found = SMOEScale(of_grid, of_grid[1], **together).attribute(inputs)
    expected = SMOEScale(of_image, of_image[1], **together).attribute(as_image)
    torch.testing.assert_close(found.flatten(1), expected.flatten(1))


@pytest.mark.parametrize("axes", AXES)
def test_calls_in_all_of_captums_forms(axes):
    net, inputs = network(axes), batch(axes, 3)
    smoe = SMOEScale(net)
    whole = smoe.attribute(inputs)
    torch.testing.assert_close(SMOEScale(net, max_batch=2).attribute(inputs), whole)
    assert torch.equal(smoe.attribute((inputs,))[0], whole)
    assert torch.equal(smoe.attribute(inputs, expand_channels=False), whole[:, :1])
    assert torch.equal(smoe.attribute(inputs), whole)
    double = SMOEScale(network(axes).double()).attribute(inputs.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), whole, atol=1e-4, rtol=0)
    names = SMOEScale(net, ["2", net[5], find_scales(net, inputs)[2]]).attribute(inputs)
    torch.testing.assert_close(names, whole)
    with pytest.warns(UserWarning, match="is no image batch"):
        first, second = SMOEScale(_Two(net)).attribute((inputs, torch.rand(3, 4)))
    torch.testing.assert_close(first, whole)
    assert second.numel() == 0


class _Two(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, volumes, _):
        return self.net(volumes)


def test_an_input_without_batch_dimension_is_refused_in_a_sentence():
    flat = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU()
    )
    deep = network(3, channels=3)
    for net, inputs in ((flat, torch.rand(3, 32, 32)), (deep, torch.rand(3, 16, 16, 16))):
        for attributor in (SMOEScale(net), SMOEScale(net, net[1])):
            with pytest.raises(ValueError, match=r"one image without its batch.* inputs\[None\]"):
                attributor.attribute(inputs)


def test_channels_that_come_last_are_refused_or_found():
    recurrent = nn.LSTM(4, 8, batch_first=True)
    with pytest.raises(ValueError, match="channels come last, transpose"):
        SMOEScale(_First(recurrent)).attribute(torch.rand(2, 30, 4))
    frames = _Frames(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with pytest.raises(ValueError, match="slices or frames become images of a batch"):
        SMOEScale(frames).attribute(torch.rand(2, 5, 3, 16, 16))
    with pytest.raises(ValueError, match="more dimensions of the signals"):
        SMOEScale(_Unfolded()).attribute(torch.rand(2, 4, 32))


class _First(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, signals):
        return self.net(signals)[0]


class _Frames(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, frames):
        return self.net(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).mean((1, 3, 4))


class _Unfolded(nn.Module):
    """Takes the channels of a signal for the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())

    def forward(self, signals):
        return self.net(signals.transpose(1, 2)[:, None]).mean((2, 3))
