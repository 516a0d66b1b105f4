"""Class activation maps against loops over activations, with autograd of exp(S) in float64."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from fastsal import Cam, ClassActivationMap, FastCAM, register_cam
from fastsal.cam.registry import CAMS, get_cam, gradcam_plus_plus_weights, gradcam_weights

# Fewer noisy copies than the registry has, for time.
EVERY = [cam if cam.samples == 1 else replace(cam, samples=3) for cam in CAMS.values()]
SMOOTH = replace(CAMS["smoothgradcam++"], samples=3)


def by_name(cam):
    return cam.name


@pytest.fixture
def net():
    """Piecewise linear, with positive and negative gradients at every layer."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(4, 5, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(20, 6),
        ).double()


@pytest.fixture
def images():
    """Two images of very different ranges."""
    images = torch.rand(2, 3, 7, 7, generator=torch.Generator().manual_seed(1)).double()
    return images * torch.tensor([1.0, 9.0]).double().reshape(2, 1, 1, 1) - 0.3


def slow_copies(image, cam, others):
    """The noisy copies of one image alone, from the definition."""
    if cam.noise == 0:
        return [image]
    generator = torch.Generator().manual_seed(cam.seed)
    deviation = cam.noise * (max(image.flatten().tolist()) - min(image.flatten().tolist()))
    return [
        image + deviation * torch.randn(image.shape, generator=generator).double()
        for _ in range(others)
    ]


def slow_map(cam, head, tail, image, target):
    """(map before the ReLU, score), by loops and real derivatives of exp(S)."""
    activations = head(image[None])[0].detach()
    channels, height, width = activations.shape
    places = [(k, i, j) for k in range(channels) for i in range(height) for j in range(width)]
    if cam.name == "eigencam":
        matrix = activations.flatten(1).T
        found = matrix @ torch.linalg.svd(matrix)[2][0]
        found = found if found.sum() >= 0 else -found
        return found.reshape(height, width), tail(head(image[None]))[0, target].item()
    copies = slow_copies(image, cam, cam.samples)
    means = {order: dict.fromkeys(places, 0.0) for order in (0, 1, 2, 3)}
    for copy in copies:
        at = head(copy[None]).detach().requires_grad_()
        score = tail(at)[0, target]
        plain = torch.autograd.grad(score, at, retain_graph=True)[0]
        first = torch.autograd.grad(score.exp(), at, create_graph=True)[0]
        # Noisy copies count the same: each without its own factor exp(S).
        factor = score.exp().item() if cam.noise else 1.0
        for place in places:
            index = (0, *place)
            second = torch.autograd.grad(first[index], at, create_graph=True)[0]
            third = torch.autograd.grad(second[index], at, retain_graph=True)[0]
            means[0][place] += plain[index].item() / len(copies)
            means[1][place] += first[index].item() / factor / len(copies)
            means[2][place] += second[index].item() / factor / len(copies)
            means[3][place] += third[index].item() / factor / len(copies)
    result = torch.zeros(height, width).double()
    for k in range(channels):
        own = [place for place in places if place[0] == k]
        weight = 0.0
        for place in own:
            if cam.name == "gradcam":
                weight += means[0][place] / len(own)
                continue
            total = sum(activations[other].item() for other in own)
            if cam.name == "xgradcam":
                share = activations[place].item() / total if total else 0.0
                weight += share * means[0][place]
                continue
            denominator = 2 * means[2][place] + total * means[3][place]
            if denominator != 0:
                weight += means[2][place] / denominator * max(means[1][place], 0.0)
        for _, i, j in own:
            if cam.name in ("hirescam", "layercam"):
                gradient = means[0][k, i, j]
                weight = max(gradient, 0.0) if cam.name == "layercam" else gradient
            result[i, j] += weight * activations[k, i, j]
    return result, tail(head(image[None]))[0, target].item()


@pytest.mark.parametrize("cam", EVERY, ids=by_name)
@pytest.mark.parametrize("layer", [0, 1], ids=["signed", "after the ReLU"])
def test_equals_a_slow_rewrite(net, images, cam, layer):
    attributor = ClassActivationMap(net, net[layer], cam=cam)
    for target in (1, 4):
        result = attributor.attribute(images, target, relu_attributions=False)
        for index, image in enumerate(images):
            expected, score = slow_map(cam, net[: layer + 1], net[layer + 1 :], image, target)
            # The whole map of an image carries the factor exp(S), which is left out.
            factor = math.exp(score) if cam.name == "gradcam++" else 1.0
            torch.testing.assert_close(result[index, 0] * factor, expected, rtol=1e-9, atol=1e-12)
            assert expected.abs().max() > 1e-3
    assert result.dtype == torch.float64


