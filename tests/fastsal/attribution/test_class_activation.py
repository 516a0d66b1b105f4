"""Class activation maps against Captum's LayerGradCam."""

import copy
import inspect
import pickle
import warnings

import pytest
import torch
import torchvision
from captum.attr import LayerAttribution, LayerGradCam, NoiseTunnel
from captum.attr._utils.attribution import GradientAttribution
from captum.metrics import sensitivity_max
from torch import nn

from fastsal import (
    ClassActivationMap,
    EigenCAM,
    FastCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    SmoothGradCAMPlusPlus,
    XGradCAM,
    find_scales,
)
from fastsal.cam.registry import CAMS

pytestmark = pytest.mark.heavy

CLASSES = [
    *(GradCAM, GradCAMPlusPlus, SmoothGradCAMPlusPlus),
    *(HiResCAM, XGradCAM, LayerCAM, EigenCAM),
]
NAMES = {
    GradCAM: ("gradcam", "Grad-CAM"),
    GradCAMPlusPlus: ("gradcam++", "Grad-CAM++"),
    SmoothGradCAMPlusPlus: ("smoothgradcam++", "Smooth Grad-CAM++"),
    HiResCAM: ("hirescam", "HiResCAM"),
    XGradCAM: ("xgradcam", "XGrad-CAM"),
    LayerCAM: ("layercam", "LayerCAM"),
    EigenCAM: ("eigencam", "EigenCAM"),
}


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


def small(cls):
    """The class with few noisy copies, to save time."""
    if cls is SmoothGradCAMPlusPlus:
        return lambda *args: cls(*args, samples=2)
    return cls


def conv_net(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(**settings),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Linear(144, 5),
        )
        nn.init.normal_(net[7].weight, 0.05, 0.1)
        return net


SMALL = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))

TARGETS = [1, [1, 0, 7], torch.tensor([1, 0, 7]), torch.tensor(3), (4,), [(1,), (2,), (3,)]]


@pytest.mark.parametrize("target", TARGETS, ids=repr)
@pytest.mark.parametrize("name", ["layer4", "layer2", "layer3.1.conv1"])
@pytest.mark.filterwarnings("ignore:gradcam is 0 everywhere")
def test_gradcam_is_captums(resnet, images, target, name):
    model = copy.deepcopy(resnet)
    with torch.no_grad():
        # Maps of both signs.
        model.fc.weight.sub_(0.1)
    ours, captums = GradCAM(model, name), LayerGradCam(model, model.get_submodule(name))
    for relu in (False, True):
        for summed in (False, True):
            arguments = {"relu_attributions": relu, "attr_dim_summation": summed}
            expected = captums.attribute(images, target, **arguments).detach()
            result = ours.attribute(images, target, **arguments)
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-8)
            if summed and not relu:
                signed = result
            assert relu or expected.abs().max() > 1e-3
    # The papers' ReLU is the default.
    assert torch.equal(ours.attribute(images, target), signed.relu())


def test_a_layers_input_and_further_arguments(resnet, images):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = resnet

        def forward(self, x, by, offset=0.0):
            return self.net(x) * by[:, None] + offset

    model, by = Scaled(), torch.tensor([1.0, -2.0, 3.0])
    layer = resnet.layer3
    for inputs, additional in (((images, by), None), (images, (by, 1.0)), (images, by)):
        arguments = (inputs, 2, additional, True, False)
        expected = LayerGradCam(model, layer).attribute(*arguments).detach()
        result = GradCAM(model, layer).attribute(*arguments)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 9), (4, 6, 5, 7, 3)], ids=len)
