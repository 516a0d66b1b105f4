"""Every method of the registry against its equation, or the direct call of its library."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from captum.attr import GuidedBackprop, IntegratedGradients, NoiseTunnel, Saliency
from scipy import ndimage
from torch import nn

from comparisons.methods import GROUPS, METHODS, Batch, gradients, resolve
from comparisons.methods.examples import example_batch
from evaluation.datasets.load import Request, load_dataset
from evaluation.masking.levels import Masking, saliency_levels
from evaluation.masking.views import InputView
from evaluation.networks.build import build_network, state_hash
from evaluation.training.retraining import predictions
from fastsal import FastCAM, SMOEScale

CUTS = (0.1, 0.5)
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore::UserWarning")]


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("shapes", Request(train_images=16, test_images=8, image_size=16, seed=1))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A ResNet-9 with random weights and BatchNorm statistics that are not 0 and 1."""
    network = build_network("resnet9", 8, 0, size=(16, 16))
    network.train()
    with torch.no_grad():
        for seed in range(3):
            noise = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
            network(noise)
    return network.eval()


@pytest.fixture(scope="module")
def batch(dataset, network) -> Batch:
    """Three test images with what the network predicts for them."""
    view = InputView(dataset.test.images, dataset.mean, dataset.std)
    return example_batch(dataset, "test", predictions(network, view), np.array([0, 2, 5]))


def _explain(name: str, network: nn.Module, batch: Batch) -> torch.Tensor:
    return METHODS[name].prepare(network)(batch).detach()


@pytest.fixture(scope="module")
def maps_of(network, batch):
    """The maps of a method, computed once."""

    @cache
    def maps(name: str) -> torch.Tensor:
        torch.manual_seed(1)
        return _explain(name, network, batch)

    return maps


def _part(batch: Batch, rows: list[int]) -> Batch:
    chosen = {name: getattr(batch, name)[rows] for name in ("inputs", "target", "index")}
    return replace(batch, object_mask=batch.object_mask[rows], **chosen)


@pytest.mark.parametrize("name", METHODS)
def test_maps_are_finite_and_say_something(name, maps_of):
    maps = maps_of(name)
    assert maps.shape == (3, 16, 16)
    assert maps.isfinite().all()
    for saliency in maps:
        assert saliency.max() > saliency.min()


