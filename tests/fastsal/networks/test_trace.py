"""A trace sees the same network however it is wrapped, laid out, compiled or reparametrised."""

import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torchvision.ops import StochasticDepth

from fastsal import SMOEScale, candidates, find_scales
from fastsal.networks.trace import trace_forward

SCALES = ["2", "6"]


def shown(model, inputs):
    return [
        (c.scale.name, c.scale.call, c.scale.shape, c.scale.signed, c.chosen)
        for c in candidates(model, inputs)
    ]


def compiled_in_place(network):
    network.compile(backend="eager")
    return network


def compiled_part(network):
    network[2] = torch.compile(network[2], backend="eager")
    return network


def reparametrised(network):
    parametrizations.weight_norm(network[0])
    parametrizations.spectral_norm(network[5])
    return network.eval()


def weight_norm(network):
    with warnings.catch_warnings():
        # Deprecated, and still in networks that people have.
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(network[0])
    return network


FORMS = {
    "compiled": lambda network: torch.compile(network, backend="eager"),
    "compiled in place": compiled_in_place,
    "a compiled part": compiled_part,
    "in parallel": nn.DataParallel,
    "channels last": lambda network: network.to(memory_format=torch.channels_last),
    "symbolically traced": torch.fx.symbolic_trace,
    "in training": lambda network: network.train(),
    "frozen": lambda network: network.requires_grad_(False),
    "copied": deepcopy,
    "reparametrised": reparametrised,
    "weight norm": weight_norm,
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_network_changes_nothing(form, small_network, small_images):
    expected = shown(small_network(), small_images)
    network = FORMS[form](small_network())
    # A model is compiled at its first call.
    network(small_images)
    found = shown(network, small_images)
    assert found == expected
    assert [name for name, *_, chosen in found if chosen] == SCALES


CONTEXTS = {
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("context", CONTEXTS)
def test_the_mode_it_is_called_in_changes_nothing(context, small_network, small_images):
    expected = shown(small_network(), small_images)
    with CONTEXTS[context]():
        inputs = small_images + 0
        assert shown(small_network(), inputs) == expected
        network = small_network()
        maps = SMOEScale(network).maps(inputs)
        assert [scale.name for scale in maps.scales] == SCALES
        assert torch.is_inference(maps.combined) == (context == "inference mode")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_precision_changes_nothing(dtype, small_network, small_images):
    found = shown(small_network().to(dtype), small_images.to(dtype))
    assert found == shown(small_network(), small_images)


def test_what_hands_its_input_on_gives_no_name(small_images):
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout2d(0.3), nn.Identity()),
        StochasticDepth(0.5, "row"),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 1),
        nn.ReLU(),
        nn.Dropout(0.3),
    )
    # The first block is the ReLU's output under the name a reader knows.
    assert [scale.name for scale in find_scales(network.train(), small_images)] == ["0", "4"]


class SiLU(nn.Module):
    """Computes in NumPy, which a trace does not see: one operation with its module's name."""

    def forward(self, x):
        values = x.detach().numpy()
        return torch.from_numpy(values / (1 + np.exp(-values)))


def test_what_is_not_seen_is_its_modules(small_network, small_images):
    network = small_network()
    network[2] = SiLU()
    found = [(c.scale.name, c.operation) for c in candidates(network, small_images) if c.chosen]
    assert found == [("2", "silu"), ("6", "relu")]
    expected = small_network()
    expected[2] = nn.SiLU()
    with pytest.warns(UserWarning, match=r"layer\(s\) 2 give negative"):
        attributions = SMOEScale(network).attribute(small_images)
    with pytest.warns(UserWarning, match=r"layer\(s\) 2 give negative"):
        torch.testing.assert_close(attributions, SMOEScale(expected).attribute(small_images))


class WrittenInPlace(nn.Module):
    """Features written into parts of an empty tensor, as detection models batch images."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.stage = nn.Sequential(nn.Conv2d(8, 4, 3, 2, 1), nn.ReLU())

    def forward(self, x):
        features = F.relu(self.conv(x))
        joined = torch.zeros(len(x), 8, *x.shape[2:])
        joined[:, :4] = features
        joined[:, 4:].copy_(features)
        return self.stage(joined).mean((2, 3))


@pytest.mark.parametrize("inference", [False, True])
def test_what_is_written_into_a_part_is_in_the_whole(inference):
    with torch.inference_mode(inference):
        found = find_scales(WrittenInPlace(), torch.rand(1, 3, 8, 8))
    assert [(s.name, s.layer_input) for s in found] == [("stage", True), ("stage", False)]


class Masked(nn.Module):
    """A mask that depends only on the image's shape is no path from the image."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())

    def forward(self, x):
        mask, noise = torch.ones_like(x), x.new_zeros(x.shape)
        x = self.down(x)
        return self.deep(x * mask + noise).mean((2, 3))


def test_a_shape_is_no_path():
    names = [c.scale.name for c in candidates(Masked(), torch.rand(1, 3, 8, 8))]
    assert names[:2] == ["down.0", "down"]


def test_the_graph_is_the_networks(small_images):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()

        def forward(self, x):
            return x + self.relu(self.conv(x))

    trace, output = trace_forward(Block(), (small_images,))
    assert [(node.operation, node.sources) for node in trace.nodes] == [
        ("input", ()),
        ("conv2d", (0,)),
        ("relu", (1,)),
        ("add", (0, 2)),
    ]
    assert trace.nodes_in(output) == (3,)


class Positions(nn.Module):
    """Embeddings of positions, for which the features' shape is asked alone."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        if self.how == "arange":
            return torch.arange(x.shape[3], dtype=x.dtype, device=x.device).expand(x.shape)
        if self.how == "ones":
            return torch.ones_like(x).cumsum(3)
        if self.how == "mean in Python":
            return torch.full(x.shape, float(x.mean()))
        return torch.from_numpy(x.numpy() * 2)


@pytest.mark.parametrize(
    ("how", "reads"),
    [("arange", False), ("ones", False), ("mean in Python", True), ("NumPy", True)],
)
def test_a_module_that_asks_for_the_shape_alone_reads_no_values(how, reads):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
            self.positions = Positions(how)

        def forward(self, x):
            x = self.first(x)
            beside = self.positions(x)
            return (self.second(x) + beside).mean((2, 3))

    trace, output = trace_forward(Network().eval(), (torch.rand(1, 3, 8, 8),))
    assert any(node.operation == "positions" for node in trace.nodes) == reads
    # Of what is read beside it, the second convolution is on one of two ways.
    names = {trace.nodes[cut].operation for cut in trace.cuts(trace.nodes_in(output))}
    second = max(i for i, node in enumerate(trace.nodes) if node.operation == "conv2d")
    assert (second in trace.cuts(trace.nodes_in(output))) != reads, names
