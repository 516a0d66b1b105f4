"""What Captum's own tools ask of an attribution class, and the model as it was afterwards."""

import inspect
import warnings
import weakref

import matplotlib as mpl
import pytest
import torch
import torchvision
from captum.attr import GuidedGradCam, LayerGradCam, NoiseTunnel, visualization
from captum.attr._utils.attribution import GradientAttribution, InternalAttribution
from captum.metrics import infidelity, sensitivity_max
from captum.testing.attr.helpers.gen_test_utils import get_target_layer
from captum.testing.helpers.basic_models import BasicModel_ConvNet
from torch import nn

from fastsal import FastCAM, SMOEScale

METHODS = [SMOEScale, FastCAM]


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision.models.resnet18(weights=None, num_classes=10)
        nn.init.normal_(net.fc.weight, 0.1, 0.05)
    # A mixture of modes, and of frozen and free parameters, with gradients on some.
    net.train()
    net.layer1.eval()
    net.layer2[0].bn1.eval()
    net.layer3.requires_grad_(False)
    net.conv1.weight.grad = torch.ones_like(net.conv1.weight)
    return net


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def state(model):
    hooks = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs",
        "_state_dict_hooks",
    )
    return {
        "hooks": [len(getattr(m, name)) for m in model.modules() for name in hooks],
        "training": [m.training for m in model.modules()],
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
    }


def assert_untouched(model, before):
    after = state(model)
    for key in ("hooks", "training", "requires_grad"):
        assert after[key] == before[key], key
    for name, tensor in before["tensors"].items():
        assert torch.equal(after["tensors"][name], tensor), name
    for old, new in zip(before["grad"], after["grad"], strict=True):
        assert (old is None and new is None) or torch.equal(old, new)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_as_it_was(model, images, method):
    before = state(model)
    # A user's own hook stays.
    handle = model.layer4.register_forward_hook(lambda *_: None)
    attributor = method(model)
    first = attributor.attribute(images, 1)
    assert torch.equal(attributor.attribute(images, 1), first)
    assert len(model.layer4._forward_hooks) == 1
    handle.remove()
    assert_untouched(model, before)
    assert torch.is_grad_enabled()
    assert not images.requires_grad
    assert images.grad is None
    assert torch.equal(method(model.eval()).attribute(images, 1), first)


class Failing(nn.Module):
    def forward(self, x):
        raise RuntimeError("planted")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("when", ["tracing", "reading", "target"])
def test_the_model_is_as_it_was_after_an_error(model, images, method, when):
    attributor = method(model)
    if when != "tracing":
        attributor.attribute(images, 1)
    if when != "target":
        model.layer3[1] = Failing().train()
    before = state(model)
    error = ValueError if when == "target" else RuntimeError
    with pytest.raises(error, match="does not fit" if when == "target" else "planted"):
        attributor.attribute(images, 9999)
    assert_untouched(model, before)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("method", METHODS)
def test_activations_are_not_kept(model, images, method):
    references = []
    handle = model.layer2.register_forward_hook(
        lambda _, __, output: references.append(weakref.ref(output))
    )
    attributor = method(model)
    attributor.attribute(images, 1)
    handle.remove()
    assert len(references) == 2
    assert all(reference() is None for reference in references)


def test_a_scales_activations_are_gone_before_the_next_ones(model, images):
    alive = []
    first = []
    handles = [
        model.layer1.register_forward_hook(lambda _, __, out: first.append(weakref.ref(out))),
        model.layer4.register_forward_hook(lambda *_: alive.append(first[-1]() is not None)),
    ]
    SMOEScale(model, ["layer1", "layer4"]).attribute(images)
    for handle in handles:
        handle.remove()
    assert alive == [False]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel(model, images, method, kind):
    before = state(model)
    attributor = method(model)
    tunnel = NoiseTunnel(attributor)
    result = tunnel.attribute(
        images, nt_type=kind, nt_samples=3, nt_samples_batch_size=1, stdevs=0.0, target=[1, 2]
    )
    clean = attributor.attribute(images, [1, 2])
    expected = {"smoothgrad": clean, "smoothgrad_sq": clean**2, "vargrad": torch.zeros_like(clean)}
    torch.testing.assert_close(result, expected[kind], rtol=0, atol=1e-5)
    assert_untouched(model, before)


@pytest.mark.parametrize("method", METHODS)
def test_infidelity_and_sensitivity(model, images, method):
    attributor = method(model)
    model.eval()
    attribution = attributor.attribute(images, 1)

    def perturb(inputs):
        noise = torch.full_like(inputs, 0.01)
        return noise, inputs - noise

    with torch.no_grad():
        drop = model(images)[:, 1] - model(images - 0.01)[:, 1]
    expected = ((attribution * 0.01).flatten(1).sum(1) - drop).square()
    measured = infidelity(model, perturb, images, attribution, target=1, n_perturb_samples=1)
    torch.testing.assert_close(measured, expected, rtol=1e-3, atol=1e-6)

    # Without a perturbation, no sensitivity.
    still = sensitivity_max(
        attributor.attribute, images, lambda inputs: inputs, target=1, n_perturb_samples=2
    )
    torch.testing.assert_close(still, torch.zeros(2), rtol=0, atol=1e-5)
    moved = sensitivity_max(attributor.attribute, images, perturb_radius=0.2, target=1)
    assert (moved > 1e-3).all()