def test_layers_that_are_no_images(shape):
    torch.manual_seed(0)
    kinds = {2: nn.Linear(6, 8), 3: nn.Conv1d(6, 8, 2), 5: nn.Conv3d(6, 8, 2)}
    with torch.random.fork_rng():
        net = nn.Sequential(kinds[len(shape)], nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))
        inputs = torch.randn(shape)
        net(inputs)
    for summed in (False, True):
        expected = LayerGradCam(net, net[0]).attribute(inputs, 1, attr_dim_summation=summed)
        result = GradCAM(net, net[0]).attribute(
            inputs, 1, relu_attributions=False, attr_dim_summation=summed
        )
        torch.testing.assert_close(result, expected.detach(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("cls", CLASSES)
def test_class_contract(resnet, cls):
    attributor = cls(resnet, resnet.layer4)
    assert isinstance(attributor, LayerAttribution)
    assert isinstance(attributor, GradientAttribution)
    assert (attributor.cam, cls.get_name()) == (CAMS[NAMES[cls][0]], NAMES[cls][1])
    assert attributor.has_convergence_delta() is False
    assert attributor.multiplies_by_inputs is False
    assert (attributor.forward_func, attributor.layer) == (resnet, resnet.layer4)
    assert cls.attribute.__wrapped__
    for ours, captums in (
        (cls.__init__, LayerGradCam.__init__),
        (cls.attribute, LayerGradCam.attribute),
    ):
        mine = inspect.signature(ours).parameters
        positional = [
            name for name, parameter in mine.items() if parameter.kind is not parameter.KEYWORD_ONLY
        ]
        assert positional == list(inspect.signature(captums).parameters)[: len(positional)]
    with pytest.raises(NotImplementedError, match=NAMES[cls][1].replace("+", r"\+")):
        attributor.attribute_future()


def test_every_class_activation_map_has_a_class():
    assert {name for name, _ in NAMES.values()} == set(CAMS)


@pytest.mark.parametrize("cls", CLASSES)
def test_each_class_is_its_registered_map(cls):
    net = conv_net()
    expected = ClassActivationMap(net, net[4], cam=NAMES[cls][0]).attribute(SMALL, 1)
    assert torch.equal(cls(net, net[4]).attribute(SMALL, 1), expected)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_layer_in_every_form(resnet, images, cls):
    make = small(cls)
    predicted = resnet(images).argmax(1)
    expected = make(resnet, resnet.layer4).attribute(images, predicted)
    assert expected.shape == (3, 1, 2, 3)
    for layer in (None, "layer4", find_scales(resnet, images)[-1]):
        assert torch.equal(make(resnet, layer).attribute(images), expected)
    found = make(resnet)
    found.attribute(images)
    assert torch.equal(found.attribute(images), expected)
    upsampled = make(resnet).interpolate(expected, (64, 96), "bilinear")
    assert upsampled.shape == (3, 1, 64, 96)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel(cls, kind):
    net = conv_net()
    attributor = small(cls)(net, net[4])
    clean = attributor.attribute(SMALL, [1, 2])
    expected = {"smoothgrad": clean, "smoothgrad_sq": clean**2, "vargrad": torch.zeros_like(clean)}
    result = NoiseTunnel(attributor).attribute(
        SMALL, nt_type=kind, nt_samples=3, stdevs=0.0, target=[1, 2]
    )
    torch.testing.assert_close(result, expected[kind], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("cls", CLASSES)
def test_sensitivity_max(cls):
    net = conv_net()
    attributor = small(cls)(net, net[4])
    still = sensitivity_max(attributor.attribute, SMALL, lambda x: x, target=1, n_perturb_samples=2)
    torch.testing.assert_close(still, torch.zeros(2), rtol=0, atol=1e-5)
    assert (sensitivity_max(attributor.attribute, SMALL, perturb_radius=0.2, target=1) > 1e-3).all()


@pytest.mark.parametrize("cls", CLASSES)
def test_a_tuple_of_one_input_gives_a_tuple(cls):
    net = conv_net()
    attributor = small(cls)(net, net[4])
    (alone,) = attributor.attribute((SMALL,), 1)
    assert torch.equal(alone, attributor.attribute(SMALL, 1))


@pytest.mark.parametrize("cls", CLASSES)
def test_the_model_is_as_it_was(cls):
    net = conv_net()
    net[2] = nn.Sequential(nn.BatchNorm2d(8), nn.Dropout(0.5))
    net.train()
    net[2][1].eval()
    net[3].requires_grad_(False)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    handle = net[4].register_forward_hook(lambda *_: None)
    modes = [module.training for module in net.modules()]
    before = copy.deepcopy(net.state_dict())
    attributor = small(cls)(net, net[4])
    expected = attributor.attribute(SMALL, 1)
    for target in (1, 99):
        if target == 99:
            with pytest.raises(ValueError, match="does not fit"):
                attributor.attribute(SMALL, target)
        else:
            assert torch.equal(attributor.attribute(SMALL, target), expected)
        assert [module.training for module in net.modules()] == modes
        assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
        assert sum(len(module._forward_hooks) for module in net.modules()) == 1
        assert not any(module._forward_pre_hooks for module in net.modules())
        assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
        assert [p.grad is None for p in net.parameters()].count(False) == 1
        assert [p.requires_grad for p in net[3].parameters()] == [False, False]
    handle.remove()
    assert torch.equal(small(cls)(net.eval(), net[4]).attribute(SMALL, 1), expected)


@pytest.mark.parametrize("cls", CLASSES)
def test_compiled_and_parallel_models_and_in_place_relus(cls):
    net = conv_net()
    make = small(cls)
    expected = make(net, net[4]).attribute(SMALL, 1)
    compiled = torch.compile(net, backend="eager")
    compiled(SMALL)
    assert torch.equal(make(compiled, net[4]).attribute(SMALL, 1), expected)
    assert torch.equal(make(compiled).attribute(SMALL, 1), expected)
    parallel = nn.DataParallel(net)
    assert torch.equal(make(parallel, net[4], [0]).attribute(SMALL, 1), expected)
    in_place = conv_net(inplace=True)
    before = make(net, net[3]).attribute(SMALL, 1, relu_attributions=False)
    # The convolution's own output, before the ReLU writes over it.
    assert torch.equal(
        make(in_place, in_place[3]).attribute(SMALL, 1, relu_attributions=False), before
    )
    assert torch.equal(make(in_place, in_place[4]).attribute(SMALL, 1), expected)


@pytest.mark.parametrize("cls", CLASSES)
def test_copies_and_pickles(cls):
    net = conv_net()
    attributor = small(cls)(net, net[4])
    expected = attributor.attribute(SMALL, 1)
    for other in (copy.deepcopy(attributor), pickle.loads(pickle.dumps(attributor))):
        assert other.forward_func is not net
        assert torch.equal(other.attribute(SMALL, 1), expected)


@pytest.mark.parametrize("cls", CLASSES)
def test_half_precision(resnet, images, cls):
    make = small(cls)
    expected = make(resnet, resnet.layer4).attribute(images, 1)
    half = copy.deepcopy(resnet).bfloat16()
    result = make(half, half.layer4).attribute(images.bfloat16(), 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = make(resnet, resnet.layer4).attribute(images, 1)
    for map_ in (result, cast):
        assert map_.dtype == torch.float32
        assert (map_ - expected).abs().mean() < 0.1 * expected.mean()


@pytest.mark.parametrize("cls", CLASSES)
def test_a_reused_relu_is_named_by_its_call(cls):
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.relu = conv_net(), nn.ReLU()

        def forward(self, x):
            x = self.net[2](self.relu(self.net[0](x)))
            return self.net[5:](self.relu(self.net[3](x)))

    model = Reused()
    result = small(cls)(model).attribute(SMALL, 1)
    assert torch.equal(result, small(cls)(model.net, model.net[4]).attribute(SMALL, 1))


def test_errors(resnet, images):
    with pytest.raises(ValueError, match="one layer for the CAM, got 2"):
        GradCAM(resnet, [resnet.layer3, resnet.layer4])
    with pytest.raises(ValueError, match="no layer named 'layer9'"):
        GradCAM(resnet, "layer9")
    with pytest.raises(ValueError, match=r"cannot find the last scale inside .*layer=module"):
        GradCAM(lambda x: resnet(x))
    with pytest.raises(TypeError, match=r"one tensor \(C, H, W\) for each image"):
        GradCAM(resnet, resnet.layer4).attribute([images], 1)
    with pytest.raises(ValueError, match="samples of smoothgradcam"):
        SmoothGradCAMPlusPlus(resnet, resnet.layer4, samples=0)
    lambda_ = GradCAM(lambda x: resnet(x), resnet.layer4)
    assert torch.equal(
        lambda_.attribute(images, 1), GradCAM(resnet, resnet.layer4).attribute(images, 1)
    )


def test_a_layer_of_several_tensors_is_named():
    class Two(nn.Module):
        def forward(self, x):
            return x, 2 * x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.two = Two()

        def forward(self, x):
            return sum(self.two(x)).mean((2, 3))

    net = Net()
    with pytest.raises(ValueError, match="'two' gives 2 tensors, expected one"):
        GradCAM(net, net.two).attribute(SMALL, 1)


def test_fast_cam_with_other_statistics(resnet, images):
    for settings in ({"statistic": "std"}, {"normalize": "minmax"}):
        fast = FastCAM(resnet, "layer4", **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            default = FastCAM(resnet, "layer4").attribute(images, 1)
        smoe = fast.smoe.attribute(images)
        cam = GradCAM(resnet, "layer4").attribute(images, 1)
        upsampled = GradCAM.interpolate(
            cam / cam.amax((1, 2, 3), keepdim=True), (64, 96), "bilinear"
        )
        torch.testing.assert_close(fast.attribute(images, 1), upsampled * smoe, rtol=0, atol=1e-5)
        assert not torch.allclose(fast.attribute(images, 1), default)


def test_further_arguments_of_the_gradient_are_captum_s():
    class Aside(nn.Module):
        """A convolution that the scores do not depend on, and one that they do."""

        def __init__(self):
            super().__init__()
            self.aside, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            self.aside(x)
            return self.conv(x).mean((2, 3))

    images = torch.rand(2, 3, 8, 8)
    model = Aside()
    maps = []
    for layer in (model.conv, model.aside):
        given = (images, 1, None, False, False, True, {"materialize_grads": True})
        maps.append(GradCAM(model, layer).attribute(*given))
        torch.testing.assert_close(maps[-1], LayerGradCam(model, layer).attribute(*given))
    assert maps[0].any()
    assert not maps[1].any()
    for wrong in (None, {"allow_unused": True}):
        with pytest.raises(ValueError, match="no gradient by the CAM's layer"):
            GradCAM(model, model.aside).attribute(images, 1, grad_kwargs=wrong)
    kept = GradCAM(model, model.conv).attribute(images, 0, grad_kwargs={"create_graph": True})
    assert torch.equal(kept, GradCAM(model, model.conv).attribute(images, 0))
    assert not kept.requires_grad
    with pytest.raises(TypeError, match="retain"):
        GradCAM(model, model.conv).attribute(images, 0, grad_kwargs={"retain": True})