@pytest.mark.parametrize("cam", EVERY, ids=by_name)
def test_the_map_is_the_positive_part_of_the_sum(net, images, cam):
    attributor = ClassActivationMap(net, net[0], cam=cam)
    added = attributor.attribute(images, 1, relu_attributions=False, attr_dim_summation=False)
    assert added.shape == (2, 4, 3, 3)
    signed = attributor.attribute(images, 1, relu_attributions=False)
    torch.testing.assert_close(signed, added.sum(1, keepdim=True))
    # LayerCAM's gradient is 0 where the ReLU after this layer is.
    assert cam.name == "layercam" or (signed < 0).any()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert torch.equal(attributor.attribute(images, 1), signed.clamp_min(0))
    positive = attributor.attribute(images, 1, attr_dim_summation=False)
    assert torch.equal(positive, added.clamp_min(0))


@pytest.mark.parametrize("cam", EVERY, ids=by_name)
def test_a_batch_equals_the_loop(net, images, cam):
    attributor = ClassActivationMap(net, net[1], cam=cam)
    for target in (None, 2, [1, 4]):
        together = attributor.attribute(images, target)
        targets = target if isinstance(target, list) else [target] * 2
        alone = [
            attributor.attribute(image[None], one)
            for image, one in zip(images, targets, strict=True)
        ]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-10, atol=1e-14)
        swapped = attributor.attribute(
            images.flip(0), target if targets[0] is None else targets[::-1]
        )
        torch.testing.assert_close(together, swapped.flip(0), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("cam", EVERY, ids=by_name)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes_and_frozen_networks(net, images, cam, mode):
    expected = ClassActivationMap(net, net[1], cam=cam).attribute(images, 1)
    values = images.tolist()
    net.requires_grad_(False)
    with mode():
        inside = torch.tensor(values).double()
        result = ClassActivationMap(net, net[1], cam=cam).attribute(inside, 1)
        assert torch.is_grad_enabled() == (mode is torch.enable_grad)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    # Made from float32 numbers printed in full.
    torch.testing.assert_close(result.clone(), expected, rtol=1e-5, atol=1e-7)
    assert not result.requires_grad


@pytest.mark.parametrize("cam", EVERY, ids=by_name)
def test_only_what_follows_the_layer_needs_gradients(net, images, cam):
    seen = {name: [] for name in ("0", "2", "5")}
    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: seen[name].append(output.requires_grad)
        )
        for name in seen
    ]
    ClassActivationMap(net, net[1], cam=cam).attribute(images, 1)
    for handle in handles:
        handle.remove()
    passes = cam.samples + 1 if cam.noise else 1
    taken = [cam.orders > 0] * passes
    assert seen == {"0": [False] * passes, "2": taken, "5": taken}
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("cam", EVERY, ids=by_name)
def test_channels_that_come_last(images, cam):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU()).double()
        tail = nn.Sequential(
            nn.Conv2d(16, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(20, 6)
        ).double()

    class Last(nn.Module):
        """Returns its channels last, as Swin does."""

        def __init__(self):
            super().__init__()
            self.body, self.tail, self.last = body, tail, nn.Identity()

        def forward(self, x):
            x = self.last(self.body(x).permute(0, 2, 3, 1).contiguous())
            return self.tail(x.permute(0, 3, 1, 2))

    model = Last()
    first = ClassActivationMap(nn.Sequential(body, tail), body, cam=cam)
    last = ClassActivationMap(model, model.last, cam=cam)
    for channels, shape in ((True, (2, 16, 3, 3)), (False, (2, 1, 3, 3))):
        arguments = {"relu_attributions": False, "attr_dim_summation": not channels}
        expected = first.attribute(images, 1, **arguments)
        result = last.attribute(images, 1, **arguments)
        assert result.shape == shape
        torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-14)
        assert result.is_contiguous()


@pytest.mark.parametrize("cam", EVERY, ids=by_name)
def test_fast_cam_takes_each(net, images, cam):
    scales = [net[1], net[3]]
    fast = FastCAM(net, net[1], scales=scales, cam=cam)
    own = ClassActivationMap(net, net[1], cam=cam).attribute(images, 1)[:, 0]
    assert torch.equal(fast.class_activation_map(images, 1), own)
    if cam.name in CAMS and cam == CAMS[cam.name]:
        by_its_name = FastCAM(net, net[1], scales=scales, cam=cam.name)
        assert torch.equal(by_its_name.attribute(images, 1), fast.attribute(images, 1))
    smoe = fast.smoe.attribute(images)
    upsampled = nn.functional.interpolate(
        (own / own.amax((1, 2), keepdim=True))[:, None], (7, 7), mode="bilinear"
    )
    torch.testing.assert_close(fast.attribute(images, 1), (upsampled * smoe).double())


