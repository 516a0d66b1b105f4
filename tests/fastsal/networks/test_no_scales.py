"""Networks without scales: the error gives the reason and a remedy."""

import pytest
import torch
import torchvision
from torch import nn

from fastsal import SMOEScale, find_scales
from fastsal.networks.scales import ScalesError

IMAGES = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def transformer():
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=16
    )


class IgnoresItsInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(1, 5))
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        self.conv(x)
        return self.scores.expand(len(x), 5)


class InAList(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Conv2d(3, 4, 3)]

    def forward(self, x):
        return self.layers[0](x)


UNREGISTERED = (
    r"no candidate.*none of .*is a registered module's output or.*torch.export.*"
    r"give the module.*conv2d \(1, 4, 14, 22\)$"
)


def scripted_part(network):
    return nn.Sequential(torch.jit.script(network[0]), *network[1:])


ONE_SCALE = {
    "a vision transformer": (
        transformer,
        torch.rand(1, 3, 32, 32),
        r"found 1 spatial scale.*one resolution, stride 8.*"
        r"layers=\[.*Candidates: conv_proj \(1, 16, 4, 4\); encoder \(1, 17, 16\)",
    ),
    "one scale": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        IMAGES,
        r"found 1 spatial scale.*one resolution, stride 1.*"
        r"Candidates: 0 \(1, 4, 16, 24\); 1 \(1, 4, 16, 24\)$",
    ),
    "the second scale is a norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(4)),
        IMAGES,
        r"found 1 spatial scale.*at the other resolutions there is only what pooling or a norm.*"
        r"2 \(1, 4, 8, 12\); 3 \(1, 4, 8, 12\)$",
    ),
}
NETWORKS = {
    "fully connected layers on an image": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(1152, 8), nn.ReLU(), nn.Linear(8, 2)),
        IMAGES,
        r"no candidate.*no tensor on the way has locations \(N, C, H, W\).*flattened.*"
        r": 0 \(1, 1152\); 1 \(1, 8\); 2 \(1, 8\); 3 \(1, 2\)$",
    ),
    "fully connected layers on a vector": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU()),
        torch.rand(2, 8),
        r"expected an image batch .* among the inputs, got \[\(2, 8\)\]: only what",
    ),
    "the input is ignored": (
        IgnoresItsInput,
        IMAGES,
        r"no candidate.*the output does not depend on the images.*crosses: none$",
    ),
    "an exported program in which no module runs": (
        lambda: torch.export.export(nn.Conv2d(3, 4, 3).eval(), (IMAGES,)).module(
            check_guards=False
        ),
        IMAGES,
        UNREGISTERED,
    ),
    "layers in a list": (InAList, IMAGES, UNREGISTERED),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_error_says_why(name):
    build, inputs, message = NETWORKS[name]
    network = build()
    hooks = [len(module._forward_hooks) for module in network.modules()]
    with pytest.raises(ScalesError, match=message):
        find_scales(network, inputs)
    with pytest.raises(ValueError, match=r"spatial scale|expected an image batch"):
        SMOEScale(network).attribute(inputs)
    assert [len(module._forward_hooks) for module in network.modules()] == hooks


@pytest.mark.filterwarnings("ignore:layer.* give negative activations")
@pytest.mark.parametrize("name", ONE_SCALE)
def test_one_scale_is_taken_with_a_warning(name):
    build, inputs, message = ONE_SCALE[name]
    network = build()
    with pytest.warns(UserWarning, match=message):
        (scale,) = find_scales(network, inputs)
    with pytest.warns(UserWarning, match="found 1 spatial scale"):
        found = SMOEScale(network).attribute(inputs)
    torch.testing.assert_close(found, SMOEScale(network, scale).attribute(inputs))


def small():
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Conv2d(4, 4, 3, 2))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (torch.jit.script, r"inside a torch.jit module \(RecursiveScriptModule\).*give the module"),
        (
            lambda network: torch.jit.trace(network.eval(), IMAGES),
            r"inside a torch.jit module \(TopLevelTracedModule\).*it was scripted or traced from",
        ),
        (
            scripted_part,
            r"no candidate.*inside the torch.jit module '0' is not seen; put the module that it",
        ),
    ],
)
def test_scripted_modules_are_named(change, message):
    with pytest.raises(ScalesError, match=message):
        find_scales(change(small()), IMAGES)


@pytest.mark.filterwarnings("ignore:layer.* give negative activations")
def test_one_layer_that_is_given_is_read_where_none_is_found():
    network, inputs = transformer(), torch.rand(1, 3, 32, 32)
    attributions = SMOEScale(network, "conv_proj").attribute(inputs)
    assert attributions.shape == inputs.shape
    assert attributions.std() > 0.01


def test_an_error_of_the_network_itself_comes_through():
    network = torchvision.models.alexnet(weights=None)
    with pytest.raises(RuntimeError, match="Output size is too small"):
        find_scales(network, torch.rand(1, 3, 16, 16))
    with pytest.raises(RuntimeError, match=r"expected input.* to have 3 channels"):
        find_scales(network, torch.rand(1, 4, 64, 64))
    assert not any(module._forward_hooks for module in network.modules())
