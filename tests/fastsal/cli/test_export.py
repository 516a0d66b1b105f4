"""`fastsal export` and `fastsal layers` of an ONNX file, and what goes wrong in one line."""

import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from fastsal import SMOEScale
from fastsal.cli.main import main

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:layer.* give negative activations"),
]


def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 10, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(10, 5),
        ).eval()


def write(network, path, example, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (example,), path, dynamo=False, input_names=["x"], **options)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(small(), "net.onnx", torch.rand(1, 3, 32, 32), output_names=["scores"])
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_a_file_with_its_map(capsys):
    assert main(["export", "net.onnx", "--out", "m.onnx", "--scale-weights", "1,3", "--lovi"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    size = Path("m.onnx").stat().st_size / 1e6
    assert line.startswith(
        f"m.onnx: scores, map, scale_1, scale_2, lovi; {size:.1f} MB, the file's own outputs equal "
        "bit by bit, the maps to "
    )
    assert line.endswith("; read: /1/Relu_output_0, /4/Relu_output_0")
    inputs = torch.rand(1, 3, 32, 32)
    (found,) = onnxruntime.InferenceSession("m.onnx").run(["map"], {"x": inputs.numpy()})
    expected = SMOEScale(small(), weights=[1, 3]).maps(inputs).combined
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-3)
    # A second time the file is not replaced unawares.
    assert main(["export", "net.onnx", "--out", "m.onnx"]) == 1
    assert capsys.readouterr().err == "fastsal: m.onnx is there already; --overwrite replaces it\n"
    assert main(["export", "net.onnx", "--out", "m.onnx", "--overwrite"]) == 0


@pytest.mark.usefixtures("folder")
def test_the_tensors_that_can_be_read(capsys):
    assert main(["layers", "net.onnx"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "shape", "stride", "sign", "chosen"]
    assert [line.split()[0] for line in lines if line.endswith("yes")] == [
        "/1/Relu_output_0",
        "/4/Relu_output_0",
    ]
    names = ["/0/Conv_output_0", "/3/Conv_output_0"]
    assert main(["export", "net.onnx", "--out", "m.onnx", "--layers", *names]) == 0
    assert capsys.readouterr().out.endswith(f"; read: {', '.join(names)}\n")


@pytest.mark.usefixtures("folder")
def test_a_name_that_is_taken_is_said(capsys):
    write(small(), "taken.onnx", torch.rand(1, 3, 32, 32), output_names=["map"])
    assert main(["export", "taken.onnx", "--out", "m.onnx"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("m.onnx: map, map_2, scale_1, scale_2; ")
    assert line.endswith("; 'map' is taken in the file, and the map's is 'map_2'\n")


@pytest.mark.usefixtures("folder")
def test_openvino(capsys):
    pytest.importorskip("openvino")
    command = ["export", "net.onnx", "--format", "openvino"]
    assert main([*command, "--out", "m.xml"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(
        "m.xml: scores, map, scale_1, scale_2; 0.1 MB, equal to onnxruntime's to"
    )
    assert main([*command, "--out", "m.onnx"]) == 1
    assert "OpenVINO's file ends in .xml, got m.onnx" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_a_network_of_one_scale_is_told_in_one_line(capsys):
    network = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.GELU(), nn.Flatten(), nn.Linear(512, 2))
    write(network, "one.onnx", torch.rand(1, 3, 32, 32))
    assert main(["export", "one.onnx", "--out", "m.onnx"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastsal: one.onnx: found 1 spatial scale(s), expected two or more: ")
    assert line.endswith("_output_0 alone")


def wrong(name):
    """Write a file in which something is wrong."""
    if name == "text.onnx":
        Path(name).write_text("no protobuf")
    elif name == "empty.onnx":
        Path(name).write_bytes(b"")
    elif name == "flat.onnx":
        write(nn.Linear(4, 2), name, torch.rand(1, 4))
    elif name == "tokens.onnx":
        write(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), name, torch.rand(1, 3, 8, 8))
    elif name == "away.onnx":
        model = onnx.load("net.onnx")
        onnx.save(model, name, save_as_external_data=True, location="w.bin", size_threshold=0)
        Path("w.bin").unlink()
    elif name == "broken.onnx":
        model = onnx.load("net.onnx")
        model.graph.node[0].op_type = "Convolve"
        onnx.save(model, name)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text.onnx"], "text.onnx is no ONNX file: "),
        (["empty.onnx"], "empty.onnx is no ONNX file: it has no graph of operators"),
        (["none.onnx"], "No such file or directory: 'none.onnx'"),
        (["away.onnx"], "away.onnx has its weights in 'w.bin', which is not beside it: put that"),
        (["broken.onnx"], "broken.onnx: onnxruntime does not take the file: "),
        (["flat.onnx"], "flat.onnx has no image among its inputs, expected one of shape (N, C, H"),
        (["tokens.onnx"], "tokens.onnx: found no candidate for a spatial scale: "),
        (["net.onnx", "--layers", "/1/Relu_out"], "named '/1/Relu_out'; did you mean '/1/Relu_o"),
        (["net.onnx", "--layers", "scores"], "tensor 'scores' has shape (1, 5), expected (N, C, "),
        (["net.onnx", "--scale-weights", "1,2,3"], "net.onnx: expected 2 weights"),
        (["net.onnx", "--statistic", "truncnormal_std"], "defined before the ReLU"),
        (["net.onnx", "--method", "fastcam"], "--method fastcam needs the weights of the network"),
        (["net.onnx", "--dynamic-batch"], "--dynamic-batch is for a network of PyTorch; net.onnx"),
        (["net.onnx", "--opset", "18"], "--opset is for a network of PyTorch; net.onnx has its"),
        (["net.onnx", "--random-weights"], "--random-weights is for a network of PyTorch"),
        (["net.onnx", "--out", "net.onnx", "--overwrite"], "net.onnx is the file itself, which"),
        (["net.onnx", "--out", "no/m.onnx"], "No such file or directory: 'no'"),
    ],
)
def test_what_goes_wrong_is_one_line(arguments, message, capsys):
    wrong(arguments[0])
    out = [] if "--out" in arguments else ["--out", "m.onnx"]
    assert main(["export", *arguments, *out]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastsal: ")
    assert message in line
    assert len(line) < 500
    assert not Path("m.onnx").exists()


@pytest.mark.usefixtures("folder")
def test_absent_packages_are_named_together(monkeypatch, capsys):
    for module in ("onnxscript", "openvino"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(["export", "net.onnx", "--format", "openvino", "--out", "m.xml"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("export needs onnxscript, openvino: pip install onnxscript openvino")