def test_gradcam_by_hand():
    gradients = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]]])
    activations = torch.tensor([[[1.0, 0.0, 2.0, 4.0], [3.0, 1.0, 0.0, 1.0]]])
    assert gradcam_weights(activations, gradients[None]).flatten().tolist() == [0.5, -0.25]
    summed = CAMS["gradcam"].contributions(activations, gradients[None]).sum(1)
    assert summed.tolist() == [[-0.25, -0.25, 1.0, 1.75]]


def powers(gradients):
    return torch.stack([gradients, gradients**2, gradients**3])


def test_gradcam_plus_plus_by_hand():
    activations = torch.tensor([[[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]]])
    gradients = torch.tensor([[[1.0, -2.0, 2.0], [3.0, 1.0, 0.0]]])
    # Sums of activations 4 and 0: 1 / (2 + 4) + 2 / (2 + 8), and 3 / 2 + 1 / 2.
    weights = gradcam_plus_plus_weights(activations, powers(gradients))
    torch.testing.assert_close(weights, torch.tensor([[[1 / 6 + 1 / 5], [2.0]]]))


@pytest.mark.parametrize(
    ("activation", "gradient", "weight"),
    [
        (5.0, 0.0, 0.0),
        # Its square is below float32's smallest number, and alpha near 1/2.
        (5.0, 1e-30, 0.5e-30),
        # The denominator alone is 0: 2 + 2 * -1.
        (-1.0, 2.0, 0.0),
        # Below it alpha is negative, as the formula has it: 4 / (8 - 16).
        (-2.0, 2.0, -1.0),
    ],
)
def test_where_alpha_divides_by_zero(activation, gradient, weight):
    weights = gradcam_plus_plus_weights(
        torch.full((1, 1, 1), activation), powers(torch.full((1, 1, 1), gradient))
    )
    assert weights.item() == pytest.approx(weight)


def test_smooth_without_noise_is_gradcam_plus_plus(net, images):
    expected = ClassActivationMap(net, net[1], cam="gradcam++").attribute(images)
    calls = []
    handle = net.register_forward_hook(lambda *_: calls.append(1))
    for samples in (1, 7):
        cam = replace(SMOOTH, samples=samples, noise=0.0)
        assert torch.equal(ClassActivationMap(net, net[1], cam=cam).attribute(images), expected)
    handle.remove()
    assert len(calls) == 2


def test_any_map_can_be_averaged(net, images):
    """The mean of the gradient over noisy copies, for Grad-CAM."""
    cam = replace(CAMS["gradcam"], samples=4, noise=0.2, seed=3)
    result = ClassActivationMap(net, net[1], cam=cam).attribute(images, 1, relu_attributions=False)
    for index, image in enumerate(images):
        expected, _ = slow_map(cam, net[:2], net[2:], image, 1)
        torch.testing.assert_close(result[index, 0], expected, rtol=1e-9, atol=1e-12)


def test_the_noise(net):
    images = torch.rand(2, 3, 7, 7).double()
    images[1] = images[1] * 50 + 200
    images[:, :, 0, 0], images[:, :, 1, 1] = images.amin((1, 2, 3))[:, None], 0
    images[:, :, 1, 1] = images.amax((1, 2, 3))[:, None]
    seen = []
    handle = net.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    ClassActivationMap(net, net[1], cam=replace(SMOOTH, samples=60)).attribute(images, 1)
    handle.remove()
    assert torch.equal(seen[0], images)
    noise = torch.stack(seen[1:]) - images
    deviation = 0.15 * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))
    assert len(noise) == 60
    # 8,820 draws: within three standard errors.
    for index in range(2):
        own = noise[:, index] / deviation[index]
        assert abs(own.mean()) < 3 / len(own.flatten()) ** 0.5
        assert abs(own.std() - 1) < 3 / (2 * len(own.flatten())) ** 0.5


