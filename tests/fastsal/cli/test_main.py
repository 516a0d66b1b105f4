"""The command line: its listing of layers, and its errors. Its maps are in test_maps."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastsal.cli.main import main

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
    return 3"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "planted_network.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("one.png")
    Path("corrupt.png").write_bytes(Path("one.png").read_bytes()[:200])
    Path("maps").mkdir()
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


@pytest.mark.parametrize(("size", "scales"), [(64, 5), (33, 5), (32, 4)])
def test_layers_of_a_torchvision_network(capsys, size, scales):
    """Five scales; of 32 pixels layer4 has one location, which tells no place from another."""
    assert main(["layers", "resnet18", "--size", str(size)]) == 0
    lines = capsys.readouterr().out.splitlines()
    chosen = [line.split()[0] for line in lines if line.endswith("yes")]
    assert chosen == ["relu", "layer1", "layer2", "layer3", "layer4"][:scales]


@pytest.mark.usefixtures("folder")
def test_layers_of_a_network_with_one_scale(capsys):
    assert main(["layers", "planted_network:flat", "--size", "16"]) == 0
    assert (
        "found 1 spatial scale(s), expected two or more: the network keeps one"
        in capsys.readouterr().out
    )


MODEL = ["--model", "planted_network:build", "--size", "20"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["layers", "resnet9000"], "torchvision has no model 'resnet9000'"),
        (["layers", "absent_module:build"], "'absent_module:build' cannot be imported"),
        (["layers", "planted_network:absent"], "has no attribute 'absent'"),
        (["layers", "planted_network:nothing"], "returned int, not a torch.nn.Module"),
        (
            ["layers", "planted_network:grey", "--size", "8", "--channels", "3"],
            "does not run on a 8x8 image",
        ),
        (["maps", "corrupt.png", *MODEL, "--out", "m"], "no map could be made of any image"),
        (["maps", "missing.png", *MODEL, "--out", "m"], "no file or folder missing.png"),
        (["maps", "maps", *MODEL, "--out", "m"], "no image files in maps"),
        (["maps", "one.png", *MODEL, "--out", "m", "--layers", "nine"], "no layer named 'nine'"),
        (["maps", "one.png", *MODEL, "--out", "one.png"], "one.png"),
        (["maps", "one.png", *MODEL, "--out", "m", "--target", "1"], "--method fastcam"),
        (["maps", "one.png", *MODEL, "--out", "m", "--cam", "gradcam"], "--method fastcam"),
        (
            ["maps", "one.png", *MODEL, "--out", "m", "--method", "fastcam", "--target", "cat"],
            "no class is called 'cat'; give the number of the class, since the names",
        ),
        (["maps", "one.png", *MODEL, "--out", "m", "--scale-weights", "1,2,3"], "2 weights"),
        (["maps", "one.png", *MODEL, "--out", "m", "--scale-weights", "square"], "'square'"),
        (["maps", ".", *MODEL, "--out", "."], "give --out another folder"),
        (["maps", "one.png", *MODEL, "--out", "m", "--device", "abacus"], "abacus"),
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


@pytest.mark.usefixtures("folder")
def test_absent_packages_are_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert main(["maps", "one.png", *MODEL, "--out", "m"]) == 1
    assert "needs pillow: pip install pillow" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["maps"], "fastsal maps: the following arguments are required: IMAGE_OR_FOLDER, --model"),
        (["maps", "x.png", "--out", "m"], "are required: --model; fastsal maps --help"),
        (["paint"], "fastsal: argument COMMAND: invalid choice: 'paint'"),
        (
            ["maps", "x.png", "--size", "big"],
            "--size: expected a whole number above 0, got 'big': give pixels, or 'original'",
        ),
        (["layers", "x", "--size", "-3"], "argument --size: expected a whole number above 0"),
        (["maps", "x.png", "--smoothing", "2"], "from 0 up to but not 1, got '2'"),
        (["maps", "x.png", "--smoothing", "much"], "from 0 up to but not 1, got 'much'"),
    ],
)
def test_wrong_usage_is_one_line_and_exits_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert line.endswith("--help lists the options")
    assert len(line) < 200


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("resnet51", "torchvision has no model 'resnet51'; did you mean 'resnet50'"),
        ("ResNet-18", "; did you mean 'resnet18'"),
        ("timm:resnet51", "timm has no model 'resnet51'; did you mean 'resnet51q', 'resnet50' or"),
        ("resnet18d", "torchvision has no model 'resnet18d'; timm has it: give timm:resnet18d"),
        ("net.py", "'net.py' is a file: give its function as net.py:FUNCTION"),
    ],
)
def test_a_mistyped_model_is_asked_after(name, question, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("net.py").touch()
    assert main(["maps", "one.png", "--model", name, "--out", "m"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert question in line
    assert len(line) < 200


def test_a_mistyped_layer_is_asked_after(tmp_path, monkeypatch, capsys):
    """Of a network with 126 layers, whose names together are 2,000 characters."""
    monkeypatch.chdir(tmp_path)
    for command in (["maps", "one.png", "--model", "resnet50"], ["export", "resnet50"]):
        arguments = [*command, "--random-weights", "--layers", "layer1", "layre4", "--out", "m"]
        assert main(arguments) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert "resnet50 has no layer named 'layre4'; did you mean 'layer4'" in line
        assert "`fastsal layers resnet50` lists those that can be read" in line
        assert len(line) < 200


@pytest.mark.usefixtures("folder")
def test_absent_packages_are_named_together(monkeypatch, capsys):
    for module in ("torchvision", "PIL", "safetensors", "onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)
    weights = ["--weights", "net.safetensors"]
    assert main(["maps", "one.png", "--model", "resnet18", *weights, "--out", "m"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "fastsal: maps needs torchvision, safetensors, pillow: "
        "pip install torchvision safetensors pillow"
    )
    assert main(["export", "planted_network:build", "--out", "m.onnx"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("needs onnx, onnxruntime: pip install onnx onnxruntime")


def test_help_lists_what_is_registered(capsys):
    from fastsal.cam.registry import CAMS
    from fastsal.maps.normalization import NORMALIZATIONS
    from fastsal.statistics.registry import STATISTICS

    with pytest.raises(SystemExit):
        main(["maps", "--help"])
    shown = "".join(capsys.readouterr().out.split())
    for registry in (CAMS, NORMALIZATIONS, STATISTICS):
        assert "{" + ",".join(sorted(registry)) + "}" in shown
