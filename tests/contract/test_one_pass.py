"""The network runs once on the caller's tensors; every further pass has copies of all of them."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fastsal import FastCAM, GradCAM, SMOEScale, SmoothGradCAMPlusPlus, smoe_scale
from fastsal.attribution.video import maps as video_maps
from fastsal.export.model import with_fast_cam, with_map
from fastsal.maps.normalization import get_normalization

MEAN, DEVIATION = 0.5, 0.25


class Normalised(nn.Module):
    """The small network behind a normalisation, which writes to the image or to a copy of it."""

    def __init__(self, net, in_place):
        super().__init__()
        self.net, self.in_place = net, in_place

    def forward(self, x, *further, **kwargs):
        STORAGES.append(x.untyped_storage().data_ptr())
        x = self.normalised(x, *further, **kwargs)
        return self.net(x)

    def normalised(self, x):
        return x.sub_(MEAN).div_(DEVIATION) if self.in_place else (x - MEAN) / DEVIATION


class OnATensor(Normalised):
    """The mean is a further argument, which is written to as well."""

    def normalised(self, x, mean):
        if not self.in_place:
            return (x - mean * 2) / DEVIATION
        mean *= 2
        return x.sub_(mean).div_(DEVIATION)


class OnNested(Normalised):
    def normalised(self, x, options):
        mean = options["of"][0].mean
        if not self.in_place:
            return (x - mean * 2) / DEVIATION
        options["of"].append(None)
        mean.mul_(2)
        return x.sub_(mean).div_(DEVIATION)


@dataclass
class Holder:
    mean: torch.Tensor


def nested():
    return {"of": [Holder(torch.full((1, 3, 1, 1), MEAN / 2))]}


STORAGES = []
FURTHER = {
    Normalised: lambda: None,
    OnATensor: lambda: torch.full((1, 3, 1, 1), MEAN / 2),
    OnNested: nested,
}


def runs_on(images):
    return STORAGES.count(images.untyped_storage().data_ptr())


@pytest.mark.parametrize("kind", FURTHER)
@pytest.mark.parametrize("grad", [True, False])
def test_a_network_that_writes_to_its_inputs(small_network, small_images, maker, kind, grad):
    further = FURTHER[kind]
    twin = maker(kind(small_network(), False))
    attributor = maker(kind(small_network(), True))
    for call in range(3):
        expected = twin.attribute(small_images.clone(), 1, further())
        images, arguments = small_images.clone(), further()
        STORAGES.clear()
        with torch.set_grad_enabled(grad):
            result = attributor.attribute(images, 1, arguments)
        assert torch.equal(result, expected), call
        assert runs_on(images) == 1
        # What one plain pass leaves.
        assert torch.equal(images, (small_images - MEAN) / DEVIATION)
        if kind is OnATensor:
            assert torch.equal(arguments, torch.full((1, 3, 1, 1), MEAN))
        if kind is OnNested:
            assert len(arguments["of"]) == 2
            assert torch.equal(arguments["of"][0].mean, torch.full((1, 3, 1, 1), MEAN))


def test_the_first_map_and_logits_by_hand(small_network, small_images):
    net = small_network()
    normalised = (small_images - MEAN) / DEVIATION
    features = net[:3](normalised), net[:7](normalised)
    cdf = get_normalization("gaussian")
    first, second = (
        nn.functional.interpolate(
            cdf(smoe_scale(one))[:, None], (16, 24), mode="bilinear", align_corners=False
        )[:, 0]
        for one in features
    )
    maps = SMOEScale(Normalised(small_network(), True)).maps(small_images.clone())
    torch.testing.assert_close(maps.logits, net(normalised))
    torch.testing.assert_close(maps.combined, (first + 2 * second) / 3)


def test_parts_of_a_batch_and_shared_arguments(small_network, small_images, image_method):
    """With `max_batch` every image runs once; what parts share is copied before it is written."""
    whole = image_method(OnATensor(small_network(), False))
    parts = image_method(OnATensor(small_network(), True), max_batch=1)
    for _ in range(2):
        mean, images = FURTHER[OnATensor](), small_images.clone()
        STORAGES.clear()
        result = parts.attribute(images, 1, mean)
        expected = whole.attribute(small_images, 1, FURTHER[OnATensor]())
        torch.testing.assert_close(result, expected)
        assert runs_on(images) == 3
        assert torch.equal(images, (small_images - MEAN) / DEVIATION)
        assert torch.equal(mean, torch.full((1, 3, 1, 1), MEAN))


def test_tiles_run_on_copies(small_network):
    """Tiles overlap, so that no pass may write to the image itself."""
    image = torch.rand(1, 1, 64, 48, generator=torch.Generator().manual_seed(3))

    def network(in_place):
        net = small_network()
        net[0] = nn.Conv2d(1, 8, 3, padding=1)
        nn.init.constant_(net[0].weight, 0.1)
        nn.init.zeros_(net[0].bias)
        return Normalised(net, in_place)

    options = {"tile": (16, 48), "overlap": 8}
    for layers in (None, ["net.2", "net.6"]):
        expected = SMOEScale(network(False), layers, **options).attribute(image.clone())
        attributor = SMOEScale(network(True), layers, **options)
        for _ in range(2):
            given = image.clone()
            assert torch.equal(attributor.attribute(given), expected)
            assert torch.equal(given, image)


def test_video(small_network, small_images):
    expected = [
        one.combined
        for one in video_maps(small_images, SMOEScale(Normalised(small_network(), False)))
    ]
    frames = small_images.clone()
    found = video_maps(frames, SMOEScale(Normalised(small_network(), True)))
    for result, wanted in zip(found, expected, strict=True):
        assert torch.equal(result.combined, wanted)
    assert torch.equal(frames, small_images)


@pytest.mark.parametrize("layers", [None, ["net.2", "net.6"]])
def test_with_map_leaves_its_example(small_network, small_images, layers):
    expected = with_map(Normalised(small_network(), False), small_images, layers=layers)
    example = small_images.clone()
    module = with_map(Normalised(small_network(), True), example, layers=layers)
    assert torch.equal(example, small_images)
    for result, wanted in zip(
        module(small_images.clone())[:2], expected(small_images)[:2], strict=True
    ):
        assert torch.equal(result, wanted)


def test_with_fast_cam_leaves_its_example(small_images):
    def network(in_place):
        torch.manual_seed(0)
        net = nn.Sequential(
            *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
        )
        return Normalised(net.eval(), in_place)

    example = small_images.clone()
    module = with_fast_cam(network(True), example, target=2)
    assert torch.equal(example, small_images)
    expected = with_fast_cam(network(False), small_images, target=2)(small_images)[:2]
    for result, wanted in zip(module(small_images.clone())[:2], expected, strict=True):
        assert torch.equal(result, wanted)


class SwitchingOn(nn.Module):
    """The features run inside `enable_grad`, which leaves gradients as they were before it."""

    def __init__(self, net, block, in_place=False):
        super().__init__()
        self.net, self.block, self.in_place = Normalised(net, in_place), block, in_place

    def forward(self, x):
        STORAGES.append(x.untyped_storage().data_ptr())
        with self.block():
            x = self.net.normalised(x)
            x = self.net.net[:7](x)
        return self.net.net[7:](x)


class SwitchingOnForGood(SwitchingOn):
    def forward(self, x):
        STORAGES.append(x.untyped_storage().data_ptr())
        torch.set_grad_enabled(True)
        return self.net.net(self.net.normalised(x))


class NoGradBeside(SwitchingOn):
    """A gate without gradients beside the trunk."""

    def forward(self, x):
        STORAGES.append(x.untyped_storage().data_ptr())
        with torch.enable_grad():
            x = self.net.net[:7](self.net.normalised(x))
            with torch.no_grad():
                gate = x.mean((1, 2, 3), keepdim=True).sigmoid()
            x = x * gate
        return self.net.net[7:](x)


@pytest.mark.parametrize("kind", [SwitchingOn, SwitchingOnForGood, NoGradBeside])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("outside", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_gradients_switched_on_inside(
    small_network, small_images, cam_method, kind, in_place, outside
):
    """Against the same network without the block, whose gradient Captum gives."""
    twin = (Gated if kind is NoGradBeside else Normalised)(small_network(), False)
    expected = cam_method(twin, twin.net[6]).attribute(small_images.clone(), 1)
    model = kind(small_network(), torch.enable_grad, in_place)
    attributor = cam_method(model, model.net.net[6])
    for _ in range(2):
        images = small_images.clone()
        STORAGES.clear()
        with outside():
            result = attributor.attribute(images, 1)
            assert torch.is_grad_enabled() == (outside is torch.enable_grad)
        assert torch.equal(result, expected)
        assert runs_on(images) == 1
    assert all(parameter.grad is None for parameter in model.parameters())


class Gated(Normalised):
    """What `NoGradBeside` computes."""

    def forward(self, x):
        x = self.net[:7](self.normalised(x))
        gate = x.mean((1, 2, 3), keepdim=True).sigmoid().detach()
        return self.net[7:](x * gate)


@pytest.mark.parametrize("kind", [FastCAM, GradCAM, SmoothGradCAMPlusPlus])
def test_no_grad_around_the_layer_is_an_error_as_in_captum(small_network, small_images, kind):
    model = SwitchingOn(small_network(), torch.no_grad)
    for _ in range(2):
        with pytest.raises(ValueError, match="has no gradient by the CAM's layer"):
            kind(model, model.net.net[6]).attribute(small_images, 1)
