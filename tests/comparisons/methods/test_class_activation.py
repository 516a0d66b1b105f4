"""Class activation maps, their products and every statistic, each against its equation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from captum.attr import GuidedBackprop as CaptumGuidedBackprop
from captum.attr import GuidedGradCam
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torchvision import models

from comparisons.guided_backprop import GuidedBackprop
from comparisons.methods import METHODS, Batch, resolve
from comparisons.methods.activation_maps import CLASS_MAPS
from comparisons.methods.costed import resolve_costed
from comparisons.methods.examples import example_batch
from comparisons.methods.registry import SETS
from evaluation.datasets.load import Request, load_dataset
from evaluation.networks.build import build_network
from fastsal import SMOEScale, find_scales
from fastsal.cam.registry import CAMS
from fastsal.maps.prior import PRIOR_WEIGHTS
from fastsal.statistics.registry import STATISTICS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SIZE = (16, 16)
OF_A_CLASS = {name: cam for name, cam in CAMS.items() if cam.orders}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A ResNet-9 with random weights and BatchNorm statistics that are not 0 and 1."""
    network = build_network("resnet9", 8, 0, size=SIZE).train()
    with torch.no_grad():
        for seed in range(3):
            network(torch.randn(8, 3, *SIZE, generator=torch.Generator().manual_seed(seed)))
    return network.eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    dataset = load_dataset("shapes", Request(train_images=8, test_images=8, image_size=16, seed=1))
    targets = np.array([3, 0, 5, 1, 2, 4, 6, 7])
    return example_batch(dataset, "test", targets, np.array([0, 2, 5]))


def _explain(name: str, network: nn.Module, batch: Batch) -> np.ndarray:
    return METHODS[name].prepare(network)(batch).detach().double().numpy()


