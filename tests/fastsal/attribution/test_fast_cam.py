"""FastCAM against Captum's LayerGradCam times an independently made SMOE Scale map."""

import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from captum.attr import GuidedGradCam, LayerGradCam
from torch import nn

from fastsal import FastCAM, SMOEScale, Statistic, find_scales
from fastsal.arguments.targets import TargetError

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def resnet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.resnet18(weights=None, num_classes=10).eval()
        # Otherwise every class of an untrained network can have a map of 0.
        nn.init.normal_(model.fc.weight, 0.1, 0.05)
        return model


@pytest.fixture
def images():
    return torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def peak_scaled(cam):
    return cam / cam.amax((1, 2, 3), keepdim=True)


TARGETS = [1, [1, 0, 7], torch.tensor([1, 0, 7]), torch.tensor(3), (4,), [(1,), (2,), (3,)]]


@pytest.mark.parametrize("target", TARGETS, ids=repr)
@pytest.mark.parametrize("name", ["layer4", "layer2", "layer3.1.conv1"])
def test_equals_captums_grad_cam_times_smoe(resnet, images, target, name):
    layer = resnet.get_submodule(name)
    cam = LayerGradCam(resnet, layer).attribute(images, target, relu_attributions=True).detach()
    fast = FastCAM(resnet, layer)
    torch.testing.assert_close(
        fast.class_activation_map(images, target), cam[:, 0], rtol=1e-5, atol=1e-8
    )
    upsampled = F.interpolate(peak_scaled(cam), (64, 96), mode="bilinear")
    expected = upsampled * SMOEScale(resnet).attribute(images)
    torch.testing.assert_close(fast.attribute(images, target), expected, rtol=0, atol=1e-5)


def test_no_layer_is_the_last_scale_and_no_target_the_predicted_class(resnet, images):
    predicted = resnet(images).argmax(1)
    expected = FastCAM(resnet, resnet.layer4).attribute(images, predicted)
    assert torch.equal(FastCAM(resnet).attribute(images), expected)
    assert torch.equal(FastCAM(resnet, "layer4").attribute(images), expected)
    assert torch.equal(FastCAM(resnet, find_scales(resnet, images)[-1]).attribute(images), expected)


def test_a_callable_target(resnet, images):
    class Answer(nn.Module):
        def forward(self, x):
            return {"scores": resnet(x)}

    model = Answer()
    model.net = resnet
    result = FastCAM(model).attribute(images, lambda output: output["scores"][:, 3])
    assert torch.equal(result, FastCAM(resnet).attribute(images, 3))
    with pytest.raises(TargetError, match=r"output is a dict.*give a callable"):
        FastCAM(model).attribute(images, 3)
    with pytest.raises(TargetError, match=r"gives \(3, 10\), expected one score"):
        FastCAM(resnet).attribute(images, lambda output: output)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_grad_modes(resnet, images, mode):
    expected = FastCAM(resnet).attribute(images, 1)
    with mode():
        inside = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        result = FastCAM(resnet).attribute(inside, 1)
        smoe = SMOEScale(resnet).attribute(inside)
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    assert torch.equal(result, expected)
    assert torch.equal(smoe, SMOEScale(resnet).attribute(images))
    assert torch.is_grad_enabled()
    assert not result.requires_grad


def test_a_frozen_network(resnet, images):
    expected = FastCAM(resnet).attribute(images, 1)
    frozen = torchvision.models.resnet18(weights=None, num_classes=10).eval()
    frozen.load_state_dict(resnet.state_dict())
    frozen.requires_grad_(False)
    assert torch.equal(FastCAM(frozen).attribute(images, 1), expected)


def test_only_what_follows_the_layer_needs_gradients(resnet, images):
    seen = {}
    handles = [
        module.register_forward_hook(
            lambda _, __, output, name=name: seen.__setitem__(name, output.requires_grad)
        )
        for name, module in resnet.named_modules()
        if name in ("conv1", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc")
    ]
    try:
        FastCAM(resnet, resnet.layer3).attribute(images, 1)
    finally:
        for handle in handles:
            handle.remove()
    assert [seen[name] for name in ("conv1", "layer1", "layer2")] == [False] * 3
    assert [seen[name] for name in ("layer4", "avgpool", "fc")] == [True] * 3
    assert all(parameter.grad is None for parameter in resnet.parameters())


def test_a_scale_after_the_cams_layer_is_read_without_a_gradient(resnet, images):
    values = []

    def spy(activations):
        values.append(activations.mean(1))
        return values[-1]

    statistic = Statistic("spy", "none", "post_relu", spy)
    fast = FastCAM(resnet, resnet.layer1, scales=["layer1", "layer4"], statistic=statistic)
    fast.attribute(images, 1)
    assert [value.requires_grad for value in values] == [False, False]


def test_a_functional_in_place_relu_has_the_gradient_after_it(images):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        conv1, conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        conv3 = nn.Conv2d(6, 6, 3, padding=1)
        fc = nn.Linear(6, 5)

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.conv3, self.fc = conv1, conv2, conv3, fc

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.conv1(x), inplace=True), 2)
            x = F.relu(self.conv2(x), inplace=True)
            # Overlapping sums make the gradient differ from place to place.
            x = F.avg_pool2d(x, 3, stride=2)
            return self.fc(torch.tanh(x).square().mean((2, 3)))

    modular = nn.Sequential(conv1, nn.ReLU(), nn.MaxPool2d(2), conv2, nn.ReLU(), nn.AvgPool2d(3, 2))

    def after(x):
        return fc(torch.tanh(modular(x)).square().mean((2, 3)))

    model = Functional()
    scale = find_scales(model, images)[-1]
    assert (scale.name, scale.functional_relu) == ("conv2", True)
    cam = LayerGradCam(after, modular[4]).attribute(images, 2, relu_attributions=True)[:, 0]
    result = FastCAM(model).class_activation_map(images, 2)
    torch.testing.assert_close(result, cam.detach(), rtol=1e-5, atol=1e-9)
    assert cam.max() > 0


