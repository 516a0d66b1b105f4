"""Class activation maps beyond Grad-CAM's family against loops and against other packages."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel
from torch import nn
from torch.nn import functional as F
from torchvision import models

import fastsal
from fastsal import (
    CAM,
    EigenCAM,
    FastCAM,
    GradCAM,
    HiResCAM,
    LayerCAM,
    MultiLayerCAM,
    ReciproCAM,
    RefineCAM,
    ScoreCAM,
    SMOEScale,
    XGradCAM,
)

pytestmark = pytest.mark.filterwarnings("ignore:.* is 0 everywhere")
LAYERS = ("layer1", "layer2", "layer3", "layer4")
OF_LAYER = (CAM, ReciproCAM, ScoreCAM)
OF_SIZE = (MultiLayerCAM, RefineCAM)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A ResNet-18 of narrow layers, with BatchNorm statistics that are not 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=6).train()
        with torch.no_grad():
            net(torch.randn(8, 3, 64, 64))
        return net.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 0.5


def _stages(net: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    kept = {}
    x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
    for name in LAYERS:
        x = net.get_submodule(name)(x)
        kept[name] = x
    return kept


def _after(net: nn.Module, name: str, x: torch.Tensor) -> torch.Tensor:
    for later in LAYERS[LAYERS.index(name) + 1 :]:
        x = net.get_submodule(later)(x)
    return net.fc(x.mean((2, 3)))


def _gradient(net: nn.Module, images: torch.Tensor, name: str, target: int):
    x = _stages(net, images)[name].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(_after(net, name, x)[:, target].sum(), x)
    return x.detach().double().numpy(), gradient.double().numpy()


def _enlarged(maps: np.ndarray, size=(64, 96)) -> np.ndarray:
    return F.interpolate(torch.from_numpy(maps)[:, None], size, mode="bilinear")[:, 0].numpy()


def _unit(maps: np.ndarray) -> np.ndarray:
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    return (maps - low) / (high - low)


# One layer, with gradients: the slow rewrites are in tests/fastsal/cam; here are other packages.


@pytest.mark.parametrize("name", ["layer3", "layer4"])
@pytest.mark.parametrize(
    ("cls", "theirs"), [(XGradCAM, "XGradCAM"), (LayerCAM, "LayerCAM"), (GradCAM, "GradCAM")]
)
def test_torch_cam_s(net, images, cls, theirs, name):
    methods = pytest.importorskip("torchcam.methods")
    with getattr(methods, theirs)(net, name) as extractor:
        scores = net(images.clone().requires_grad_())
        expected = extractor([2, 2], scores, normalized=False)[0]
    found = cls(net, name).attribute(images, 2)[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.max()))
    assert expected.max() > 0


@pytest.mark.parametrize("cls", [HiResCAM, XGradCAM, LayerCAM])
def test_pytorch_grad_cam_s(net, images, cls):
    """It brings maps to [0, 1], and enlarges them by OpenCV."""
    package = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    # It leaves gradients in the parameters.
    model = copy.deepcopy(net)
    with getattr(package, cls.__name__)(model, [model.layer3]) as extractor:
        expected = extractor(images, [ClassifierOutputTarget(2)] * 2)
    maps = cls(net, net.layer3).attribute(images, 2)[:, 0].double().numpy()
    np.testing.assert_allclose(_unit(_enlarged(_unit(maps))), expected, atol=2e-3)


def test_hirescam_is_gradcam_where_a_linear_layer_follows_pooling(net, images):
    torch.testing.assert_close(
        HiResCAM(net, "layer4").attribute(images, 3), GradCAM(net, "layer4").attribute(images, 3)
    )


def test_eigencam_is_the_first_singular_vector(net, images):
    for name in ("layer1", "layer4"):
        found = EigenCAM(net, name).attribute(images)[:, 0].numpy()
        for map_, image in zip(found, _stages(net, images)[name].detach().double(), strict=True):
            matrix = image.flatten(1).T.numpy()
            _, _, vectors = np.linalg.svd(matrix, full_matrices=False)
            expected = np.abs((matrix @ vectors[0]).reshape(map_.shape))
            np.testing.assert_allclose(map_, expected, rtol=1e-4, atol=1e-4 * expected.max())


def test_pytorch_grad_cam_s_eigencam_is_that_of_centred_channels(net, images):
    package = pytest.importorskip("pytorch_grad_cam")
    with package.EigenCAM(net, [net.layer4]) as extractor:
        theirs = extractor(images, None)
    for found, image in zip(theirs, _stages(net, images)["layer4"].detach().double(), strict=True):
        matrix = image.flatten(1).T.numpy()
        matrix = matrix - matrix.mean(0)
        _, _, vectors = np.linalg.svd(matrix, full_matrices=False)
        signed = (matrix @ vectors[0]).reshape(1, *image.shape[1:])
        both = [_unit(_enlarged(_unit(np.maximum(sign * signed, 0))))[0] for sign in (1, -1)]
        assert min(np.abs(one - found).max() for one in both) < 2e-3


def test_eigencam_takes_no_gradient_and_checks_the_target(net, images):
    with torch.inference_mode():
        inside = EigenCAM(net).attribute(images.clone(), 1)
    assert torch.equal(inside, EigenCAM(net).attribute(images, 4))
    seen = []
    handle = net.layer4.register_forward_hook(lambda *args: seen.append(args[2].requires_grad))
    EigenCAM(net, "layer4").attribute(images)
    handle.remove()
    assert seen == [False]
    with pytest.raises(ValueError, match="does not fit"):
        EigenCAM(net).attribute(images, 6)
    with pytest.raises(ValueError, match="activations that are not finite"):
        EigenCAM(net).attribute(images * float("nan"))


def test_eigencam_of_nothing_is_named():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    net(torch.zeros(1, 3, 6, 6))
    nn.init.constant_(net[0].weight, 0.0)
    nn.init.constant_(net[0].bias, -1.0)
    with pytest.warns(UserWarning, match=r"eigencam is 0 everywhere .*no activation is above 0"):
        assert not EigenCAM(net, net[1]).attribute(torch.rand(1, 3, 6, 6)).any()


# CAM.


@pytest.mark.parametrize("target", [None, 3, [3, 1], torch.tensor([3, 1]), [(3,), (1,)]], ids=repr)
def test_cam_is_the_class_s_row(net, images, target):
    chosen = {"None": net(images).argmax(1).tolist(), "3": [3, 3]}.get(repr(target), [3, 1])
    expected = np.zeros((2, 2, 3))
    for i, image in enumerate(_stages(net, images)["layer4"].detach().double().numpy()):
        for weight, channel in zip(net.fc.weight[chosen[i]].tolist(), image, strict=True):
            expected[i] += weight * channel
    found = CAM(net).attribute(images, target)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert target is None or expected.min() < 0 < expected.max()


def test_cam_is_torch_cam_s(net, images):
    methods = pytest.importorskip("torchcam.methods")
    with methods.CAM(net, "layer4", "fc") as extractor:
        net(images)
        expected = extractor([2, 5], normalized=False)[0]
    torch.testing.assert_close(CAM(net, "layer4").attribute(images, [2, 5])[:, 0], expected)


def test_cam_is_gradcam_times_the_locations(net, images):
    gradcam = GradCAM(net).attribute(images, 2, relu_attributions=False)
    torch.testing.assert_close(CAM(net).attribute(images, 2), 6 * gradcam, rtol=1e-4, atol=1e-5)
    positive = CAM(net).attribute(images, 2, relu_attributions=True)
    torch.testing.assert_close(positive, 6 * gradcam.relu(), rtol=1e-4, atol=1e-5)


def test_cam_says_which_heads_it_takes(net, images):
    with pytest.raises(ValueError, match=r"CAM needs a network that ends in .*Use GradCAM"):
        CAM(models.squeezenet1_1(num_classes=4).eval()).attribute(images, 1)
    with pytest.raises(ValueError, match="one and the same gradient"):
        CAM(net, "layer3").attribute(images, 1)
    with pytest.raises(ValueError, match=r"is no torch\.nn\.Module; give the network itself"):
        CAM(lambda x: net(x), net.layer4)


# Recipro-CAM.


@pytest.mark.parametrize("name", ["layer3", "layer4"])
def test_recipro_cam_is_a_loop_over_locations(net, images, name):
    with torch.no_grad():
        activations = _stages(net, images)[name]
        expected = torch.zeros(activations[:, 0].shape)
        for i, j in np.ndindex(*activations.shape[2:]):
            alone = torch.zeros_like(activations)
            alone[:, :, i, j] = activations[:, :, i, j]
            expected[:, i, j] = _after(net, name, alone).softmax(1)[:, 4]
    found = ReciproCAM(net, name).attribute(images, 4)[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_recipro_cam_runs_what_comes_before_the_layer_once(net, images):
    attributor = ReciproCAM(net)
    attributor.attribute(images)
    rows = {"conv1": 0, "fc": 0}

    def count(name):
        return lambda _, args: rows.update({name: rows[name] + len(args[0])})

    handles = [net.get_submodule(n).register_forward_pre_hook(count(n)) for n in rows]
    attributor.attribute(images)
    for handle in handles:
        handle.remove()
    assert rows == {"conv1": 2, "fc": 2 * (6 + 1)}


def test_recipro_cam_of_channels_last():
    class Last(nn.Module):
        """Its scale is `(N, h, w, C)`."""

        def __init__(self, body, head):
            super().__init__()
            self.body, self.last, self.head = body, nn.Identity(), head

        def forward(self, x):
            x = self.last(self.body(x).permute(0, 2, 3, 1).contiguous())
            return self.head(x.permute(0, 3, 1, 2).mean((2, 3)))

    torch.manual_seed(3)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
    model, x = Last(body, nn.Linear(8, 4)), torch.rand(2, 3, 9, 11)
    found = ReciproCAM(model, model.last).attribute(x, 1)
    torch.testing.assert_close(found, ReciproCAM(model, body).attribute(x, 1))


def test_recipro_cam_needs_a_head_that_treats_images_by_themselves(images):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=8)

        def forward(self, x):
            return self.conv(x).reshape(2, -1)[:, :5]

    model = Fixed()
    with pytest.raises(ValueError, match=r"gives \(2, 5\), expected \(194, classes\)"):
        ReciproCAM(model, model.conv).attribute(images, 1)


# Score-CAM.


def _score_cam(net, images, name, target, masks_of):
    with torch.no_grad():
        activations = _stages(net, images)[name]
        expected = []
        for image, channels in zip(images, activations, strict=True):
            scores = [float(net((image * masks_of(c))[None])[0, target]) for c in channels]
            weights = np.exp(np.array(scores) - max(scores))
            weights /= weights.sum()
            total = sum(
                weight * channel.double().numpy()
                for weight, channel in zip(weights, channels, strict=True)
            )
            expected.append(np.maximum(total, 0))
    return np.array(expected)


def _large(channel: torch.Tensor) -> torch.Tensor:
    return F.interpolate(channel[None, None], (64, 96), mode="bilinear")[0, 0]


def test_score_cam_is_a_loop_over_channels(net, images):
    def mask(channel):
        large = _large(channel)
        low, high = large.min(), large.max()
        return (large - low) / (high - low) if high > low else torch.full_like(large, 0.5)

    expected = _score_cam(net, images, "layer1", 2, mask)
    for attributor in (ScoreCAM(net, "layer1"), ScoreCAM(net, "layer1", max_batch=7)):
        found = attributor.attribute(images, 2)[:, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_torch_cam_scales_a_channel_before_it_enlarges_it(net, images):
    methods = pytest.importorskip("torchcam.methods")

    def mask(channel):
        return _large((channel - channel.min()) / (channel.max() - channel.min() + 1e-8))

    with methods.ScoreCAM(net, "layer1") as extractor:
        net(images)
        theirs = extractor([2, 2], normalized=False)[0]
    np.testing.assert_allclose(theirs, _score_cam(net, images, "layer1", 2, mask), rtol=1e-4)


def test_score_cam_takes_one_image(net, images):
    with pytest.raises(ValueError, match="Score-CAM takes one input"):
        ScoreCAM(net).attribute((images, images), 1)
    with pytest.raises(ValueError, match="max_batch is the number of images"):
        ScoreCAM(net, max_batch=0)


# Several layers.


def _layer_cams(net, images, target):
    maps = []
    for name in LAYERS:
        activations, gradient = _gradient(net, images, name, target)
        maps.append((np.maximum(gradient, 0) * activations).sum(1).clip(0))
    return maps


def test_layercam_of_several_layers_is_the_maximum_after_the_tanh(net, images):
    maps = _layer_cams(net, images, 1)
    scaled = [np.tanh(2 * one / one.max((1, 2), keepdims=True)) for one in maps]
    expected = np.max([_enlarged(one) for one in scaled], axis=0)
    found = MultiLayerCAM(net, LAYERS).attribute(images, 1)
    assert found.shape == images.shape
    np.testing.assert_allclose(found[:, 1], expected, rtol=1e-3, atol=1e-5)


def test_torch_cam_s_fusion_subtracts_the_smallest_value_too(net, images):
    methods = pytest.importorskip("torchcam.methods")
    with methods.LayerCAM(net, list(LAYERS)) as extractor:
        maps = extractor([1, 1], net(images.clone().requires_grad_()))
        theirs = extractor.fuse_cams(maps, (64, 96))
    ours = [_enlarged(np.tanh(2 * _unit(m))) for m in _layer_cams(net, images, 1)]
    np.testing.assert_allclose(theirs, np.max(ours, axis=0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("cam", ["gradcam++", "layercam"])
def test_refinecam_is_the_product_and_torch_cam_s_at_the_image_s_size(net, images, cam):
    methods = pytest.importorskip("torchcam.methods")
    singles = [
        fastsal.ClassActivationMap(net, name, cam=cam).attribute(images, 1)[:, 0].double().numpy()
        for name in LAYERS
    ]
    expected = np.prod([_enlarged(_unit(m)) for m in singles], axis=0)
    found = RefineCAM(net, LAYERS, cam=cam).attribute(images, 1, expand_channels=False)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    if cam == "layercam":  # its Grad-CAM++ is not the paper's
        with methods.RefineCAM(net, list(LAYERS), base_method=methods.LayerCAM) as extractor:
            scores = net(images.clone().requires_grad_())
            theirs = extractor([1, 1], scores, normalized=False, target_shape=(64, 96))[0]
        np.testing.assert_allclose(theirs, expected, rtol=1e-3, atol=1e-4)


def test_several_layers_take_one_pass_and_the_found_scales(net, images):
    calls = []
    handle = net.register_forward_pre_hook(lambda *_: calls.append(1))
    attributor = MultiLayerCAM(net)
    attributor.attribute(images, 1)
    calls.clear()
    found = attributor.attribute(images, 1)
    handle.remove()
    assert len(calls) == 1
    names = ["relu", *LAYERS]
    torch.testing.assert_close(found, MultiLayerCAM(net, names).attribute(images, 1))
    alone = [MultiLayerCAM(net, names).attribute(image[None], 1) for image in images]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_several_layers_of_a_network_that_rectifies_by_functions():
    """DenseNet's scales are read before an `F.relu`, or written over by an in-place one."""
    torch.manual_seed(0)
    net = models.DenseNet(4, (2, 2), 8, num_classes=3).eval()
    images = torch.rand(2, 3, 64, 64)
    scales = fastsal.find_scales(net, images)
    expected = torch.stack(
        [
            F.interpolate(
                torch.tanh(2 * one / one.amax((2, 3), keepdim=True)), (64, 64), mode="bilinear"
            )
            for one in (LayerCAM(net, scale).attribute(images, 1) for scale in scales)
        ]
    ).amax(0)
    found = MultiLayerCAM(net).attribute(images, 1, expand_channels=False)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_errors_of_several_layers(net, images):
    with pytest.raises(ValueError, match="'smoothgradcam\\+\\+' averages noisy copies"):
        MultiLayerCAM(net, cam="smoothgradcam++")
    with pytest.raises(ValueError, match="'eigencam' takes no gradient"):
        RefineCAM(net, cam="eigencam")
    with pytest.raises(ValueError, match="unknown fusion 'mean'"):
        MultiLayerCAM(net, fusion="mean")
    with pytest.raises(ValueError, match="cannot find the scales inside"):
        MultiLayerCAM(lambda x: net(x))
    with pytest.raises(ValueError, match="'fc' gives a tensor without locations"):
        MultiLayerCAM(net, ["layer4", "fc"]).attribute(images, 1)
    with pytest.raises(ValueError, match="no gradient by the CAM's layer"):
        MultiLayerCAM(net, ["layer4", "layer3"]).attribute(images, 1)