def _last_scale(
    network: nn.Module, image: torch.Tensor, label: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations `(C, h, w)` of the last stage for one image, and its score's gradient there."""
    with torch.enable_grad():
        before = network.stage2(network.stage1(network.stem(image[None])))
        activations = network.stage3(before).detach().requires_grad_()
        score = network.head(activations.mean((2, 3)))[0, label]
        (gradient,) = torch.autograd.grad(score, activations)
    return activations[0].detach().double(), gradient[0].double()


def _slow_cam(name: str, network: nn.Module, image: torch.Tensor, label: int) -> torch.Tensor:
    """The map of one image at the layer's size, channel by channel, from the papers' equations."""
    activations, gradient = _last_scale(network, image, label)
    if name == "eigencam":
        locations = activations.flatten(1).T
        found = locations @ torch.linalg.svd(locations, full_matrices=False)[2][0]
        return found.abs().reshape(activations.shape[1:])
    powers = [gradient**order for order in (1, 2, 3)]
    if name == "smoothgradcam++":
        generator = torch.Generator().manual_seed(0)
        powers = [torch.zeros_like(gradient) for _ in range(3)]
        for _ in range(15):
            noise = torch.randn(image.shape, generator=generator)
            noisy = image + 0.15 * (image.max() - image.min()) * noise
            _, gradient = _last_scale(network, noisy, label)
            powers = [power + gradient ** (k + 1) / 15 for k, power in enumerate(powers)]
    total = torch.zeros_like(activations[0])
    for channel, activation in enumerate(activations):
        first, second, third = (power[channel] for power in powers)
        if name == "gradcam":
            weight = first.mean()
        elif name == "hirescam":
            weight = first
        elif name == "layercam":
            weight = first.clamp(min=0)
        elif name == "xgradcam":
            # A channel of zeros counts nothing.
            weight = ((activation * first).sum() / activation.sum()).nan_to_num(0)
        else:
            alpha = second / (2 * second + activation.sum() * third)
            weight = (alpha.nan_to_num(0.5) * first.clamp(min=0)).sum()
        total += weight * activation
    return total.clamp(min=0)


def _upsampled(small: torch.Tensor) -> np.ndarray:
    return F.interpolate(small[None, None], SIZE, mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()


@pytest.fixture(scope="module")
def cams(network, batch) -> dict[str, list[torch.Tensor]]:
    images = list(zip(batch.inputs, batch.target.tolist(), strict=True))
    return {name: [_slow_cam(name, network, *image) for image in images] for name in CAMS}


def _close(found: np.ndarray, expected: list[np.ndarray]) -> None:
    assert np.max(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * float(np.max(expected)))


@pytest.mark.parametrize("name", CAMS)
def test_a_class_activation_map_alone_is_its_equation(name, cams, network, batch):
    _close(_explain(name, network, batch), [_upsampled(cam) for cam in cams[name]])


@pytest.mark.parametrize("name", OF_A_CLASS)
def test_times_guided_backprop_is_the_product(name, cams, network, batch):
    """Selvaraju et al. 2017, section 3.2: element by element, with the map upsampled."""
    guided = CaptumGuidedBackprop(network).attribute(batch.inputs, batch.target)
    expected = [
        sum(abs(plane) for plane in gradient.double().numpy()) * _upsampled(cam)
        for gradient, cam in zip(guided, cams[name], strict=True)
    ]
    _close(_explain(f"guided-{name}", network, batch), expected)


@pytest.mark.parametrize("name", OF_A_CLASS)
def test_as_fast_cam_smoe_scale_stands_in_its_place(name, cams, network, batch):
    smoe = SMOEScale(network).attribute(batch.inputs)[:, 0].double().numpy()
    expected = [
        scale * _upsampled(cam / cam.max()) for scale, cam in zip(smoe, cams[name], strict=True)
    ]
    method = "fastcam" if name == "gradcam" else f"fastcam-{name}"
    _close(_explain(method, network, batch), expected)


def test_guided_gradcam_is_captum_s(network, batch):
    layer = find_scales(network, batch.inputs[:1])[-1].module
    expected = GuidedGradCam(network, layer).attribute(
        batch.inputs, batch.target, interpolate_mode="bilinear"
    )
    maps = METHODS["guided-gradcam"].prepare(network)(batch)
    torch.testing.assert_close(maps, expected.abs().sum(1).detach())


def test_the_three_of_one_map_take_one_layer():
    """Of DenseNet, whose last scale is an `F.relu` of the module `features`."""
    torch.manual_seed(0)
    network = models.densenet121(weights=None).eval()
    images, index = torch.rand(2, 3, 64, 64), torch.arange(2)
    batch = Batch(images, network(images).argmax(1), index, 1.0, (0.0, 0.0, 0.0))
    features = network.features(images).detach().relu().requires_grad_()
    scores = network.classifier(features.mean((2, 3)))[index, batch.target]
    (gradient,) = torch.autograd.grad(scores.sum(), features)
    cam = (gradient.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True).relu().detach()
    cam = F.interpolate(cam, (64, 64), mode="bilinear")[:, 0]
    guided = GuidedBackprop(network).attribute(images, batch.target).abs().sum(1)
    smoe = SMOEScale(network).attribute(images)[:, 0]
    expected = {
        "gradcam": cam,
        "guided-gradcam": guided * cam,
        "fastcam": smoe * cam / cam.amax((1, 2), keepdim=True),
    }
    for name, maps in expected.items():
        found = METHODS[name].prepare(network)(batch)
        largest = maps.amax((1, 2), keepdim=True)
        if name == "fastcam":
            # There the map is divided by its largest value before it is enlarged.
            found, maps = (each / each.amax((1, 2), keepdim=True) for each in (found, maps))
            largest = torch.ones(())
        torch.testing.assert_close(found / largest, maps / largest, rtol=1e-3, atol=1e-4)


def test_the_three_of_one_map_state_what_stands_beside_it():
    for name, cam in OF_A_CLASS.items():
        fast = "fastcam" if name == "gradcam" else f"fastcam-{name}"
        stated = [METHODS[method].parameters for method in (name, f"guided-{name}", fast)]
        assert [parameters["cam"] for parameters in stated] == [name] * 3
        beside = [(parameters.get("times"), parameters.get("weights")) for parameters in stated]
        assert beside == [(None, None), ("guided-backprop", None), (None, "linear")]
        for parameters in stated:
            assert parameters.get("copies", 1) == cam.samples
            assert parameters.get("noise_share", 0) == cam.noise


# Every statistic.


def _scales(network: nn.Module, images: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Each scale's tensor, and what came before the ReLU that made it, or itself."""
    named, made = {}, []

    def keep(module: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        named[module] = output
        if isinstance(module, nn.ReLU):
            made.append((output, args[0]))

    handles = [module.register_forward_hook(keep) for module in network.modules()]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    for scale in find_scales(network, images[:1]):
        tensor = named[scale.module]
        # A residual sum that no activation function made is read as it is.
        yield tensor, next((before for output, before in made if output is tensor), tensor)


def _slow_smoe(
    statistic: str, weights: list[float], network: nn.Module, batch: Batch, early: int = 0
):
    """Statistic, normal CDF, upsampling and weighted mean, scale by scale and image by image.

    The first `early` scales are left out.
    """
    entry = STATISTICS[statistic]
    total = np.zeros((len(batch.inputs), *SIZE))
    for weight, scale in zip(weights, list(_scales(network, batch.inputs))[early:], strict=True):
        values = entry.function(scale[entry.domain == "pre_relu"]).double().numpy()
        for image, found in enumerate(values):
            normal = stats.norm(found.mean(), found.std(ddof=1)).cdf(found)
            total[image] += weight * _upsampled(torch.from_numpy(normal))
    return total / sum(weights)


_STATISTICS = [name for name, entry in METHODS.items() if entry.group == "smoe"]


@pytest.mark.heavy
@pytest.mark.parametrize("name", _STATISTICS)
def test_every_statistic_s_map_is_its_equation(name, network, batch):
    stated = METHODS[name].parameters
    weights = {"equal": [1.0] * 4, "linear": [1, 2, 3, 4], "prior": list(PRIOR_WEIGHTS[1:])}
    chosen = weights[stated["weights"]]
    early = 2 if stated.get("layers") == "after the first two scales" else 0
    expected = _slow_smoe(stated["statistic"], chosen[: len(chosen) - early], network, batch, early)
    np.testing.assert_allclose(_explain(name, network, batch), expected, rtol=2e-3, atol=2e-4)


def test_every_registered_statistic_is_a_method_once():
    chosen = resolve("statistics", has_object_masks=False)
    assert len(chosen) == len(STATISTICS) == 14
    assert {METHODS[name].parameters["statistic"] for name in chosen} == set(STATISTICS)


# Sets of methods.


def test_sets_are_their_methods():
    controls = ("random", "random-blobs", "centre", "sobel", "oracle")
    assert resolve("controls", has_object_masks=True) == controls
    assert resolve("all", has_object_masks=True) == tuple(METHODS)
    # Three of each registered class activation map, and those that have no entry there.
    others = {entry.name for entry in CLASS_MAPS}
    assert len(set(resolve("cams", has_object_masks=False)) - others) == 3 * len(OF_A_CLASS) == 18
    activations = ("lafam", "fem", "ml-fem", "eigencam")
    assert resolve("activations", has_object_masks=False) == activations
    assert len(resolve("gradients", has_object_masks=False)) == 9


def test_the_paper_s_set_has_the_rows_of_its_table_5():
    names = resolve("paper", has_object_masks=False)
    titles = [METHODS[name].title.split(",")[0] for name in names]
    # As printed: Rand, three gradients, the same with SmoothGrad squared, five of SMOE's kind.
    assert len(names) == 12
    assert titles.count("SMOE Scale") == 3
    assert [name for name in names if name.endswith("-sgsq")] == [
        "gradient-sgsq",
        "guided-backprop-sgsq",
        "ig-sgsq",
    ]


def test_a_set_leaves_out_what_the_images_do_not_allow():
    assert "oracle" not in resolve("controls", has_object_masks=False)
    with pytest.raises(ValueError, match="method 'oracle' needs the true object's pixels"):
        resolve("controls,oracle", has_object_masks=False)


def test_sets_and_names_go_together_each_once():
    names = resolve("sobel,controls,smoe-linear,statistics", has_object_masks=False)
    assert names[:5] == ("sobel", "random", "random-blobs", "centre", "smoe-linear")
    assert len(set(names)) == len(names) == 4 + 14


def test_an_unknown_word_gets_the_sets_too():
    with pytest.raises(
        ValueError, match="or a set of them: all, controls, statistics, activations"
    ):
        resolve("maps", has_object_masks=False)
    with pytest.raises(
        ValueError, match="or a set of them: all, controls, statistics, activations"
    ):
        resolve_costed(("maps",))


def test_costs_take_sets_too():
    assert set(resolve("cams", has_object_masks=False)) < set(resolve_costed(("cams",)))
    assert "oracle" not in resolve_costed(("controls",))


def test_cheap_methods_take_one_forward_pass():
    cheap = set(resolve("cheap", has_object_masks=False))
    assert {"smoe-linear", "smoe-late", "lafam", "fem", "eigencam", "gradcam", "cam"} < cheap
    assert {"fastcam", "out-of-class", "recipro-cam", "layercam", "fastcam-layercam"} < cheap
    dear = {"random", "gradient", "guided-gradcam", "smoothgradcam++", "score-cam", "refine-cam"}
    assert not cheap & (dear | {"layercam-fused"})


def test_no_set_has_the_name_of_a_method():
    assert not set(SETS) & set(METHODS)