def _hooks(network: nn.Module) -> int:
    return sum(
        len(getattr(module, kind))
        for module in network.modules()
        for kind in (
            "_forward_hooks",
            "_forward_pre_hooks",
            "_backward_hooks",
            "_backward_pre_hooks",
        )
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_same_maps_again_and_everything_left_as_it_was(name, network, batch, maps_of):
    expected = maps_of(name)
    model = copy.deepcopy(network)
    before = state_hash(model)
    inputs, target = batch.inputs.clone(), batch.target.clone()
    torch.manual_seed(2)
    generator = torch.random.get_rng_state()
    assert torch.equal(_explain(name, model, batch), expected)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert state_hash(model) == before
    assert _hooks(model) == 0
    assert not any(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(batch.inputs, inputs)
    assert not batch.inputs.requires_grad
    assert torch.equal(batch.target, target)


@pytest.mark.parametrize("name", METHODS)
def test_passes_are_the_images_that_go_through_the_network_and_back(name, network, batch):
    model = copy.deepcopy(network)
    explain = METHODS[name].prepare(model)
    explain(batch)  # the first call may look for the scales
    images = 0

    def count(module, args) -> None:
        nonlocal images
        images += len(args[0])

    went_back = 0

    def count_gradients(gradient) -> None:
        nonlocal went_back
        went_back += len(gradient)

    def watch(module, args, output) -> None:
        if output.requires_grad:
            output.register_hook(count_gradients)

    handles = (
        model.stem.register_forward_pre_hook(count),
        model.stem.register_forward_hook(watch),
    )
    explain(batch)
    for handle in handles:
        handle.remove()
    work = METHODS[name].work
    assert images == 3 * METHODS[name].passes
    if name in ("layercam-fused", "refine-cam"):
        # Their gradient ends at the first scale, which is the stem's own output.
        assert (went_back, work.gradient) == (0, 1)
        return
    assert (went_back, images - went_back) == (3 * work.gradient, 3 * work.forward)


# Methods that treat every image by itself; SmoothGrad draws its noise for a batch.
_ALONE = [name for name in METHODS if not name.endswith(("-sg", "-sgsq"))]


@pytest.mark.parametrize("name", _ALONE)
def test_maps_do_not_depend_on_the_other_images_of_a_batch(name, network, batch, maps_of):
    together = maps_of(name)[[2, 0]]
    others = _explain(name, network, _part(batch, [2, 0]))
    tolerance = 1e-5 * float(together.abs().max())
    torch.testing.assert_close(others, together, rtol=1e-3, atol=tolerance)


# Controls.


def test_random_is_fixed_for_an_image(network, batch):
    maps = _explain("random", network, batch)
    others = _explain("random", nn.Identity(), _part(batch, [2, 0]))
    assert torch.equal(maps[[2, 0]], others)
    assert not torch.equal(maps[0], maps[1])


def test_random_is_uniform(network, batch):
    many = replace(
        batch, inputs=torch.zeros(200, 3, 16, 16), index=torch.arange(200), target=torch.zeros(200)
    )
    maps = _explain("random", network, many).numpy()
    counts, _ = np.histogram(maps, bins=10, range=(0, 1))
    assert counts.sum() == maps.size
    assert np.abs(counts - maps.size / 10).max() < 5 * math.sqrt(maps.size * 0.09)
    # No place is favoured: the mean over images of each pixel, 200 draws of variance 1/12.
    assert np.abs(maps.mean(0) - 0.5).max() < 5 * math.sqrt(1 / 12 / 200)


def test_random_differs_between_training_and_test_images(dataset, network):
    targets, first = np.zeros(16, np.int64), np.array([0])
    train, test = (
        _explain("random", network, example_batch(dataset, split, targets, first))
        for split in ("train", "test")
    )
    assert not torch.equal(train, test)


def test_centre_is_the_distance_from_the_middle(network, batch):
    maps = _explain("centre", network, batch)
    for y, x in ((0, 0), (7, 8), (15, 0), (5, 10)):
        assert float(maps[1, y, x]) == pytest.approx(-math.hypot(y - 7.5, x - 7.5), rel=1e-6)


def test_centre_keeps_a_disk(network, batch):
    levels = saliency_levels(_explain("centre", network, batch).numpy(), CUTS, np.arange(3))
    kept = Masking("kar", 0.5, CUTS).kept(levels)
    y, x = np.mgrid[:16, :16] - 7.5
    radius = np.hypot(y, x)
    # 128 pixels are a disk of radius sqrt(128 / pi) = 6.4.
    for mask in kept:
        assert mask[radius < 6.1].all()
        assert not mask[radius > 6.7].any()


def test_sobel_is_scipy_s(network, batch):
    planes = batch.inputs.double().numpy()
    expected = [
        sum(
            ndimage.sobel(plane, axis=axis, mode="nearest") ** 2
            for plane in image
            for axis in (0, 1)
        )
        for image in planes
    ]
    np.testing.assert_allclose(_explain("sobel", network, batch), expected, rtol=1e-4, atol=1e-3)


def test_oracle_is_the_true_object(dataset, network, batch):
    maps = _explain("oracle", network, batch)
    np.testing.assert_array_equal(maps, dataset.test.object_masks[[0, 2, 5]])
    with pytest.raises(ValueError, match="oracle needs the true object's pixels"):
        _explain("oracle", network, replace(batch, object_mask=None))


# SMOE Scale and Fast-CAM.


@pytest.mark.parametrize("weights", ["equal", "linear", "prior"])
def test_smoe_is_the_attribution_class(weights, network, batch):
    entry = METHODS[f"smoe-{weights}"]
    attribution = SMOEScale(network, weights=weights).attribute(batch.inputs)
    maps = _explain(entry.name, network, batch)
    torch.testing.assert_close(maps, attribution[:, 0], rtol=1e-5, atol=1e-6)
    scales = entry.scales(network)(batch)
    assert scales.shape == (3, 4, 16, 16)
    # What it says it was run with is what gives these maps.
    stated = SMOEScale(network, **entry.parameters).attribute(batch.inputs)
    assert torch.equal(stated, attribution)


def test_the_three_weightings_of_smoe_differ(network, batch):
    maps = [_explain(f"smoe-{weights}", network, batch) for weights in ("equal", "linear", "prior")]
    assert not torch.allclose(maps[0], maps[1])
    assert not torch.allclose(maps[1], maps[2])


def test_smoe_does_not_look_at_the_target(network, batch):
    other = replace(batch, target=(batch.target + 1) % 8)
    assert torch.equal(
        _explain("smoe-linear", network, batch), _explain("smoe-linear", network, other)
    )


def test_fastcam_is_the_attribution_class_for_the_target(network, batch):
    maps = _explain("fastcam", network, batch)
    attribution = FastCAM(network).attribute(batch.inputs, target=batch.target)
    torch.testing.assert_close(maps, attribution[:, 2], rtol=1e-5, atol=1e-6)
    other = _explain("fastcam", network, replace(batch, target=(batch.target + 1) % 8))
    assert not torch.allclose(maps, other)


# Gradient methods, written out.


def _gradient(model: nn.Module, inputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    inputs = inputs.clone().requires_grad_()
    logits = model(inputs)
    score = sum(logits[row, int(target[row])] for row in range(len(logits)))
    return torch.autograd.grad(score, inputs)[0]


class _GuidedReLU(torch.autograd.Function):
    """Springenberg et al. 2014: a gradient passes where the input and itself are positive."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (gradient > 0) * (x > 0)


class _Guided(nn.Module):
    def forward(self, x):
        return _GuidedReLU.apply(x)


def _guided(network: nn.Module) -> nn.Module:
    model = copy.deepcopy(network)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, _Guided())
    return model


def _integrated(model: nn.Module, batch: Batch, steps: int) -> torch.Tensor:
    """Gradients on the way from black, by Gauss-Legendre quadrature, times the way."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    black = torch.tensor(batch.black)[None, :, None, None]
    way = batch.inputs - black
    total = torch.zeros_like(way)
    for node, weight in zip(nodes, weights, strict=True):
        point = black + (node + 1) / 2 * way
        total += weight / 2 * _gradient(model, point.float(), batch.target)
    return total * way


def test_gradient(network, batch):
    expected = _gradient(network, batch.inputs, batch.target).abs().sum(1)
    torch.testing.assert_close(_explain("gradient", network, batch), expected)


def test_guided_backprop(network, batch):
    expected = _gradient(_guided(network), batch.inputs, batch.target).abs().sum(1)
    torch.testing.assert_close(_explain("guided-backprop", network, batch), expected)
    assert not torch.allclose(expected, _explain("gradient", network, batch))


def test_integrated_gradients(network, batch):
    expected = _integrated(network, batch, 25).abs().sum(1)
    torch.testing.assert_close(
        _explain("ig", network, batch), expected, rtol=1e-3, atol=1e-4 * float(expected.max())
    )


def test_integrated_gradients_start_at_black(network, batch):
    # Completeness: of a network that is linear in the pixels the shares add up to the change.
    weight = torch.linspace(0, 1, 768).reshape(1, 3, 16, 16)

    class Linear(nn.Module):
        def forward(self, x):
            return (x * weight).sum((1, 2, 3))[:, None].expand(-1, 8)

    black = torch.tensor(batch.black)[None, :, None, None]
    expected = ((batch.inputs - black) * weight).sum(1)  # never negative: nothing is below black
    torch.testing.assert_close(_explain("ig", Linear(), batch), expected, rtol=1e-4, atol=1e-5)


def test_black_is_a_black_pixel(dataset, batch):
    black = replace(dataset.test, images=np.zeros_like(dataset.test.images))
    zeros = example_batch(replace(dataset, test=black), "test", np.zeros(8, np.int64), np.arange(2))
    expected = torch.tensor(batch.black)[None, :, None, None].expand(2, 3, 16, 16)
    torch.testing.assert_close(zeros.inputs, expected, rtol=1e-5, atol=1e-6)


_SMOOTHED = {
    "gradient": (Saliency, {"abs": False}),
    "guided-backprop": (GuidedBackprop, {}),
    "ig": (IntegratedGradients, {"n_steps": 3}),
}


@pytest.mark.parametrize("name", _SMOOTHED)
@pytest.mark.parametrize(("suffix", "kind"), [("sg", "smoothgrad"), ("sgsq", "smoothgrad_sq")])
def test_smoothgrad_is_captum_s_noise_tunnel(name, suffix, kind, network, batch):
    build, options = _SMOOTHED[name]
    if name == "ig":
        black = torch.tensor(batch.black)[None, :, None, None]
        options = options | {"baselines": black.expand_as(batch.inputs[:1])}
    torch.manual_seed(int(batch.index[0]))
    expected = NoiseTunnel(build(network)).attribute(
        batch.inputs,
        nt_type=kind,
        nt_samples=15,
        nt_samples_batch_size=5,
        stdevs=0.15 * batch.input_range,
        target=batch.target,
        **options,
    )
    maps = _explain(f"{name}-{suffix}", network, batch)
    torch.testing.assert_close(maps, expected.abs().sum(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", _SMOOTHED)
def test_smoothgrad_without_noise_is_the_method_itself(name, network, batch, monkeypatch):
    monkeypatch.setattr(gradients, "_NOISE_SHARE", 0.0)
    monkeypatch.setattr(gradients, "_IG_STEPS", gradients._IG_STEPS_SMOOTHED)
    plain = _explain(name, network, batch)
    tolerance = {"rtol": 1e-3, "atol": 1e-5 * float(plain.max())}
    torch.testing.assert_close(_explain(f"{name}-sg", network, batch), plain, **tolerance)
    # The squared kind sums the squares of the channels: at least a third of the squared sum of
    # their sizes, at most all of it.
    squared = _explain(f"{name}-sgsq", network, batch)
    slack = 1e-4 * float(plain.max()) ** 2
    assert (squared <= plain.square() + slack).all()
    assert (squared >= plain.square() / 3 - slack).all()
    if name == "gradient":
        exact = _gradient(network, batch.inputs, batch.target).square().sum(1)
        torch.testing.assert_close(squared, exact, rtol=1e-3, atol=1e-5 * float(exact.max()))


def test_smoothgrad_s_noise_is_0_15_of_the_range_in_15_copies(dataset, batch):
    seen = []

    class Watched(nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return x.mean((2, 3)) @ torch.ones(3, 8)

    _explain("gradient-sg", Watched(), batch)
    # One image and two are for counting what a pass holds.
    passes = [part for part in seen if len(part) > 2]
    copies = torch.cat([part.reshape(3, -1, 3, 16, 16) for part in passes], dim=1)
    assert copies.shape[1] == 15
    noise = copies - batch.inputs[:, None]
    # Black to white is 1 / std of the training pixels in normalised values.
    expected = 0.15 / np.mean(dataset.std)
    for image in noise:
        assert float(image.std()) == pytest.approx(expected, rel=0.04)
        assert abs(float(image.mean())) < 5 * expected / math.sqrt(image.numel())
    flat = noise.reshape(45, -1)
    correlation = torch.corrcoef(flat) - torch.eye(45)
    assert correlation.abs().max() < 6 / math.sqrt(768)  # no two copies share their noise


# The registry.


@pytest.mark.parametrize("entry", METHODS.values(), ids=METHODS.keys())
def test_entries_are_complete(entry):
    assert entry.title
    assert entry.citation
    assert entry.group in GROUPS
    reductions = {"abs_sum", "sq_sum", "signed"}
    if entry.group == "gradient" or "times" in entry.parameters:
        assert entry.parameters["reduction"] in reductions
    assert entry.parameters.get("reduction", "signed") in reductions


def test_all_methods_that_the_main_job_names_are_there():
    gradients = ("gradient", "guided-backprop", "ig")
    expected = {"random", "centre", "sobel", "oracle", "fastcam", "guided-gradcam"}
    expected |= {f"smoe-{weights}" for weights in ("equal", "linear", "prior")}
    expected |= {f"{name}{suffix}" for name in gradients for suffix in ("", "-sg", "-sgsq")}
    assert set(METHODS) >= expected


def test_only_random_is_its_own_dual_and_only_the_oracle_needs_the_object():
    assert [name for name, entry in METHODS.items() if entry.self_dual] == ["random"]
    assert [name for name, entry in METHODS.items() if entry.needs_object_mask] == ["oracle"]


def test_a_list_of_methods_is_taken_in_its_order_and_once():
    assert resolve(" ig, random,ig ,", has_object_masks=False) == ("ig", "random")


def test_no_list_means_all_that_the_images_allow():
    everything = resolve(None, has_object_masks=True)
    assert everything == tuple(METHODS)
    assert set(everything) - set(resolve(None, has_object_masks=False)) == {"oracle"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("random,lime", "unknown method 'lime': expected some of random, "),
        ("oracle", "method 'oracle' needs the true object's pixels"),
        (" , ", "no methods given"),
    ],
)
def test_bad_lists_are_named(names, message):
    with pytest.raises(ValueError, match=message):
        resolve(names, has_object_masks=False)
