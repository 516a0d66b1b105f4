"""The settings of an attributor, and its public names beside those of Captum."""

import copy
from dataclasses import replace

import torch
from captum.attr._utils.attribution import InternalAttribution
from torch import nn

from fastsal import SMOEScale


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1),
        nn.ReLU(),
    )


def test_smoe_scale_shows_its_maps_and_settings_beside_captums_methods():
    attributor = SMOEScale(network())
    captums = InternalAttribution(network(), None)
    shown = {name for name in dir(attributor) if not name.startswith("_")}
    assert shown - set(dir(captums)) == {
        "attribute",
        "attribute_future",
        "maps",
        "settings",
    }


def test_assigned_settings_hold_for_this_attributor_alone():
    net, images = network(), torch.rand(2, 3, 8, 8)
    attributor = SMOEScale(net)
    linear = attributor.attribute(images)
    other = copy.copy(attributor)
    other.settings = replace(other.settings, weights="equal")
    equal = SMOEScale(net, weights="equal").attribute(images)
    assert not torch.equal(linear, equal)
    for _ in range(2):
        assert torch.equal(other.attribute(images), equal)
        assert torch.equal(attributor.attribute(images), linear)
