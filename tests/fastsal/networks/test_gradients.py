"""The backward pass of a class's score, which starts before the last linear layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastsal import GradCAM, GradCAMPlusPlus
from fastsal.cam import contributions
from fastsal.networks.gradients import before_classes

TARGETS = [
    None,
    3,
    [1, 2, 3],
    torch.tensor([4, 0, 4]),
    torch.tensor([2]),
    (1,),
    [(1,), (2,), (3,)],
]


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 20, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 6),
            nn.Hardswish(),
            nn.Linear(6, 5),
        ).eval()


@pytest.mark.parametrize("target", TARGETS, ids=repr)
@pytest.mark.parametrize("method", [GradCAM, GradCAMPlusPlus])
def test_the_map_is_that_of_a_whole_backward_pass(network, images, target, method, monkeypatch):
    short = method(network, "3").attribute(images, target, relu_attributions=False)
    monkeypatch.setattr(contributions, "before_classes", lambda _: None)
    whole = method(network, "3").attribute(images, target, relu_attributions=False)
    assert whole.abs().amax() > 0
    torch.testing.assert_close(short, whole, rtol=1e-5, atol=1e-9)


class Weighted(nn.Module):
    """A classifier whose weights depend on the features too."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Linear(4, 20)

    def forward(self, features):
        weights = self.weights(features).mean(0).reshape(4, 5)
        return torch.addmm(torch.zeros(5), features, weights)


def hooked():
    layer = nn.Linear(4, 5)
    layer.register_full_backward_hook(lambda _, __, outer: (outer[0] @ layer.weight * 2,))
    return layer


@pytest.mark.parametrize(
    "head",
    [
        Weighted(),
        hooked(),
        nn.Sequential(nn.Linear(4, 5), nn.Softmax(1)),
        nn.Sequential(nn.Linear(4, 5), nn.Identity(), nn.Dropout(0.5)).eval(),
        nn.Bilinear(4, 4, 5),
    ],
    ids=["weights of features", "backward hook", "softmax", "behind", "bilinear"],
)
def test_other_heads(head, monkeypatch):
    class Headed(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.head = nn.Conv2d(1, 4, 3), head

        def forward(self, x):
            features = self.convolution(x).relu().mean((2, 3))
            return (
                self.head(features, features)
                if head.__class__ is nn.Bilinear
                else self.head(features)
            )

    network = Headed().eval()
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    short = GradCAM(network, "convolution").attribute(images, 2, relu_attributions=False)
    monkeypatch.setattr(contributions, "before_classes", lambda _: None)
    whole = GradCAM(network, "convolution").attribute(images, 2, relu_attributions=False)
    assert whole.abs().amax() > 0
    torch.testing.assert_close(short, whole, rtol=1e-5, atol=1e-9)


def test_what_has_no_linear_layer():
    features = torch.ones(2, 3, requires_grad=True)
    assert before_classes(features) is None
    assert before_classes(features * 2) is None
    assert before_classes({"scores": features}) is None
    assert before_classes(nn.Linear(3, 2)(features.detach())) is None
    with torch.no_grad():
        assert before_classes(nn.Linear(3, 2)(features)) is None
    assert before_classes(nn.Linear(3, 2)(features)) is not None
    hooked = nn.Linear(3, 2)(features)
    hooked.register_hook(lambda gradient: gradient * 2)
    assert before_classes(hooked) is None