def test_visualize_image_attr(model, images):
    mpl.use("Agg")
    attribution = SMOEScale(model).attribute(images)[0].permute(1, 2, 0).numpy()
    figure, _ = visualization.visualize_image_attr(
        attribution, method="heat_map", sign="positive", use_pyplot=False
    )
    assert len(figure.axes[0].images) == 1


@pytest.mark.parametrize("method", METHODS)
def test_class_contract(model, images, method):
    attributor = method(model)
    assert isinstance(attributor, InternalAttribution)
    assert isinstance(attributor, GradientAttribution) == (method is FastCAM)
    assert attributor.has_convergence_delta() is False
    assert attributor.multiplies_by_inputs is False
    assert method.get_name() == {SMOEScale: "SMOE Scale", FastCAM: "Fast-CAM"}[method]
    assert method.attribute.__wrapped__
    assert attributor.forward_func is model
    other = {SMOEScale: LayerGradCam, FastCAM: GuidedGradCam}[method]
    positional = [
        name
        for name, parameter in inspect.signature(other.attribute).parameters.items()
        if name in inspect.signature(method.attribute).parameters
    ]
    ours = list(inspect.signature(method.attribute).parameters)
    assert ours[: len(positional)] == positional


@pytest.mark.parametrize("method", METHODS)
def test_device_ids_and_data_parallel(model, images, method):
    expected = method(model).attribute(images, 1)
    assert torch.equal(method(model, None, [0]).attribute(images, 1), expected)
    parallel = nn.DataParallel(model)
    assert torch.equal(method(parallel, device_ids=[0]).attribute(images, 1), expected)


@pytest.mark.parametrize("method", METHODS)
def test_compiled_models(images, method):
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    expected = method(model).attribute(images, 1)
    compiled = torch.compile(model, backend="eager")
    # Hooks that are set after the first call of a compiled model would never run.
    compiled(images)
    assert torch.equal(method(compiled).attribute(images, 1), expected)
    model[2] = torch.compile(model[2], backend="eager")
    model(images)
    assert torch.equal(method(model).attribute(images, 1), expected)


@pytest.mark.parametrize("method", METHODS)
def test_autocast(model, images, method):
    expected = method(model).attribute(images, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = method(model).attribute(images, 1)
    assert result.dtype == torch.float32
    assert (result - expected).abs().mean() < 3e-2


# Captum's own generated tests, for its convolutional model: hook removal and targets.
def convnet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BasicModel_ConvNet()


def captum_attributor(method, model, layers):
    target_layers = get_target_layer(model, layers)
    if method is SMOEScale:
        return SMOEScale(model, target_layers)
    single = target_layers[-1] if isinstance(layers, list) else target_layers
    return FastCAM(model, single, scales=target_layers)


CONVNET_INPUT = 20 * torch.rand(4, 1, 10, 10, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layers", ["conv1", "relu2", ["conv1", "conv2"], ["relu1", "relu2"]])
@pytest.mark.parametrize("tunnel", [False, True])
@pytest.mark.parametrize("mode", ["normal", "wrong target", "failing layer"])
def test_captums_hook_removal(method, layers, tunnel, mode):
    model = convnet()
    if mode == "failing layer":

        class ErrorModule(nn.Module):
            def forward(self, x):
                raise AssertionError("planted")

        setattr(model, layers if isinstance(layers, str) else layers[0], ErrorModule())
    attributor = captum_attributor(method, model, layers)
    attributor = NoiseTunnel(attributor) if tunnel else attributor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if mode == "normal":
            attributor.attribute(CONVNET_INPUT, target=[1, 0, 2, 3])
        else:
            target = (9999,) * 20 if mode == "wrong target" else 1
            with pytest.raises(AssertionError):
                attributor.attribute(CONVNET_INPUT, target=target)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "target", [[0, 1, 1, 0], torch.tensor([0, 1, 1, 0]), [(0,), (1,), (1,), (0,)]], ids=repr
)
def test_captums_targets(method, target):
    """A list of targets is, image by image, the same as each target alone."""
    model = convnet()
    attributor = captum_attributor(method, model, ["conv1", "conv2"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together = attributor.attribute(CONVNET_INPUT, target=target)
        for index, single in enumerate(target):
            single = single.item() if isinstance(single, torch.Tensor) else single
            alone = attributor.attribute(CONVNET_INPUT[index : index + 1], target=single)
            torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=1e-5)
