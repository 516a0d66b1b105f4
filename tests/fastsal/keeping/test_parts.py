"""The modules of a network, and those whose attributes a forward pass may set."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torchvision.ops import Conv2dNormActivation

from fastsal.keeping.parts import changing, parts


class Named(nn.Conv2d):
    """A class with data and a constructor of its own alone."""

    kind = "named"

    def __init__(self):
        super().__init__(1, 1, 1)


class Padded(nn.Conv2d):
    """A class that changes one step of PyTorch's forward pass."""

    def _conv_forward(self, inputs, weight, bias):
        self.seen = inputs.shape
        return super()._conv_forward(inputs, weight, bias)


class Reading(nn.ReLU):
    """A class with an attribute that is computed when it is read."""

    @property
    def inplace(self):
        self.__dict__["reads"] = self.__dict__.get("reads", 0) + 1
        return False

    @inplace.setter
    def inplace(self, _):
        pass


def test_parts_are_those_of_modules():
    shared = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(1, 1, 1)))
    network = nn.Sequential(shared, shared, nn.Sequential(), nn.Sequential(shared[1]))
    assert set(parts(network)) == set(network.modules())
    assert len(parts(network)) == len(list(network.modules()))
    network.register_module("nothing", None)
    shared.register_module("later", None)
    assert set(parts(network)) == set(network.modules())
    # A part that leads back to the whole.
    network[2].add_module("parent", network)
    assert set(parts(network)) == set(network.modules())


def test_what_changes_in_a_pass():
    same = [nn.Conv2d(1, 1, 1), nn.Sequential(), Named(), Conv2dNormActivation(1, 1), nn.GRU(1, 1)]
    normed = weight_norm(nn.Conv2d(1, 1, 1))
    other = [Padded(1, 1, 1), Reading(), normed]
    assert changing([*same, *other]) == other
    for register in ("register_forward_hook", "register_forward_pre_hook"):
        hooked = nn.ReLU()
        handle = getattr(hooked, register)(lambda *_: None)
        assert changing([*same, hooked]) == [hooked]
        handle.remove()
        assert changing([hooked]) == []


def test_attributes_of_classes_that_change_nothing_are_left(small_network, small_images, maker):
    class Inner(nn.Sequential):
        pass

    network = small_network()
    model = Inner(Padded(3, 3, 1), network)
    model[0].weight.data.copy_(torch.eye(3)[..., None, None])
    model[0].bias.data.zero_()
    maker(model.eval()).attribute(small_images, 1)
    assert "seen" not in vars(model[0])