# SMOE Scale where the class is not.


def test_the_complement_of_fast_cam_is_the_rest_of_smoe_scale(net, images):
    smoe = SMOEScale(net).attribute(images)
    both = [FastCAM(net, complement=on).attribute(images, 3) for on in (False, True)]
    torch.testing.assert_close(both[0] + both[1], smoe)
    assert "complement=True" in repr(FastCAM(net, complement=True))


def test_the_complement_of_no_class_is_smoe_scale(net, images):
    net = copy.deepcopy(net)
    nn.init.constant_(net.fc.weight, -1.0)
    with pytest.warns(UserWarning, match="their Fast-CAM map is SMOE Scale alone"):
        found = FastCAM(net, complement=True).attribute(images, 3)
    torch.testing.assert_close(found, SMOEScale(net).attribute(images))


# All of them.


@pytest.mark.parametrize("cls", OF_LAYER + OF_SIZE)
def test_contract(cls, net, images, untouched):
    attributor = cls(net)
    assert attributor.attribute.__wrapped__
    assert "found at the first call" in repr(attributor)
    alone = attributor.attribute(images, 1)
    assert "layer4" in repr(attributor)
    (within,) = attributor.attribute((images,), 1)
    assert torch.equal(within, alone)
    assert not alone.requires_grad
    assert alone.is_contiguous()
    shape = images.shape if cls in OF_SIZE else (2, 1, 2, 3)
    assert alone.shape == shape
    predicted = net(images).argmax(1)
    assert torch.equal(attributor.attribute(images), attributor.attribute(images, predicted))
    with torch.inference_mode():
        torch.testing.assert_close(cls(net).attribute(images.clone(), 1).clone(), alone)
    tunnel = NoiseTunnel(attributor).attribute(images, nt_samples=2, stdevs=0.0, target=1)
    torch.testing.assert_close(tunnel, alone, rtol=1e-4, atol=1e-6)
    for wrong in (17, [1], [1, 2, 3]):
        with pytest.raises(ValueError, match=r"target|does not fit"):
            attributor.attribute(images, wrong)
    net.layer2.train()
    with untouched(net, images):
        attributor.attribute(images, 1)
        with pytest.raises(ValueError, match=r"target|does not fit"):
            attributor.attribute(images, 17)
    net.eval()
    with pytest.raises(NotImplementedError, match="attribute_future"):
        attributor.attribute_future()


@pytest.mark.parametrize("cls", OF_LAYER + OF_SIZE)
def test_values_that_are_not_finite_are_named(cls, net, images):
    with pytest.raises(ValueError, match="not finite"):
        cls(net).attribute(images * float("nan"), 1)


@pytest.mark.parametrize("cls", [CAM, ScoreCAM, MultiLayerCAM])
def test_maps_of_0_are_named(cls):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
            *(nn.Flatten(), nn.Linear(4, 2)),
        )
    for layer in (net[0], net[3]):
        nn.init.constant_(layer.weight, 0.0)
        nn.init.constant_(layer.bias, -1.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        layers = {"layers": [net[1], net[4]]} if cls is MultiLayerCAM else {"layer": net[4]}
        found = cls(net, **layers).attribute(torch.rand(2, 3, 8, 8), 1)
    assert not found.any()
    assert any("is 0 everywhere for image(s) [0, 1]" in str(one.message) for one in caught)
    assert all(one.filename == __file__ for one in caught)
