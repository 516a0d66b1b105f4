"""Attribution classes under Captum's own tools and code written for its classes."""

import inspect

import matplotlib as mpl
import pytest
import torch
from captum.attr import GuidedGradCam, LayerGradCam, NoiseTunnel, visualization
from captum.attr._utils.attribution import (
    GradientAttribution,
    InternalAttribution,
    LayerAttribution,
)
from captum.metrics import infidelity, sensitivity_max
from torch import nn

from fastsal import (
    EigenCAM,
    FastCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    SMOEScale,
    SmoothGradCAMPlusPlus,
    XGradCAM,
)
from fastsal.maps.resize import upsample

LAYER_METHODS = [
    *(GradCAM, GradCAMPlusPlus, SmoothGradCAMPlusPlus),
    *(HiResCAM, XGradCAM, LayerCAM, EigenCAM),
]


@pytest.fixture
def model(small_network):
    return small_network()


@pytest.fixture
def images(small_images):
    return small_images


def test_class_contract(model, method):
    attributor = method(model)
    assert isinstance(attributor, InternalAttribution)
    assert isinstance(attributor, GradientAttribution) == (method is not SMOEScale)
    assert attributor.has_convergence_delta() is False
    assert attributor.multiplies_by_inputs is False
    assert isinstance(attributor, LayerAttribution) == (method in LAYER_METHODS)
    assert method.get_name() == {
        SMOEScale: "SMOE Scale",
        FastCAM: "Fast-CAM",
        GradCAM: "Grad-CAM",
        GradCAMPlusPlus: "Grad-CAM++",
        SmoothGradCAMPlusPlus: "Smooth Grad-CAM++",
        HiResCAM: "HiResCAM",
        XGradCAM: "XGrad-CAM",
        LayerCAM: "LayerCAM",
        EigenCAM: "EigenCAM",
    }.get(method)
    assert attributor.forward_func is model
    # The method that NoiseTunnel calls.
    assert method.attribute.__wrapped__
    with pytest.raises(NotImplementedError):
        attributor.attribute_future()


def at_image_size(attribution, images):
    """The attribution; that of a layer is interpolated, as with Captum's own classes."""
    if attribution.shape != images.shape:
        attribution = LayerAttribution.interpolate(attribution, images.shape[2:], "bilinear")
    return attribution.expand_as(images).contiguous()


def positional(function):
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


