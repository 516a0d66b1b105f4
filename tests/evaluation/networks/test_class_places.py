"""The classes of images among those of a network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluation.networks import class_places as module
from evaluation.networks.build import initialised_anew
from evaluation.networks.class_places import class_places
from fastsal.networks.preprocessing import Preprocessing

NAMES = ("tench", "English springer", "cassette player", "chain saw", "church")
WNIDS = ("n01440764", "n02102040", "n02979186", "n03000684", "n03028079")
# Of the 1,000 classes of 2012.
PLACES = (0, 217, 482, 491, 497)


def test_names_are_found_among_torchvision_s():
    assert class_places(NAMES, nn.Identity(), "resnet18") == PLACES
    assert class_places(tuple(name.upper() for name in NAMES), nn.Identity(), "resnet18") == PLACES


def test_a_name_of_two_classes_or_of_none_is_not_found(monkeypatch):
    assert class_places(("tench", "unicorn"), nn.Identity(), "resnet18") is None
    assert class_places(NAMES, nn.Identity(), "some.module:function") is None
    known = Preprocessing(classes=("tench", "crane, a bird", "crane, a machine"))
    monkeypatch.setattr(module, "preprocessing_of", lambda *_: known)
    assert class_places(("tench", "crane"), nn.Identity(), "net") is None
    assert class_places(("tench", "a machine"), nn.Identity(), "net") == (0, 2)


def test_wnids_and_names_are_found_among_timm_s():
    timm = pytest.importorskip("timm")
    network = timm.create_model("tf_efficientnet_lite0")
    for classes in (NAMES, WNIDS):
        assert class_places(classes, network, "some.module:function") == PLACES


def test_weights_are_drawn_anew_and_the_network_stays():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    network[1].running_mean.fill_(7.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first, again, other = (initialised_anew(network, seed) for seed in (0, 0, 1))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    assert not torch.equal(first[0].weight, network[0].weight)
    assert first[1].running_mean.abs().max() == 0


def test_weights_of_no_known_initialisation_are_refused():
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.ones(1))

    with pytest.raises(
        ValueError, match=r"the weights of 1 cannot be drawn anew: its module Scale"
    ):
        initialised_anew(nn.Sequential(nn.Conv2d(3, 4, 3), Scale()), 0)
