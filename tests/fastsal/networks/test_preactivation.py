"""Pre-activations against the same networks written out without the ReLU."""

import gc
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from fastsal import FastCAM, Scale, SMOEScale, Statistic
from fastsal.networks.preactivation import PreActivations
from fastsal.statistics.distributions import truncnormal_mean

pytestmark = pytest.mark.heavy

# Reads the tensor itself: its least value, which no rectified tensor has below 0.
LEAST = Statistic("least", "a test", "pre_relu", lambda activations: activations.amin(1))
RAW = {"statistic": LEAST, "normalize": "none"}
# The mean after the ReLU, by way of what comes before it.
RECTIFIED = Statistic("rectified", "a test", "pre_relu", lambda tensor: tensor.relu().mean(1))


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(
    "module",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.ReLU6(),
        nn.ReLU6(inplace=True),
        nn.Hardtanh(-1, 1, inplace=True),
        nn.LeakyReLU(0.1, inplace=True),
        nn.PReLU(),
        nn.ELU(inplace=True),
        nn.SELU(inplace=True),
        nn.GELU(),
        nn.SiLU(inplace=True),
        nn.Mish(inplace=True),
        nn.Hardswish(inplace=True),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.Softplus(),
    ],
    ids=str,
)
def test_every_activation_module(module):
    tensor = torch.randn(2, 3, 4, 4)
    given = tensor.clone()
    before = PreActivations()
    with before, torch.no_grad():
        made = module(tensor)
        assert before.of(made) is not None
    assert not torch.equal(made, given)
    assert torch.equal(before.of(made), given)


@pytest.mark.parametrize(
    "function",
    [
        torch.relu,
        torch.relu_,
        torch.Tensor.relu,
        torch.Tensor.relu_,
        lambda x: F.relu(x, True),
        lambda x: F.relu(input=x, inplace=True),
        lambda x: x.clamp(min=0),
        lambda x: x.clamp_min_(0),
        lambda x: F.hardtanh(x, 0.0, 6.0, True),
        lambda x: F.dropout(F.relu(x), 0.5, training=False),
        lambda x: F.dropout(F.relu_(x), 0.5, False, True),
        lambda x: F.relu(x).contiguous().float(),
    ],
)
def test_every_way_to_call_a_relu(function):
    tensor = torch.randn(2, 3, 4, 4)
    given = tensor.clone()
    before = PreActivations()
    with before:
        made = function(tensor)
    assert made.amin() >= 0
    assert torch.equal(before.of(made), given)


def test_what_moves_values_about_is_followed():
    first, second = torch.randn(2, 4, 3, 3), torch.randn(2, 6, 3, 3)
    before = PreActivations()
    with before:
        parts = [torch.relu(first), second.clone().relu_()]
        joined = torch.cat(parts, dim=1)
        shuffled = joined.view(2, 2, 5, 3, 3).transpose(1, 2).contiguous().view(2, 10, 3, 3)
        half = shuffled.chunk(2, dim=1)[1]
        last = half.permute(0, 2, 3, 1)
        beside = torch.cat([parts[0], second], 1)
    whole = torch.cat([first, second], 1)
    mixed = whole.view(2, 2, 5, 3, 3).transpose(1, 2).reshape(2, 10, 3, 3)
    assert torch.equal(before.of(joined), whole)
    assert torch.equal(before.of(shuffled), mixed)
    assert torch.equal(before.of(last), mixed[:, 5:].movedim(1, -1))
    # A tensor that no activation function made is the input of the next one.
    assert torch.equal(before.of(beside), whole)


def test_what_changes_values_is_not():
    before = PreActivations()
    with before:
        made = torch.relu(torch.randn(2, 4, 4, 4))
        summed, pooled, doubled = made + 1, F.max_pool2d(made, 2), 2 * made
        for tensor in (summed, pooled, doubled):
            assert before.of(tensor) is None
        assert before.of(made) is not None
        made += 1
        assert before.of(made) is None
        again = torch.relu(made)
        again[:, 0] = 5
        assert before.of(again) is None


def test_nothing_is_kept_longer_than_what_was_made_of_it():
    before = PreActivations()
    with before:
        tensor = torch.randn(2, 3)
        made = tensor.relu_()
        kept = weakref.ref(before.of(made))
        assert kept() is not None
        del tensor, made
    gc.collect()
    assert kept() is None


def block_without_its_relu(block, x):
    """A torchvision BasicBlock up to the sum."""
    out = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    return out + (x if block.downsample is None else block.downsample(x))


def resnet_before_relus(model, images):
    """The tensors before and after the last ReLU of each of a ResNet-18's scales."""
    before, after = [model.bn1(model.conv1(images))], []
    after.append(before[0].relu())
    x = model.maxpool(after[0])
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in layer:
            given = block_without_its_relu(block, x)
            x = given.relu()
        before.append(given)
        after.append(x)
    return before, after


@pytest.fixture(scope="module")
def resnet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torchvision.models.resnet18(weights=None).eval()


