"""The command: its listing against find_scales, its pictures against the library's tensors."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastsal import SMOEScale, find_scales
from fastsal.cli import IMAGENET_MEAN, IMAGENET_STD, main
from fastsal.lovi import heatmap, lovi, overlay

NETWORK = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1), nn.SiLU(),
    )

def flat():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())

def grey():
    return nn.Conv2d(1, 4, 3)

def nothing():
    return 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "planted_network.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([pixels, pixels[:, :, :1]])).save(tmp_path / "alpha.png")
    (tmp_path / "corrupt.png").write_bytes((tmp_path / "one.png").read_bytes()[:200])
    (tmp_path / "other").mkdir()
    Image.fromarray(pixels).save(tmp_path / "other" / "one.png")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_layers_of_an_own_network(capsys):
    assert main(["layers", "planted_network:build", "--size", "16"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["layer", "shape", "stride", "sign", "chosen"],
        ["0", "4x16x16", "1", "signed"],
        ["1", "4x16x16", "1", "non-negative", "yes"],
        ["2", "4x8x8", "2", "non-negative"],
        ["3", "6x8x8", "2", "signed"],
        ["4", "6x8x8", "2", "signed", "yes"],
    ]


def test_layers_of_a_torchvision_network(capsys):
    assert main(["layers", "resnet18", "--size", "32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    chosen = [line.split()[0] for line in lines if line.endswith("yes")]
    assert chosen == ["relu", "layer1", "layer2", "layer3", "layer4"]


@pytest.mark.usefixtures("folder")
def test_layers_of_a_network_with_one_scale(capsys):
    assert main(["layers", "planted_network:flat", "--size", "16"]) == 0
    assert "1 spatial scale(s) found, two or more are needed" in capsys.readouterr().out


def test_maps_are_the_librarys(folder, capsys, monkeypatch):
    images = ["one.png", "corrupt.png", "grey.png", "alpha.png", "other/one.png", "missing.png"]
    arguments = ["maps", "planted_network:build", *images, "--out", "maps", "--size", "20"]
    with pytest.warns(UserWarning, match=r"layer\(s\) 4 give negative"):
        assert main(arguments) == 0
    said = capsys.readouterr()
    assert "skipped corrupt.png" in said.err
    assert "skipped missing.png" in said.err
    written = sorted(path.name for path in (folder / "maps").iterdir())
    stems = ("alpha", "grey", "one", "one-2")
    assert written == sorted(
        f"{stem}_{kind}.png" for stem in stems for kind in ("map", "lovi", "overlay")
    )

    import planted_network

    pixels = np.asarray(Image.open(folder / "one.png")).astype("float32") / 255
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    network = planted_network.build()
    scales = find_scales(network, image)
    with pytest.warns(UserWarning, match="negative activations"):
        maps = SMOEScale(network, scales).maps((image - mean) / std)
    pictures = {
        "map": heatmap(maps.combined),
        "lovi": lovi(maps.stacked),
        "overlay": overlay(image, maps.combined),
    }
    for kind, picture in pictures.items():
        read = np.asarray(Image.open(folder / "maps" / f"one_{kind}.png")).astype(int)
        expected = picture[0].permute(1, 2, 0).mul(255).round().numpy().astype(int)
        assert np.abs(read - expected).max() <= 1


def test_the_shorter_side_is_resized(folder):
    arguments = ["maps", "planted_network:build", "one.png", "--out", "maps", "--size", "10"]
    with pytest.warns(UserWarning, match="negative activations"):
        main(arguments)
    assert Image.open(folder / "maps" / "one_map.png").size == (15, 10)


def test_weights_from_a_file(folder, capsys):
    import planted_network

    network = planted_network.build()
    nn.init.zeros_(network[3].weight)
    torch.save(network.state_dict(), folder / "state.pt")
    arguments = ["maps", "planted_network:build", "one.png", "--out"]
    with pytest.warns(UserWarning, match="negative activations"):
        assert main([*arguments, "a"]) == 0
    with pytest.warns(UserWarning, match="negative activations"):
        assert main([*arguments, "b", "--weights", "state.pt"]) == 0
    assert (folder / "a/one_map.png").read_bytes() != (folder / "b/one_map.png").read_bytes()
    torch.save({"weight": torch.ones(1)}, folder / "wrong.pt")
    capsys.readouterr()
    for wrong in ("wrong.pt", "absent.pt", "one.png"):
        assert main([*arguments, "c", "--weights", wrong]) == 1
        assert f"cannot load {wrong} into planted_network:build" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["layers", "resnet9000"], "torchvision has no model 'resnet9000'"),
        (["layers", "absent_module:build"], "'absent_module:build' cannot be imported"),
        (["layers", "planted_network:absent"], "has no attribute 'absent'"),
        (["layers", "planted_network:nothing"], "returned a int, not a torch.nn.Module"),
        (["layers", "planted_network:grey", "--size", "8"], "does not run on a 8x8 image"),
        (["maps", "planted_network:build", "corrupt.png", "--out", "m"], "none of the 1 image(s)"),
        (
            ["maps", "planted_network:build", "one.png", "--out", "m", "--layers", "nine"],
            "no layer named 'nine'",
        ),
        (["maps", "planted_network:flat", "one.png", "--out", "m"], "found 1 spatial scale(s)"),
        (["maps", "planted_network:build", "one.png", "--out", "one.png"], "one.png"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fastsal: ")
    assert message in error


def test_an_absent_torchvision_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert main(["layers", "resnet18"]) == 1
    assert "needs torchvision: pip install torchvision" in capsys.readouterr().err