def test_the_noise_is_reproducible_and_leaves_the_random_state(net, images):
    state = torch.get_rng_state()
    first = ClassActivationMap(net, net[1], cam=SMOOTH).attribute(images, 1)
    torch.rand(5)
    assert torch.equal(ClassActivationMap(net, net[1], cam=SMOOTH).attribute(images, 1), first)
    torch.set_rng_state(state)
    ClassActivationMap(net, net[1], cam=SMOOTH).attribute(images, 1)
    assert torch.equal(torch.get_rng_state(), state)
    other = ClassActivationMap(net, net[1], cam=replace(SMOOTH, seed=1)).attribute(images, 1)
    assert not torch.allclose(other, first)


def test_the_copies_keep_the_class_of_the_image(net, images):
    cam = replace(SMOOTH, samples=8, noise=1.0)
    classes = []
    handle = net.register_forward_hook(lambda *args: classes.append(args[2].argmax(1).tolist()))
    result = ClassActivationMap(net, net[1], cam=cam).attribute(images)
    handle.remove()
    assert any(copy != classes[0] for copy in classes[1:])
    expected = ClassActivationMap(net, net[1], cam=cam).attribute(images, classes[0])
    assert torch.equal(result, expected)


def test_the_noise_is_for_images_alone(net, images):
    # Outside the module, whose attributes are put back after the passes.
    every = []

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, weights, indices):
            every.append((weights.clone(), indices.clone()))
            return self.net(x) * weights[:, :1]

    model = Scaled()
    weights, indices = torch.tensor([[1.0, 5.0], [1.0, 9.0]]).double(), torch.zeros(2, 3, 4).long()
    result = ClassActivationMap(model, net[1], cam=SMOOTH).attribute((images, weights, indices), 1)
    assert torch.equal(result, ClassActivationMap(net, net[1], cam=SMOOTH).attribute(images, 1))
    assert len(every) == 4
    for seen in every:
        assert torch.equal(seen[0], weights)
        assert torch.equal(seen[1], indices)
    whole = nn.Sequential(nn.Flatten(), nn.Linear(147, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    with pytest.raises(ValueError, match=r"smoothgradcam\+\+ adds noise to floating-point images"):
        ClassActivationMap(whole, whole[2], cam=SMOOTH).attribute(images.flatten(1), 1)


def test_values_that_are_not_finite(net, images):
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="layer '1' gives activations or gradients that are not"):
        ClassActivationMap(net, net[1], cam="gradcam++").attribute(images, 1)


def test_one_more_map_is_one_function(net, images):
    @register_cam("test-largest", citation="none")
    def largest(activations, derivatives):
        return derivatives[0].amax(-1, keepdim=True)

    try:
        with pytest.raises(ValueError, match="named 'test-largest' is registered already"):
            register_cam("test-largest", citation="none")(largest)
        result = ClassActivationMap(net, net[1], cam="test-largest").attribute(images, 1)
        activations = net[:2](images).detach().requires_grad_()
        gradients = torch.autograd.grad(net[2:](activations)[:, 1].sum(), activations)[0]
        expected = (gradients.amax((2, 3), keepdim=True) * activations).sum(1, keepdim=True).relu()
        torch.testing.assert_close(result, expected.detach())
        assert FastCAM(net, net[1], scales=[net[1]], cam="test-largest").cam is get_cam(
            "test-largest"
        )
    finally:
        del CAMS["test-largest"]


def test_errors(net, images):
    with pytest.raises(
        ValueError, match=r"unknown class activation map 'x'; .*'smoothgradcam\+\+'"
    ):
        get_cam("x")
    for settings in ({"samples": 0}, {"orders": -1}):
        with pytest.raises(ValueError, match="must be at least 0 and 1, got"):
            replace(SMOOTH, **settings)
    with pytest.raises(ValueError, match="takes no gradient that noisy copies"):
        replace(SMOOTH, orders=0)
    for noise in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="share of the image's range, 0 or more, got"):
            replace(SMOOTH, noise=noise)
    wrong = Cam("wrong", "none", lambda _, derivatives: derivatives[0].mean(-1))
    with pytest.raises(ValueError, match=r"wrong gives weights of shape \(2, 4\) for activations"):
        ClassActivationMap(net, net[1], cam=wrong).attribute(images, 1)


def test_zero_maps_are_named(net, images):
    with torch.no_grad():
        net[5].weight[3] = 0
    with pytest.warns(
        UserWarning, match=r"gradcam\+\+ is 0 everywhere for image\(s\) \[1\]"
    ) as got:
        result = ClassActivationMap(net, net[1], cam="gradcam++").attribute(images, [1, 3])
    assert got[0].filename == __file__
    assert (result[0] > 0).any()
    assert torch.equal(result[1], torch.zeros(1, 3, 3).double())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ClassActivationMap(net, net[1]).attribute(images, 3, relu_attributions=False)
