"""The scales of hand-written networks, and of a ResNet at several sizes."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from fastsal import Scale, candidates, find_scales
from fastsal.networks.layers import name_layers

RESNET = ["relu", "layer1", "layer2", "layer3", "layer4"]


def network(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torchvision.models.get_model(name, weights=None)


def image(side, seed=0):
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", [33, 64, 128])
def test_odd_sizes_change_nothing(side):
    scales = find_scales(network("resnet50"), image(side))
    assert [scale.name for scale in scales] == RESNET
    assert [scale.stride for scale in scales] == [2, 4, 8, 16, 32]


def test_resnet50_at_its_own_size():
    scales = find_scales(network("resnet50"), image(224))
    assert [scale.shape[2] for scale in scales] == [112, 56, 28, 14, 7]
    assert [scale.stride for scale in scales] == [2, 4, 8, 16, 32]
    assert [scale.shape[1] for scale in scales] == [64, 256, 512, 1024, 2048]


def test_a_vision_transformer_lists_its_candidates():
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=16
    )
    with pytest.raises(
        ValueError, match=r"found 1 spatial scale.*layers=.*conv_proj \(1, 16, 4, 4"
    ):
        find_scales(model, image(32))


class ReusedReLU(nn.Module):
    """One ReLU module after every convolution: only the call tells them apart."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(i, 4, 3, padding=1) for i in (3, 4, 4, 4))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        for index, conv in enumerate(self.convs):
            x = self.relu(conv(x))
            if index % 2 == 1:
                x = F.max_pool2d(x, 2)
        return x.mean((2, 3))


def test_a_reused_relu_is_told_by_its_call():
    scales = find_scales(ReusedReLU(), image(16))
    assert [(scale.name, scale.call, scale.stride) for scale in scales] == [
        ("relu", 1, 1),
        ("relu", 3, 2),
    ]


class Functional(nn.Module):
    """ReLUs as functions, the second in place."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 8, 3, padding=1)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.relu(self.conv2(x), inplace=True)
        return x.mean((2, 3))


def test_a_functional_relu_gives_the_module_before_it():
    scales = find_scales(Functional(), image(16))
    found = [(s.name, s.stride, s.functional_relu, s.signed) for s in scales]
    assert found == [("bn1", 1, True, False), ("conv2", 2, True, False)]


class HandWrittenResNet9(nn.Module):
    """Residual sums in the network's own forward, which are no module's output."""

    def __init__(self, width=4):
        super().__init__()

        def block(inputs, outputs, pool=False):
            layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))

        self.prep = block(3, width)
        self.layer1 = block(width, 2 * width, pool=True)
        self.res1 = nn.Sequential(block(2 * width, 2 * width), block(2 * width, 2 * width))
        self.layer2 = block(2 * width, 4 * width, pool=True)
        self.layer3 = block(4 * width, 8 * width, pool=True)
        self.res3 = nn.Sequential(block(8 * width, 8 * width), block(8 * width, 8 * width))
        self.pool = nn.MaxPool2d(4)
        self.head = nn.Linear(8 * width, 10)

    def forward(self, x):
        x = self.layer1(self.prep(x))
        x = self.layer2(x + self.res1(x))
        x = self.layer3(x)
        x = x + self.res3(x)
        return self.head(self.pool(x).flatten(1))


def test_a_hand_written_resnet9_has_four_scales():
    scales = find_scales(HandWrittenResNet9(), image(32))
    assert [(s.name, s.shape[2], s.layer_input) for s in scales] == [
        ("layer1.2", 32, False),
        ("layer2.2", 16, False),
        ("layer3.2", 8, False),
        ("pool", 4, True),
    ]


def test_neither_norm_nor_pooling_nor_preprocessing_is_chosen():
    class Normalize(nn.Module):
        def forward(self, x):
            return (x - 0.5) / 0.2

    net = nn.Sequential(
        Normalize(),
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
    )
    found = {c.scale.name: (c.eligible, c.chosen) for c in candidates(net, image(16))}
    assert found == {
        "1": (True, True),
        "2": (False, False),
        "3": (False, False),
        "4": (True, True),
        "5": (False, False),
    }


def test_an_identity_after_a_layer_does_not_lend_its_name():
    stage = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    net = nn.Sequential(stage, nn.Identity(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1))
    assert [scale.name for scale in find_scales(net, image(8))] == ["0", "3"]


def test_a_non_square_image():
    scales = find_scales(network("resnet18"), torch.rand(1, 3, 64, 96))
    assert [scale.name for scale in scales] == RESNET


def test_a_bypass_leaves_no_cut_inside():
    class Bypass(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
            self.after = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.after(x + self.branch(x))

    names = [c.scale.name for c in candidates(Bypass(), image(8))]
    # The sum (read as the last convolution's input) and that convolution; nothing of the branch.
    assert names == ["after", "after"]


def test_layers_in_any_form():
    net = network("resnet18")
    scale = find_scales(net, image(64))[-1]
    mixed = name_layers(net, ["relu", net.layer1, scale])
    assert [(name, module) for name, module, _ in mixed] == [
        ("relu", net.relu),
        ("layer1", net.layer1),
        ("layer4", net.layer4),
    ]
    assert isinstance(mixed[2][2], Scale)
    assert [name for name, _, _ in name_layers(net, net.layer2)] == ["layer2"]
    assert [name for name, _, _ in name_layers(net, nn.ModuleList([net.layer2]))] == ["layer2"]


def test_errors_name_what_was_given():
    net = network("resnet18")
    with pytest.raises(ValueError, match="no layer named 'layer9'; its layers are conv1, bn1"):
        name_layers(net, ["layer9"])
    with pytest.raises(ValueError, match="no layers given"):
        name_layers(net, [])
    with pytest.raises(TypeError, match="a layer is a module, its name or a Scale, got 3"):
        name_layers(net, [3])
    with pytest.raises(ValueError, match=r"image batch .* got \[\(2, 3\)\]"):
        find_scales(net, torch.rand(2, 3))
    with pytest.raises(ValueError, match="which is no torch"):
        find_scales(lambda x: net(x), image(64))