@pytest.mark.parametrize("layers", [None, ["relu", "layer1", "layer2", "layer3", "layer4"]])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_a_resnets_reused_in_place_relu(resnet, images, untouched, layers, mode):
    with torch.no_grad():
        before, _ = resnet_before_relus(resnet, images)
    with warnings.catch_warnings(), untouched(resnet, images), mode():
        warnings.simplefilter("error")
        maps = SMOEScale(resnet, layers, statistic="truncnormal_mean", normalize="none").maps(
            images
        )
        least = SMOEScale(resnet, layers, **RAW).maps(images)
    for index, given in enumerate(before):
        assert given.amin() < -0.1
        torch.testing.assert_close(least.per_scale[index], given.amin(1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            maps.per_scale[index], truncnormal_mean(given), rtol=1e-4, atol=1e-5
        )


def test_a_layers_input_is_taken_before_its_relu_too(resnet, images):
    with torch.no_grad():
        before, _ = resnet_before_relus(resnet, images)
    maps = SMOEScale(resnet, ["layer2", "layer4"], **RAW).maps(images, None, True)
    for given, scale_map in zip((before[1], before[3]), maps.per_scale, strict=True):
        torch.testing.assert_close(scale_map, given.amin(1), rtol=1e-5, atol=1e-5)


def test_fast_cam_reads_it_too(resnet, images):
    _, predicted = resnet(images).max(1)
    plain = FastCAM(resnet, statistic="truncnormal_std")
    combined = SMOEScale(resnet, statistic="truncnormal_std").maps(images).combined
    activation_map = plain.class_activation_map(images, predicted)
    activation_map = activation_map / activation_map.amax((1, 2), keepdim=True)
    up = F.interpolate(activation_map[:, None], images.shape[2:], mode="bilinear")[:, 0]
    attribution = plain.attribute(images, predicted)
    torch.testing.assert_close(attribution[:, 0], up * combined, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["vgg11_bn", "densenet121", "googlenet", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5"],
)
def test_rectified_it_is_what_the_network_goes_on_with(name, images):
    options = {"init_weights": True} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = SMOEScale(model, statistic="mean", normalize="none").maps(images)
        before = SMOEScale(model, statistic=RECTIFIED, normalize="none").maps(images)
        least = SMOEScale(model, **RAW).maps(images)
    assert [scale.name for scale in before.scales] == [scale.name for scale in after.scales]
    for index, expected in enumerate(after.per_scale):
        torch.testing.assert_close(before.per_scale[index], expected)
        assert least.per_scale[index].amin() < 0


class Functional(nn.Module):
    """One in-place ReLU, a functional one, and one module that runs three times."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.broken = False

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        for _ in range(3):
            x = self.relu(self.second(x))
            if self.broken:
                raise RuntimeError("broken")
        return x


def test_functional_relus_and_modules_that_run_again(images, untouched):
    model = Functional()
    with torch.no_grad():
        given = [model.first(images)]
        x = F.max_pool2d(given[0].relu(), 2)
        for _ in range(3):
            given.append(model.second(x))
            x = given[-1].relu()
    with untouched(model, images):
        found = SMOEScale(model, **RAW).maps(images)
        last = SMOEScale(model, "relu", **RAW).maps(images)
    for scale_map, expected in zip(found.per_scale, (given[0], given[3]), strict=True):
        torch.testing.assert_close(scale_map, expected.amin(1))
    torch.testing.assert_close(last.per_scale[0], given[3].amin(1))
    second = Scale("relu", model.relu, 1, (2, 4, 32, 48), (2, 2), False)
    maps = SMOEScale(model, second, **RAW).maps(images)
    torch.testing.assert_close(maps.per_scale[0], given[2].amin(1))


def test_an_error_within_the_pass_leaves_nothing(images, untouched):
    model = Functional()
    attributor = SMOEScale(model, ["first", "relu"], **RAW)
    expected = attributor.attribute(images)
    model.broken = True
    with untouched(model, images), pytest.raises(RuntimeError, match="broken"):
        attributor.attribute(images)
    model.broken = False
    assert torch.equal(attributor.attribute(images), expected)


def test_two_attributors_one_inside_the_other(images, untouched):
    model = Functional()
    attributor, other = (SMOEScale(model, "relu", **RAW) for _ in range(2))
    expected = attributor.attribute(images)
    inner = []

    def ask(module, args, output):
        if not inner:
            inner.append(other)
            inner.append(other.attribute(images))

    handle = model.second.register_forward_hook(ask)
    with untouched(model, images):
        assert torch.equal(attributor.attribute(images), expected)
    handle.remove()
    assert torch.equal(inner[1], expected)


def test_no_other_statistic_pays_for_it(images, monkeypatch):
    seen = []
    monkeypatch.setattr(PreActivations, "__enter__", lambda self: seen.append(self))
    SMOEScale(Functional(), "relu", statistic="std").attribute(images)
    assert seen == []


def test_a_rectified_layer_that_no_activation_made_is_named_once(images):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)
    )
    attributor = SMOEScale(model, ["1", "2", "3"], **RAW)
    with pytest.warns(UserWarning, match=r"^layer\(s\) 2 give no negative activations") as caught:
        first = attributor.attribute(images)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(attributor.attribute(images), first)


def test_under_autocast(images):
    attributor = SMOEScale(Functional(), "relu", **RAW)
    expected = attributor.attribute(images)
    with torch.autocast("cpu", torch.bfloat16):
        result = attributor.attribute(images)
    assert not torch.equal(result, expected)
    torch.testing.assert_close(result, expected, rtol=0, atol=0.01)
    assert result.amin() < 0