def test_a_layers_input(resnet, images):
    cam = LayerGradCam(resnet, resnet.layer4).attribute(
        images, 1, attribute_to_layer_input=True, relu_attributions=True
    )
    result = FastCAM(resnet, resnet.layer4).class_activation_map(
        images, 1, attribute_to_layer_input=True
    )
    torch.testing.assert_close(result, cam[:, 0].detach(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic", "area"])
def test_swaps_for_guided_grad_cam(resnet, images, mode):
    arguments = {"target": 1, "interpolate_mode": mode, "attribute_to_layer_input": False}
    attributions = {}
    for method in (GuidedGradCam, FastCAM):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attributions[method] = method(resnet, resnet.layer4).attribute(images, **arguments)
    assert attributions[FastCAM].shape == attributions[GuidedGradCam].shape
    cam = LayerGradCam(resnet, resnet.layer4).attribute(images, 1, relu_attributions=True)
    upsampled = F.interpolate(peak_scaled(cam.detach()), (64, 96), mode=mode)
    expected = upsampled * SMOEScale(resnet).attribute(images)
    torch.testing.assert_close(attributions[FastCAM], expected, rtol=0, atol=1e-5)


def test_a_map_of_zero_is_named(images):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    with torch.no_grad():
        net[7].weight.copy_(torch.tensor([[1.0] * 4, [-1.0] * 4]))
    with pytest.warns(UserWarning, match=r"gradcam is 0 everywhere for image\(s\) \[1\]"):
        result = FastCAM(net).attribute(images, [0, 1, 0])
    assert torch.equal(result[1], torch.zeros(3, 64, 96))
    assert (result[0] > 0).any()


def test_a_batch_equals_the_loop(resnet, images):
    fast = FastCAM(resnet)
    loop = torch.cat([fast.attribute(image[None], 1) for image in images])
    # Convolutions of another batch size may sum in another order.
    torch.testing.assert_close(fast.attribute(images, 1), loop, rtol=0, atol=1e-4)


def test_given_scales_and_weights(resnet, images):
    fast = FastCAM(resnet, resnet.layer4, scales=["layer2", "layer3"], weights=[3, 1])
    cam = LayerGradCam(resnet, resnet.layer4).attribute(images, 1, relu_attributions=True).detach()
    smoe = SMOEScale(resnet, ["layer2", "layer3"], weights=[3, 1]).attribute(images)
    expected = F.interpolate(peak_scaled(cam), (64, 96), mode="bilinear") * smoe
    torch.testing.assert_close(fast.attribute(images, 1), expected, rtol=0, atol=1e-5)


def test_half_precision(resnet, images):
    expected = FastCAM(resnet).attribute(images, 1)
    model = torchvision.models.resnet18(weights=None, num_classes=10).eval()
    model.load_state_dict(resnet.state_dict())
    result = FastCAM(model.bfloat16()).attribute(images.bfloat16(), 1)
    assert result.dtype == torch.float32
    assert (result - expected).abs().mean() < 2e-2


def test_a_model_that_stops_gradients_is_named(images):
    class Stopped(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3, stride=2)
            self.act1, self.act2 = nn.ReLU(), nn.ReLU()

        def forward(self, x):
            return self.act2(self.conv2(self.act1(self.conv1(x)))).detach().mean((2, 3))

    with pytest.raises(ValueError, match="no gradient by the CAM's layer"):
        FastCAM(Stopped()).attribute(images, 1)


def test_errors(resnet, images):
    with pytest.raises(ValueError, match=r"unknown class activation map 'x'; .*gradcam"):
        FastCAM(resnet, cam="x")
    with pytest.raises(ValueError, match="one layer for the CAM, got 2"):
        FastCAM(resnet, ["layer3", "layer4"])
    for attributor in (FastCAM(resnet), SMOEScale(resnet)):
        for target in (10, -11, [0, 1], torch.tensor([0, 1, 10]), [0, 1, -1], 1.5, (1, 2), "cat"):
            with pytest.raises(ValueError, match=r"does not fit the model's output .*\(3, 10\)"):
                attributor.attribute(images[:, :, :32, :32], target)
    with pytest.raises(NotImplementedError):
        FastCAM(resnet).attribute_future()