@pytest.mark.parametrize(
    ("ours", "captums"),
    [(SMOEScale, LayerGradCam), (FastCAM, GuidedGradCam)]
    + [(method, LayerGradCam) for method in LAYER_METHODS],
)
def test_arguments_stand_where_captums_stand(ours, captums):
    if ours is SMOEScale:
        # It reads several layers; one given by position will do.
        assert positional(ours.__init__) == ["self", "model", "layers", "device_ids"]
    else:
        assert positional(ours.__init__) == positional(captums.__init__)
    shared = [name for name in positional(captums.attribute) if name in positional(ours.attribute)]
    assert positional(ours.attribute) == shared
    assert shared == positional(captums.attribute)[: len(shared)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_attribution_has_the_images_form(model, images, image_method, memory_format):
    images = images.contiguous(memory_format=memory_format)
    attribution = image_method(model).attribute(images, 1)
    assert attribution.shape == images.shape
    assert attribution.is_contiguous()
    assert attribution.dtype == images.dtype
    assert not attribution.requires_grad
    assert torch.equal(attribution[:, :1].expand_as(attribution), attribution)
    narrow = image_method(model).attribute(images, 1, expand_channels=False)
    torch.testing.assert_close(narrow, attribution[:, :1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "target",
    [2, torch.tensor(2), torch.tensor([2]), (2,), [2, 2, 2], torch.tensor([2, 2, 2]), [(2,)] * 3],
    ids=repr,
)
def test_a_target_in_any_form(model, images, method, target):
    expected = method(model).attribute(images, lambda output: output[:, 2])
    assert torch.equal(method(model).attribute(images, target), expected)


def by_hand(kind, samples):
    """NoiseTunnel's three kinds, over attributions of shape (images, samples, ...)."""
    mean, mean_square = samples.mean(1), samples.square().mean(1)
    variance = mean_square - mean.square()
    return {"smoothgrad": mean, "smoothgrad_sq": mean_square, "vargrad": variance}[kind]


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("at_once", [1, 4])
def test_noise_tunnel(model, images, untouched, method, kind, at_once):
    attributor = method(model)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        noisy = [
            torch.normal(images.repeat_interleave(at_once, 0), 0.2) for _ in range(4 // at_once)
        ]
    targets = torch.tensor([0, 1, 2]).repeat_interleave(at_once)
    parts = [
        attributor.attribute(batch, targets).unflatten(0, (3, at_once)).double() for batch in noisy
    ]
    expected = by_hand(kind, torch.cat(parts, 1)).float()
    with untouched(model), torch.random.fork_rng():
        torch.manual_seed(5)
        result = NoiseTunnel(attributor).attribute(
            images,
            nt_type=kind,
            nt_samples=4,
            nt_samples_batch_size=at_once,
            stdevs=0.2,
            target=[0, 1, 2],
        )
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(result, by_hand(kind, attributor.attribute(images, 1)[:, None]))


def test_infidelity(model, images, method):
    attribution = at_image_size(method(model).attribute(images, 1), images)

    def perturb(inputs):
        noise = torch.full_like(inputs, 0.01)
        return noise, inputs - noise

    with torch.no_grad():
        drop = model(images)[:, 1] - model(images - 0.01)[:, 1]
    expected = ((attribution * 0.01).flatten(1).sum(1) - drop).square()
    measured = infidelity(model, perturb, images, attribution, target=1, n_perturb_samples=1)
    torch.testing.assert_close(measured, expected, rtol=1e-3, atol=1e-6)


def test_sensitivity(model, images, method):
    attributor = method(model)
    # Captum calls with a tuple first, and expects one.
    measured = sensitivity_max(
        attributor.attribute,
        images,
        lambda inputs: inputs * 0.5 + 0.1,
        target=[0, 1, 2],
        n_perturb_samples=1,
    )
    clean = attributor.attribute(images, [0, 1, 2]).flatten(1)
    moved = attributor.attribute(images * 0.5 + 0.1, [0, 1, 2]).flatten(1)
    expected = (moved - clean).norm(dim=1) / clean.norm(dim=1)
    torch.testing.assert_close(measured, expected, rtol=1e-4, atol=1e-6)
    assert (expected > 1e-3).all()


def test_visualize_image_attr(model, images, method):
    mpl.use("Agg")
    attribution = at_image_size(method(model).attribute(images[:1], 1), images[:1])
    attribution = attribution[0].permute(1, 2, 0).numpy()
    original = images[0].permute(1, 2, 0).numpy()
    _, axes = visualization.visualize_image_attr(
        attribution, original, method="heat_map", sign="positive", use_pyplot=False
    )
    shown = torch.tensor(axes.images[0].get_array()).double()
    # Captum sums the channels, divides by a high percentile and clips.
    summed = torch.tensor(attribution).sum(2).double()
    between = (shown > 0.01) & (shown < 1)
    divisor = (summed / shown)[between].mean()
    assert (shown == 1).sum() < 0.1 * shown.numel()
    torch.testing.assert_close(shown, (summed / divisor).clamp(max=1), rtol=0, atol=1e-5)
    _, axes = visualization.visualize_image_attr_multiple(
        attribution,
        original,
        ["original_image", "heat_map", "blended_heat_map", "masked_image", "alpha_scaling"],
        ["all", "positive", "absolute_value", "positive", "positive"],
        use_pyplot=False,
    )
    assert [len(ax.images) for ax in axes] == [1, 1, 2, 1, 1]


def test_device_ids_and_data_parallel(model, images, method):
    expected = method(model).attribute(images, 1)
    assert torch.equal(method(model, None, [0]).attribute(images, 1), expected)
    assert torch.equal(method(model, device_ids=[0]).attribute(images, 1), expected)
    parallel = nn.DataParallel(model)
    assert torch.equal(method(parallel, device_ids=[0]).attribute(images, 1), expected)
    assert torch.equal(
        method(parallel, parallel.module[6], [0]).attribute(images, 1),
        (method(model, model[6]).attribute(images, 1)),
    )


class Prepared(nn.Module):
    """A network with further arguments, with and without a row for each image."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images, gain=1.0, name="plain", options=None):
        images = images * gain
        if name == "mirrored":
            images = images.flip(3)
        return self.net(images) * (options or {}).get("sign", 1)


GAINS = torch.tensor([1.0, 0.5, 0.25])[:, None, None, None]


@pytest.mark.parametrize(
    ("arguments", "prepare", "sign"),
    [
        (GAINS, lambda images: images * GAINS, 1),
        ((GAINS,), lambda images: images * GAINS, 1),
        (0.5, lambda images: images * 0.5, 1),
        ((GAINS, "mirrored"), lambda images: (images * GAINS).flip(3), 1),
        ((0.5, "plain", {"sign": 3}), lambda images: images * 0.5, 3),
    ],
    ids=["a tensor", "a tuple", "a number", "a tensor and a string", "no tensor"],
)
def test_additional_forward_args(model, images, method, arguments, prepare, sign):
    prepared = Prepared(model)
    expected = method(model).attribute(prepare(images), lambda output: output[:, 1] * sign)
    attributor = method(prepared)
    mirrored = isinstance(arguments, tuple) and "mirrored" in arguments
    if mirrored and method in (SMOEScale, FastCAM):
        # The map lies where the pixels were before the network mirrored them.
        found = attributor.attribute(images, 1, arguments)
        torch.testing.assert_close(found, expected.flip(3), rtol=0, atol=1e-5)
        return
    assert torch.equal(attributor.attribute(images, 1, arguments), expected)
    tunnel = NoiseTunnel(attributor).attribute(
        images, nt_samples=2, stdevs=0.0, target=1, additional_forward_args=arguments
    )
    torch.testing.assert_close(tunnel, expected, rtol=0, atol=1e-5)


class Several(nn.Module):
    """Two images of different sizes and a row of numbers."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, first, second, numbers):
        half = nn.functional.interpolate(second, first.shape[2:])
        return self.net(0.7 * first + 0.3 * half) + numbers


def test_a_tuple_of_inputs(model, images, image_method):
    second = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(2))
    inputs = (images, second, torch.arange(15.0).reshape(3, 5))
    mixed = 0.7 * images + 0.3 * nn.functional.interpolate(second, images.shape[2:])
    # Else Fast-CAM finds the mixture's scales in the one network alone.
    options = {"scales": model[6]} if image_method is FastCAM else {}
    expected = image_method(model, model[6], **options).attribute(mixed, 1)
    several = Several(model)
    with pytest.warns(UserWarning, match=r"shape \(3, 5\) is no image batch"):
        result = image_method(several, model[6], **options).attribute(inputs, 1)
    torch.testing.assert_close(result[0], expected, rtol=0, atol=1e-6)
    # As large as the image it is for.
    at_second = upsample(expected[:, 0], (32, 48))[:, :1].expand(3, 3, -1, -1)
    torch.testing.assert_close(result[1], at_second, rtol=0, atol=1e-6)
    with pytest.warns(UserWarning):  # noqa: PT030
        captums = GuidedGradCam(several, model[6]).attribute(inputs, 1)
    assert isinstance(result, tuple)
    assert [part.shape for part in result] == [part.shape for part in captums]


@pytest.mark.parametrize("method", LAYER_METHODS, ids=lambda method: method.__name__)
def test_a_layers_map_of_several_inputs(model, images, method):
    """One map, as of Captum's LayerGradCam."""
    several = Several(model)
    numbers = torch.zeros(3, 5)
    # The noise of the smooth one is drawn input by input.
    options = {"noise": 0.0} if method is SmoothGradCAMPlusPlus else {}
    result = method(several, model[6], **options).attribute((images, images, numbers), 1)
    expected = method(model, model[6], **options).attribute(images, 1)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-8)
    captums = LayerGradCam(several, model[6]).attribute((images, images, numbers), 1)
    assert result.shape == captums.shape


def test_tuple_in_tuple_out(model, images, method):
    (inside,) = method(model).attribute((images,), 1)
    assert torch.equal(inside, method(model).attribute(images, 1))


def test_a_layers_input_is_the_output_before_it(model, images, method):
    expected = method(model, model[3]).attribute(images, 1)
    result = method(model, model[4]).attribute(images, 1, attribute_to_layer_input=True)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    other = method(model, model[4]).attribute(images, 1)
    assert other.shape != expected.shape or not torch.allclose(other, expected, atol=1e-3)


def test_a_layer_in_any_form(model, images, method):
    expected = method(model, model[6]).attribute(images, 1)
    for layer in ("6", [model[6]], ["6"], (model[6],)):
        assert torch.equal(method(model, layer).attribute(images, 1), expected)
    assert torch.equal(method(model.forward, model[6]).attribute(images, 1), expected)


def test_a_list_of_layers(model, images):
    together = SMOEScale(model, [model[2], model[6]])
    alone = [SMOEScale(model, model[index]).attribute(images) for index in (2, 6)]
    expected = (alone[0] + 2 * alone[1]) / 3
    torch.testing.assert_close(together.attribute(images, [0, 1, 2]), expected, rtol=0, atol=1e-6)
    assert together.layer == [model[2], model[6]]


class ChannelsLast(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class ChannelsFirst(nn.Module):
    def forward(self, x):
        return x.permute(0, 3, 1, 2)


# The second are narrow enough for 16 channels to pass for a column of locations.
@pytest.mark.parametrize("size", [(32, 48), (16, 24)])
def test_layers_with_the_channels_last(model, method, size):
    images = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(2))
    turned = nn.Sequential(*model[:7], ChannelsLast(), nn.Tanh(), ChannelsFirst(), *model[7:])
    straight = nn.Sequential(*model[:7], nn.Tanh(), *model[7:])
    result = method(turned, turned[8]).attribute(images, 1)
    expected = method(straight, straight[7]).attribute(images, 1)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(result, method(model, model[6]).attribute(images, 1), rtol=1e-2)
