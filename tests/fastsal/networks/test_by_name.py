"""Networks by name: the same weights as from the function of that name."""

import copy
import sys

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fastsal.networks.by_name import build_network, built_by, named_function
from fastsal.networks.checkpoints import load_state

NETWORK = """
from dataclasses import dataclass

import neighbour
from torch import nn

@dataclass
class Shape:
    channels: int = 4

def build():
    return nn.Sequential(nn.Conv2d(3, Shape().channels, 3), neighbour.activation())

def fail():
    raise KeyError("planted")

three = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    nets = tmp_path / "nets"
    nets.mkdir()
    # Named as a package that is imported already: the file is meant.
    (nets / "torch.py").write_text(NETWORK)
    (nets / "neighbour.py").write_text("from torch.nn import SiLU as activation\n")
    (tmp_path / "in_the_folder.py").write_text("from torch.nn import ReLU as build\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def same_state(first, second):
    states = first.state_dict(), second.state_dict()
    return list(states[0]) == list(states[1]) and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("squeezenet1_1", lambda: torchvision.models.squeezenet1_1(weights=None)),
        (
            "lraspp_mobilenet_v3_large",
            lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large(
                weights=None, weights_backbone=None
            ),
        ),
        (
            "ssdlite320_mobilenet_v3_large",
            lambda: torchvision.models.detection.ssdlite320_mobilenet_v3_large(
                weights=None, weights_backbone=None
            ),
        ),
        ("timm:tf_efficientnet_lite0", lambda: timm.create_model("tf_efficientnet_lite0")),
        ("torchvision.models:squeezenet1_1", torchvision.models.squeezenet1_1),
    ],
)
def test_a_name_builds_what_its_library_does(name, build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        named = build_network(name)
        torch.manual_seed(0)
        expected = build()
    assert type(named) is type(expected)
    assert same_state(named, expected)


def test_a_file_and_the_current_folder(folder):
    network = build_network("nets/torch.py:build")
    assert [type(layer) for layer in network] == [nn.Conv2d, nn.SiLU]
    assert build_network(f"{folder}/nets/torch.py:build")[0].out_channels == 4
    assert sys.modules["torch"] is torch
    assert isinstance(build_network("in_the_folder:build"), nn.ReLU)


def test_pretrained_asks_for_the_published_weights(monkeypatch):
    asked = []

    def builder(name, **keywords):
        asked.append((name, keywords))
        return nn.Identity()

    monkeypatch.setattr(torchvision.models, "get_model", builder)
    build_network("googlenet", pretrained=True)
    build_network("googlenet")
    build_network("fcn_resnet50")
    assert asked == [
        ("googlenet", {"weights": "DEFAULT"}),
        ("googlenet", {"weights": None, "init_weights": False}),
        ("fcn_resnet50", {"weights": None, "weights_backbone": None}),
    ]

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(
        ValueError,
        match=r"cannot build 'resnet18' with its pretrained weights: no route .*; load a file",
    ):
        build_network("resnet18", pretrained=True)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s}])
def test_weights_from_a_file(folder, wrap):
    saved = build_network("nets/torch.py:build")
    torch.save(wrap(saved.state_dict()), folder / "state.pt")
    loaded = build_network("nets/torch.py:build", folder / "state.pt", pretrained=True)
    assert same_state(loaded, saved)


def test_weights_cannot_run_code(folder):
    torch.save(build_network("nets/torch.py:build"), folder / "whole.pt")
    with pytest.raises(ValueError, match=r"weights whole.pt: it holds pickled Python objects"):
        build_network("nets/torch.py:build", "whole.pt")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet9000", r"torchvision has no model 'resnet9000'; give .*timm:NAME"),
        ("timm:resnet9000", r"cannot build 'timm:resnet9000': Unknown model \(resnet9000\)"),
        ("absent:build", r"'absent:build' cannot be imported: No module named 'absent'"),
        ("nets/absent.py:build", r"cannot be imported: there is no file .*absent\.py"),
        ("nets/torch.py:absent", r"has no attribute 'absent'"),
        ("nets/torch.py:three", r"is of type int, not a function"),
        ("nets/torch.py:fail", r"cannot make a network from 'nets/torch.py:fail': 'planted'"),
        ("builtins:dict", r"'builtins:dict' returned dict, not a torch.nn.Module"),
    ],
)
def test_errors_name_what_was_given(name, message):
    with pytest.raises(ValueError, match=message):
        build_network(name)


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_an_absent_package_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"needs {package}: pip install {package}"):
        build_network({"torchvision": "resnet18", "timm": "timm:resnet18"}[package])


def test_a_function_keeps_its_arguments():
    assert named_function("torch.nn:Linear")(2, 3).out_features == 3


@pytest.mark.parametrize(
    ("function", "with_ten", "without"),
    [
        (lambda num_classes=1000: num_classes, 10, 1000),
        (lambda width=16, classes=7: (width, classes), (16, 10), (16, 7)),
        (lambda classes: classes, 10, None),
        (lambda n: n, 10, None),
        (lambda n, /: n, 10, None),
        (lambda *, num_classes: num_classes, 10, None),
        (lambda: "none", "none", "none"),
        (lambda width=16: width, 16, 16),
        (lambda *sizes: sizes, (10,), ()),
        (lambda *, weights=None, **more: (weights, more), (None, {"num_classes": 10}), (None, {})),
        (nn.Identity, nn.Identity, nn.Identity),
    ],
)
def test_a_function_gets_the_number_of_classes_if_it_takes_it(function, with_ten, without):
    def same(found, expected):
        return isinstance(found, expected) if expected is nn.Identity else found == expected

    assert same(built_by(function, "zoo:net", 10), with_ten)
    if without is not None:
        assert same(built_by(function, "zoo:net"), without)
    else:
        with pytest.raises(ValueError, match="takes the number of classes, which is not known"):
            built_by(function, "zoo:net")


@pytest.mark.parametrize("wrapper", [nn.DataParallel, AveragedModel])
def test_either_side_may_be_wrapped(wrapper):
    saved, plain = nn.Linear(3, 2), nn.Linear(3, 2)
    wrapped = wrapper(nn.Linear(3, 2))
    load_state(wrapped, saved.state_dict(), "net", "net.pt")
    assert torch.equal(wrapped.module.weight, saved.weight)
    load_state(plain, wrapped.state_dict(), "net", "net.pt")
    assert same_state(plain, saved)


def test_a_network_whose_part_is_called_module_keeps_its_names():
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.head = nn.Linear(2, 2), nn.Linear(2, 2)
            # Without `module` both names would be one.
            self.module.head = nn.Linear(2, 2)

    first, second = Part(), Part()
    load_state(second, first.state_dict(), "part", "part.pt")
    assert same_state(first, second)


def test_weights_that_do_not_fit_are_named_and_change_nothing():
    network = nn.BatchNorm2d(3)
    before = copy.deepcopy(network)
    state = {"weight": torch.zeros(4), "bias": torch.ones(3), "extra": torch.zeros(1)}
    message = r"net.pt do not fit model 'net': weight is \(4,\) there and \(3,\) here; running_mea"
    with pytest.raises(ValueError, match=message):
        load_state(network, state, "net", "net.pt")
    assert same_state(network, before)
