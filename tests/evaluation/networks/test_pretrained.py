"""Pretrained weights: their sources, their normalisation, and weights that do not fit."""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision import models

from evaluation.networks.build import build_network, state_hash
from evaluation.networks.pretrained import Weights, empty_network

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIZE = (32, 32)


@pytest.fixture
def published(monkeypatch):
    """ResNet-18's published weights as if they were of 8 classes, without a download."""
    entry = models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setitem(entry.meta, "categories", [str(name) for name in range(8)])
    state = build_network("resnet18", 8, 5, size=SIZE).state_dict()
    asked = []

    def fetch(url, *args, **kwargs):
        asked.append(url)
        return state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    return state, asked


def test_torchvision_s_weights_are_those_that_their_enum_names(published):
    state, asked = published
    weights = Weights("resnet18", "torchvision:IMAGENET1K_V1")
    network = weights.network(8, SIZE)
    assert asked == [models.ResNet18_Weights.IMAGENET1K_V1.url]
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, state[name]), name
    assert weights.normalisation == IMAGENET
    assert weights.in_spec() == {
        "weights": "torchvision:IMAGENET1K_V1",
        "normalisation": [list(values) for values in IMAGENET],
    }
    assert Weights("resnet18", "torchvision:DEFAULT").normalisation == IMAGENET


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_googlenet_keeps_its_own_normalisation():
    # Its published weights expect another one, which the network makes itself.
    state = build_network("googlenet", 8, 0, size=(64, 64))
    assert not state.transform_input
    assert empty_network("torchvision:IMAGENET1K_V1", "googlenet", 8, (64, 64)).transform_input
    assert not empty_network("weights.pt", "googlenet", 8, (64, 64)).transform_input


def test_timm_s_weights_are_those_of_the_tag(monkeypatch):
    timm = pytest.importorskip("timm")
    made, create = [], timm.create_model

    def without_network(name, pretrained=False, **options):
        made.append((name, pretrained))
        torch.manual_seed(3)
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", without_network)
    weights = Weights("timm:resnet10t", "timm:c3_in1k")
    network = weights.network(1000, (64, 64))
    assert made[-1] == ("resnet10t.c3_in1k", True)
    torch.manual_seed(3)
    expected = create("resnet10t", pretrained=False)
    assert state_hash(network) == state_hash(expected)
    config = timm.get_pretrained_cfg("resnet10t.c3_in1k")
    assert weights.normalisation == (tuple(config.mean), tuple(config.std))


def test_a_file_is_known_by_its_contents(tmp_path):
    network = build_network("resnet9", 8, 3, size=SIZE)
    plain, wrapped = tmp_path / "plain.pt", tmp_path / "checkpoint.pt"
    torch.save(network.state_dict(), plain)
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, wrapped)
    for path in (plain, wrapped):
        weights = Weights("resnet9", str(path))
        assert state_hash(weights.network(8, SIZE)) == state_hash(network)
        assert weights.in_spec() == {
            "weights": str(path),
            "weights_hash": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
        }


@pytest.mark.parametrize(
    ("model", "expect", "normalisation"),
    [
        ("resnet9", "published", None),
        ("resnet50", "published", IMAGENET),
        ("resnet50", "data", None),
        ("timm:resnet18", "published", IMAGENET),
        ("torch.nn:Linear", "published", None),
    ],
)
def test_what_a_file_s_network_expects(tmp_path, model, expect, normalisation):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"")
    assert Weights(model, str(path), expect).normalisation == normalisation


HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class _Compiled(nn.Module):
    """The names of `torch.compile`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._orig_mod = network


def _parallel_stage(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    network.stage1 = nn.DataParallel(network.stage1)
    return network


WRAPPED = {
    "DataParallel": nn.DataParallel,
    "compiled": _Compiled,
    "DataParallel of compiled": lambda network: nn.DataParallel(_Compiled(network)),
    "compiled DataParallel": lambda network: _Compiled(nn.DataParallel(network)),
    "averaged": AveragedModel,
    "a part in DataParallel": _parallel_stage,
}


def test_a_given_normalisation_is_the_file_s(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"")
    weights = Weights("resnet50", str(path), given=HALF)
    assert weights.normalisation == HALF
    assert weights.in_spec()["normalisation"] == [[0.5] * 3] * 2


def test_a_normalisation_beside_another_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="have a normalisation of their own"):
        Weights("resnet18", "torchvision:DEFAULT", given=HALF)
    with pytest.raises(ValueError, match="give a file without --weights-expect"):
        Weights("resnet18", str(path), "data", HALF)
    with pytest.raises(ValueError, match=r"--weights-std .*: expected three numbers above 0"):
        Weights("resnet18", str(path), given=(HALF[0], (0.5, 0.0, 0.5)))


@pytest.mark.parametrize("wrap", WRAPPED, ids=WRAPPED)
def test_a_wrapped_network_s_file_is_the_network_s(wrap, tmp_path):
    network = build_network("resnet9", 8, 3, size=SIZE)
    torch.save(WRAPPED[wrap](network).state_dict(), tmp_path / "weights.pt")
    loaded = Weights("resnet9", str(tmp_path / "weights.pt")).network(8, SIZE)
    assert state_hash(loaded) == state_hash(network)


def test_a_file_without_counters_of_batches(tmp_path):
    """As PyTorch saved BatchNorm before version 0.4.1."""
    network = build_network("resnet9", 8, 3, size=SIZE)
    old = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "weights.pt")
    loaded = Weights("resnet9", str(tmp_path / "weights.pt")).network(8, SIZE)
    assert state_hash(loaded) == state_hash(network)


@pytest.mark.parametrize(
    ("model", "source", "message"),
    [
        ("resnet18", "gone.pt", "weights 'gone.pt': there is no such file; expected torchvision:"),
        (
            "resnet18",
            "torchvision:V9",
            "'resnet18' has no weights 'V9' in torchvision: there are t",
        ),
        ("resnet9", "torchvision:DEFAULT", "model 'resnet9' is none of torchvision's"),
        ("resnet18", "timm:a1_in1k", "'timm:a1_in1k' are not those of model 'resnet18'"),
        ("timm:resnet18", "timm:nope", "has no weights 'nope' in timm: there are timm:a1_in1k"),
        ("timm:resnet18", "torchvision:DEFAULT", "are not those of model 'timm:resnet18'"),
    ],
)
def test_weights_that_are_not_there_are_named(model, source, message):
    with pytest.raises(ValueError, match=message):
        Weights(model, source)


def test_another_normalisation_is_named():
    with pytest.raises(ValueError, match="normalisation 'imagenet': expected one of published, da"):
        Weights("resnet18", "torchvision:DEFAULT", "imagenet")


def test_published_weights_of_other_classes_are_refused_before_they_are_fetched():
    weights = Weights("resnet18", "torchvision:DEFAULT")
    with pytest.raises(ValueError, match="are for 1000 classes, the images have 8"):
        weights.network(8, SIZE)


def test_without_a_network_one_message_says_what_to_do(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    message = r"cannot be fetched \(Name or service not known\): fetch them where there is a netw"
    with pytest.raises(ValueError, match=message):
        Weights("resnet18", "torchvision:DEFAULT").network(1000, SIZE)


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_files_that_do_not_fit_say_where(tmp_path, capsys):
    path = tmp_path / "weights.pt"
    weights_of = {name: build_network("resnet9", 8, 0, size=SIZE).state_dict() for name in "abc"}
    weights_of["a"]["head.weight"] = torch.zeros(5, 128)
    del weights_of["b"]["head.bias"]
    weights_of["c"]["head.scale"] = torch.zeros(1)
    messages = {
        "a": "they are of 5 classes, and resnet9 has 8; give weights of 8, or as the model",
        "b": "head.bias is missing",
        "c": "head.scale is not of this network",
    }
    for name, state in weights_of.items():
        torch.save(state, path)
        with pytest.raises(ValueError, match=messages[name]):
            Weights("resnet9", str(path)).network(8, SIZE)
    torch.save(build_network("resnet20", 8, 0, size=SIZE).state_dict(), path)
    with pytest.raises(ValueError, match=r"is missing; .* and \d+ more"):
        Weights("resnet9", str(path)).network(8, SIZE)
    path.write_bytes(b"not a state dict")
    with pytest.raises(ValueError, match="cannot be read as a state dict"):
        Weights("resnet9", str(path)).network(8, SIZE)
    torch.save({"weight": Evil()}, path)
    with pytest.raises(ValueError, match=r"it holds pickled Python objects .*may run code"):
        Weights("resnet9", str(path)).network(8, SIZE)
    assert capsys.readouterr().out == ""


def test_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    for content in (torch.zeros(3), [1, 2], {"a": 1}):
        torch.save(content, path)
        with pytest.raises(ValueError, match="as a state dict, it holds"):
            Weights("resnet9", str(path)).network(8, SIZE)


def test_a_network_of_timm_by_its_name():
    pytest.importorskip("timm")
    first, second, other = (
        build_network("timm:resnet10t", 6, seed, size=SIZE) for seed in (0, 0, 1)
    )
    assert state_hash(first) == state_hash(second) != state_hash(other)
    assert first(torch.zeros(2, 3, *SIZE)).shape == (2, 6)
    with pytest.raises(ValueError, match="'timm:nonet' cannot be built for 6 classes"):
        build_network("timm:nonet", 6, 0, size=SIZE)
    assert np.isfinite(first.state_dict()["fc.weight"].numpy()).all()


@pytest.mark.parametrize("form", ["checkpoint.pt", "weights.safetensors"])
def test_files_are_read_in_the_forms_that_people_have(form, tmp_path):
    saved = build_network("resnet9", 8, 1, size=SIZE).state_dict()
    parallel = {f"module.{name}": weight for name, weight in saved.items()}
    if form == "checkpoint.pt":
        torch.save({"state_dict": parallel, "epoch": 3}, tmp_path / form)
    else:
        save_file(parallel, tmp_path / form)
    loaded = Weights("resnet9", str(tmp_path / form)).network(8, SIZE).state_dict()
    for name, weight in saved.items():
        assert torch.equal(loaded[name], weight)
