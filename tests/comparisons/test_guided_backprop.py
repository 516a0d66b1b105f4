"""Guided Backprop against Captum's class, on twins of networks whose rectifiers are nn.ReLU."""

from __future__ import annotations

import copy
import operator
from typing import Any

import pytest
import timm
import torch
from captum.attr import GuidedBackprop as CaptumGuidedBackprop
from captum.attr import Saliency
from torch import nn
from torch.fx import symbolic_trace
from torch.nn import functional as F
from torchvision import models

from comparisons.guided_backprop import GuidedBackprop, NoRectifierError
from comparisons.methods import METHODS
from comparisons.methods.base import Batch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class _UpTo(nn.Module):
    """`min(max(x, 0), bound)` by a module of its own, which Captum guides."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.relu, self.bound = nn.ReLU(), bound

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.minimum(self.relu(x), torch.tensor(self.bound))


def _twin(network: nn.Module) -> nn.Module:
    """The same network with a module of its own for each rectifier, by torch.fx."""
    twin = symbolic_trace(copy.deepcopy(network))
    for node in list(twin.graph.nodes):
        module = twin.get_submodule(node.target) if node.op == "call_module" else None
        if module is not None and isinstance(module, nn.ReLU6):
            made: nn.Module = _UpTo(6.0)
        elif isinstance(module, nn.ReLU) or node.target in (F.relu, torch.relu, "relu"):
            made = nn.ReLU()
        else:
            continue
        twin.add_module(f"own_{node.name}", made)
        with twin.graph.inserting_after(node):
            new = twin.graph.call_module(f"own_{node.name}", (node.args[0],))
        node.replace_all_uses_with(new)
        twin.graph.erase_node(node)
    twin.recompile()
    return twin


def _torchvision(name: str) -> nn.Module:
    extra: dict[str, Any] = {"init_weights": True} if name == "googlenet" else {}
    return models.get_model(name, weights=None, **extra)


NETWORKS = {
    "googlenet": lambda: _torchvision("googlenet"),
    "mobilenet_v2": lambda: _torchvision("mobilenet_v2"),
    "densenet121": lambda: _torchvision("densenet121"),
    "efficientnet_lite0": lambda: timm.create_model("efficientnet_lite0"),
    "resnet18": lambda: _torchvision("resnet18"),
    "mobilenet_v3_small": lambda: _torchvision("mobilenet_v3_small"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_captum_s_on_the_twin_with_modules(name):
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    images = torch.rand(2, 3, 64, 64)
    found = GuidedBackprop(network).attribute(images, 1)
    expected = CaptumGuidedBackprop(_twin(network)).attribute(images.clone(), 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    plain = Saliency(network).attribute(images.clone(), 1, abs=False)
    assert (found - plain).norm() > 0.1 * found.norm()


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "squeezenet1_1"])
def test_bit_for_bit_on_networks_of_nn_relu(name):
    torch.manual_seed(0)
    network = _torchvision(name).eval()
    images = torch.rand(2, 3, 64, 64)
    expected = CaptumGuidedBackprop(network).attribute(images.clone(), [1, 3])
    assert torch.equal(GuidedBackprop(network).attribute(images, [1, 3]), expected)


class _Functional(nn.Module):
    """Two convolutions and a linear layer, each followed by a given rectifier."""

    def __init__(self, rectify: Any) -> None:
        super().__init__()
        self.rectify = rectify
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.between, self.head = nn.Linear(6, 6), nn.Linear(8 * 36, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.rectify(self.first(x))
        x = self.rectify(self.second(x))
        # A linear layer over four dimensions gives a view.
        x = self.rectify(self.between(x))
        return self.head(x.flatten(1))


def _where_(x: torch.Tensor) -> torch.Tensor:
    return x.mul_(x > 0)


WAYS = {
    "relu": F.relu,
    "relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "x.relu_": lambda x: x.relu_(),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_": lambda x: x.clamp_(min=0),
    "clamp_min": lambda x: torch.clamp_min(x, 0.0),
    "clip": lambda x: torch.clip(x, 0, 1000),
    "clamp of tensors": lambda x: x.clamp(min=torch.zeros(())),
    "hardtanh": lambda x: F.hardtanh(x, 0, 1000),
    "hardtanh in place": lambda x: F.hardtanh(x, 0, 1000, True),
    "relu6": F.relu6,
    "threshold": lambda x: F.threshold(x, 0, 0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "max": lambda x: torch.max(torch.zeros(()), x),
    "fmax": lambda x: torch.fmax(x, torch.zeros(())),
    "where": lambda x: torch.where(x > 0, x, 0),
    "where of tensors": lambda x: torch.where(x < 0, torch.zeros_like(x), x),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "mask": lambda x: x * (x > 0),
    "float mask": lambda x: (x > 0).float() * x,
    "mask in place": _where_,
    "aten": torch.ops.aten.relu.default,
    "leaky by 0": lambda x: F.leaky_relu(x, 0.0),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_rectifier_is_guided_however_it_is_written(way):
    torch.manual_seed(0)
    network, images = _Functional(WAYS[way]), torch.rand(2, 3, 10, 10)
    modules = _Functional(nn.ReLU())
    modules.load_state_dict(network.state_dict())
    # A module for each call, since Captum hooks modules.
    twin = _twin(modules)
    found = GuidedBackprop(network).attribute(images, 2)
    expected = CaptumGuidedBackprop(twin).attribute(images.clone(), 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    plain = Saliency(modules).attribute(images.clone(), 2, abs=False)
    assert not torch.allclose(found, plain, rtol=1e-2)


@pytest.mark.parametrize(
    "smooth",
    [F.silu, F.gelu, F.elu, F.leaky_relu, F.hardswish, torch.tanh, lambda x: x.clamp(min=-1)],
    ids=operator.attrgetter("__name__"),
)
def test_a_network_without_rectifiers_is_refused(smooth):
    with pytest.raises(NoRectifierError, match="of _Functional would be its plain gradient"):
        GuidedBackprop(_Functional(smooth)).attribute(torch.rand(1, 3, 10, 10), 0)


def test_efficientnet_is_refused_by_name():
    network = models.efficientnet_b0(weights=None).eval()
    with pytest.raises(ValueError, match="of EfficientNet would be"):
        GuidedBackprop(network).attribute(torch.rand(1, 3, 32, 32), 0)


def test_a_clamp_of_the_images_is_no_rectifier():
    class Clamped(_Functional):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.clamp(0, 1) - 0.5)

    torch.manual_seed(0)
    network, images = Clamped(nn.ReLU()), torch.rand(2, 3, 10, 10)
    found = GuidedBackprop(network).attribute(images, 1)
    expected = GuidedBackprop(_Functional(nn.ReLU()))
    expected.forward_func.load_state_dict(network.state_dict())
    torch.testing.assert_close(found, expected.attribute(images - 0.5, 1))
    assert (found < 0).any()


def test_what_is_no_rectifier_keeps_its_gradient():
    """A product that happens to leave rectified numbers as they are cuts no gradient."""

    class Scaled(_Functional):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.rectify(self.first(x))
            x = self.rectify(self.second(x * torch.ones_like(x)) * 1.0 + x[..., 1:-1, 1:-1] * 1.0)
            return self.head(x.flatten(1))

    torch.manual_seed(0)
    network, images = Scaled(nn.ReLU()), torch.rand(2, 3, 10, 10)
    found = GuidedBackprop(network).attribute(images, 1)
    expected = CaptumGuidedBackprop(_twin(network)).attribute(images.clone(), 1)
    torch.testing.assert_close(found, expected)


def test_only_the_way_through_the_rectifier_is_cut():
    r"""`y = s x + relu(x)`: the skip keeps its gradient, against `1[x > 0] ReLU(R)` by hand."""
    weight = torch.tensor([[1.0, -2.0], [0.5, 1.5]])

    class Skip(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x @ weight
            return (torch.tensor([-3.0, 2.0]) * x + F.relu(x)) @ torch.tensor([[1.0], [-1.0]])

    images = torch.tensor([[1.0, 0.2]])
    # x = (1.1, -1.7); of the ReLU's gradients (1, -1) the first goes on, and of the skip's both.
    back = torch.tensor([[-3.0 + 1.0, -2.0]])
    torch.testing.assert_close(GuidedBackprop(Skip()).attribute(images, 0), back @ weight.T)


def test_the_caller_s_images_and_network_stay_as_they_were():
    class Normalised(_Functional):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.sub_(0.5))

    torch.manual_seed(0)
    network, images = Normalised(F.relu), torch.rand(1, 3, 10, 10)
    before = images.clone()
    with torch.no_grad():
        first = GuidedBackprop(network).attribute(images, 1)
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert torch.equal(first, GuidedBackprop(network).attribute(images, 1))
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("guided-backprop", "gradient"),
        ("guided-backprop-sgsq", "gradient-sgsq"),
        ("guided-gradcam", "gradcam"),
    ],
)
def test_the_methods_guide_functions_as_they_guide_modules(name, plain):
    torch.manual_seed(0)
    network, modules = _Functional(F.relu), _Functional(nn.ReLU())
    modules.load_state_dict(network.state_dict())
    images, targets = torch.rand(2, 3, 10, 10), torch.tensor([0, 1])
    batch = Batch(images, targets, torch.tensor([0, 1]), 1.0, (0.0, 0.0, 0.0))
    found = METHODS[name].prepare(network)(batch)
    torch.testing.assert_close(found, METHODS[name].prepare(modules)(batch))
    assert not torch.allclose(found, METHODS[plain].prepare(network)(batch), rtol=1e-2)
