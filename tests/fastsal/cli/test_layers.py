"""`fastsal layers` on every kind of network that has a name, against find_scales."""

import re
import sys

import pytest
import torch

from fastsal import candidates
from fastsal.cli.main import main
from fastsal.networks.by_name import build_network

NETWORKS = """
import torch
from torch import nn
import torch.nn.functional as F

class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.stage = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.last, self.relu = nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU()

    def forward(self, x):
        x = self.relu(self.stage(self.relu(self.stem(x))))
        return F.relu(self.last(x)).mean((2, 3))

class ByFunctions(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.third = nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, x):
        x = F.silu(self.first(x))
        x = self.second(x)
        return (self.third(x) + x).sigmoid().mul(x).mean((2, 3))

class Moving(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x):
        x = F.relu(self.stem(x[:, :, 8:, :40].flip(3)))
        return F.relu(self.last(x)).mean((2, 3))

def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))

def raises():
    class Raising(nn.Module):
        def forward(self, x):
            raise KeyError("planted")
    return Raising()
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    path = tmp_path / "networks.py"
    path.write_text(NETWORKS)
    return path


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        (
            "squeezenet1_1",
            ["features.1", "features.4", "features.7", "classifier.2"],
        ),
        (
            "lraspp_mobilenet_v3_large",
            [*(f"backbone.{k}.block.0" for k in (2, 4, 7)), "backbone.16"],
        ),
        (
            "fasterrcnn_mobilenet_v3_large_320_fpn",
            [*(f"backbone.body.{k}.block.0" for k in (2, 4, 7, 13)), "backbone.body.16"],
        ),
        (
            "timm:tf_efficientnet_lite0",
            [*(f"blocks.{k}.0.bn1" for k in (1, 2, 3, 5)), "bn2"],
        ),
    ],
)
def test_networks_of_libraries(name, chosen, capsys):
    assert main(["layers", name, "--size", "64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("yes")] == chosen


def test_a_file_with_every_column(file, capsys):
    assert main(["layers", f"{file}:Reused", "--size", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.split(" {2,}", line) for line in lines] == [
        ["layer", "shape", "stride", "sign", "chosen"],
        ["stem", "4x8x8", "1", "signed"],
        ["relu", "4x8x8", "1", "non-negative", "yes"],
        ["stage", "4x4x4", "2", "signed"],
        ["relu (its call 1, from 0)", "4x4x4", "2", "non-negative", "yes"],
        ["last", "4x2x2", "4", "signed"],
        ["last (then a ReLU function)", "4x2x2", "4", "non-negative", "yes"],
    ]


def test_what_functions_make_is_told_from_the_module_before(file, capsys):
    assert main(["layers", f"{file}:ByFunctions", "--size", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    chosen = [re.split(" {2,}", line)[0] for line in lines if line.endswith("yes")]
    assert chosen == ["second (its input)", "third (then 3 functions)"]


def test_every_candidate_is_a_row(file, capsys):
    network = build_network(f"{file}:Reused")
    torch.save(network.state_dict(), file.parent / "state.pt")
    main(["layers", f"{file}:Reused", "--size", "8", "--weights", str(file.parent / "state.pt")])
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = candidates(network, image)
    printed = capsys.readouterr().out.splitlines()[1:]
    assert len(printed) == len(found)
    for line, candidate in zip(printed, found, strict=True):
        scale = candidate.scale
        assert line.split()[0] == scale.name
        assert "x".join(str(side) for side in scale.shape[1:]) in line.split()
        assert ("non-negative" in line) == (not scale.signed)
        assert line.endswith("yes") == candidate.chosen


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "flat",
            "flat: found no candidate for a spatial scale: no tensor on the way has locations",
        ),
        ("raises", "raises does not run on a 8x8 image: 'planted'"),
    ],
)
def test_why_there_are_none(file, function, message, capsys):
    assert main(["layers", f"{file}:{function}", "--size", "8"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastsal: ")
    assert message in line


def test_places_in_words(file, capsys):
    assert main(["layers", f"{file}:Moving", "--size", "64"]) == 0
    lines = [re.split(" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["layer", "shape", "stride", "sign", "place", "chosen"]
    assert {line[4] for line in lines[1:]} == {"rows 8 to 64, columns 0 to 40, mirrored"}
