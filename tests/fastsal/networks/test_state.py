"""The network under a forward function: wrappers run, methods are traced as they are called."""

import socket

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastsal import FastCAM, GradCAM, find_scales
from fastsal.networks.state import method_of, root_module


class Delegating(nn.Module):
    """A wrapper that normalises, and hands unknown attributes on to the network."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def forward(self, x):
        return self.network((x - 0.5) / 0.25)


class Plain(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((x - 0.5) / 0.25)


WRAPPERS = {
    "around a compiled network": lambda net: Delegating(torch.compile(net, backend="eager")),
    "compiled itself": lambda net: torch.compile(Delegating(net), backend="eager"),
    "both": lambda net: torch.compile(
        Delegating(torch.compile(net, backend="eager")), backend="eager"
    ),
    "two of them": lambda net: Delegating(
        nn.Sequential(nn.Identity(), torch.compile(net, backend="eager"))
    ),
    "around a plain network": Delegating,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapper_that_delegates_runs(small_network, small_images, maker, wrap):
    expected = maker(Plain(small_network())).attribute(small_images, 1)
    model = wrap(small_network())
    assert torch.equal(maker(model).attribute(small_images, 1), expected)


def test_root_of_a_wrapper(small_network):
    net = small_network()
    compiled = torch.compile(net, backend="eager")
    wrapper = Delegating(compiled)
    assert root_module(compiled) is net
    assert root_module(wrapper) is wrapper
    assert root_module(wrapper.forward) is wrapper
    assert root_module(nn.DataParallel(net)) is net


class TwoTowers(nn.Module):
    """As CLIP: the image's tower is a method, and `forward` takes a text as well."""

    def __init__(self, network):
        super().__init__()
        self.visual, self.textual = network, nn.Linear(4, 5)
        self.calls = []

    def encode_image(self, image, factor=1.0):
        CALLS.append("encode_image")
        return self.visual(image) * factor

    def forward(self, image, text):
        CALLS.append("forward")
        return self.encode_image(image) * self.textual(text)


CALLS = []


def test_a_bound_method_is_traced_as_it_is_called(small_network, small_images, maker):
    expected = maker(small_network()).attribute(small_images, 1)
    model = TwoTowers(small_network())
    CALLS.clear()
    assert torch.equal(maker(model.encode_image).attribute(small_images, 1), expected)
    assert "forward" not in CALLS
    # A positive factor changes neither the statistic nor the shares of a class activation map.
    result = maker(model.encode_image).attribute(small_images, 1, torch.tensor(2.0))
    assert result.shape == expected.shape
    names = [scale.name for scale in find_scales(model.encode_image, small_images)]
    assert names == ["visual.2", "visual.6"]
    # `forward` itself as a method.
    assert torch.equal(maker(small_network().forward).attribute(small_images, 1), expected)


def test_a_method_of_a_part(small_network, small_images, maker):
    expected = maker(small_network()).attribute(small_images, 1)
    model = nn.ModuleDict({"towers": TwoTowers(small_network()).train()})
    result = maker(model["towers"].encode_image).attribute(small_images, 1)
    assert torch.equal(result, expected)
    assert model["towers"].visual[1].training


def test_methods_of_wrappers_are_calls_of_the_network(small_network):
    net = small_network()
    assert method_of(nn.DataParallel(net).forward) is None
    assert method_of(net) is None
    assert method_of(print) is None


@pytest.fixture(scope="module")
def group():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def inside(ddp):
    return nn.Sequential(nn.Identity(), ddp)


@pytest.mark.parametrize("wrap", [lambda ddp: ddp, inside], ids=["itself", "inside a module"])
@pytest.mark.parametrize("unused", [False, True])
def test_maps_between_steps_of_distributed_training(
    group, small_network, small_images, maker, wrap, unused
):
    """The steps with maps between them are those without, bit for bit."""

    def trained(between):
        torch.manual_seed(0)
        net = small_network().train()
        model = wrap(DistributedDataParallel(net, find_unused_parameters=unused))
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        for _ in range(4):
            optimizer.zero_grad()
            model(small_images).pow(2).sum().backward()
            between(model)
            optimizer.step()
            between(model)
        return net

    def nothing(_):
        pass

    results = []

    def explain(model):
        results.append((attribute(model), attribute(model)))

    def attribute(model):
        return maker(model).attribute(small_images, 1)

    plain, explained = trained(nothing), trained(explain)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, explained.state_dict()[name]), name
    last = maker(explained).attribute(small_images, 1)
    assert torch.equal(results[-1][0], last)
    assert all(torch.equal(*pair) for pair in results)


def test_distributed_grad_cam_equals_captums(group, small_network, small_images):
    net = small_network()
    ddp = DistributedDataParallel(net)
    twin = small_network()
    wanted = LayerGradCam(twin, twin[6]).attribute(small_images, 1, relu_attributions=True)
    torch.testing.assert_close(GradCAM(ddp, net[6]).attribute(small_images, 1), wanted)
    assert FastCAM(ddp).attribute(small_images, 1).isfinite().all()
