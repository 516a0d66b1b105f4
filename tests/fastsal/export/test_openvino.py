"""OpenVINO's files: its outputs beside PyTorch's, of a network and of an ONNX file."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastsal import SMOEScale
from fastsal.export import with_map
from fastsal.export.onnx_check import ExportError

openvino = pytest.importorskip("openvino")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
from fastsal.export import openvino as openvino_file  # noqa: E402
from fastsal.export.openvino import write_openvino, write_openvino_of_file  # noqa: E402

pytestmark = pytest.mark.heavy
ROOT = Path(__file__).parents[3]


def images(count, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    patches = F.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size=(height, width))
    return 0.9 * patches + 0.1 * torch.rand(count, 3, height, width, generator=generator)


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 10, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(10, 5),
        ).eval()


def run(path, inputs):
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.Core().compile_model(str(path), "CPU", exact)
    made = network([inputs.numpy()])
    return {output.any_name: torch.from_numpy(made[output].copy()) for output in network.outputs}


def assert_near(found, expected, tolerance=1e-3):
    atol = tolerance * expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def test_a_network(network, tmp_path):
    module = with_map(network, images(1, 32, 32))
    written = write_openvino(
        module, images(1, 32, 32), tmp_path / "m.xml", dynamic_batch=True, dynamic_size=True
    )
    assert written.outputs == ("output", "map", "scale_1", "scale_2")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["m.bin", "m.xml"]
    assert written.file_bytes == sum(one.stat().st_size for one in tmp_path.iterdir())
    for shape in ((1, 32, 32), (3, 48, 40)):
        inputs = images(*shape, seed=3)
        made, maps = run(written.path, inputs), SMOEScale(network).maps(inputs)
        assert_near(made["output"], maps.logits)
        assert_near(made["map"], maps.combined)


def test_the_map_is_made_first_and_the_outputs_keep_their_order(network, tmp_path):
    module = with_map(network, images(1, 32, 32))
    written = write_openvino(module, images(1, 32, 32), tmp_path / "m.xml")
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(written.path), "CPU", exact)
    assert tuple(output.any_name for output in compiled.outputs) == written.outputs
    ran = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ordered_ops()]
    ran.sort(key=lambda facts: int(facts["execOrder"].astype(str)))
    layers = [facts["originalLayersNames"].astype(str) for facts in ran]
    kinds = [facts["layerType"].astype(str) for facts in ran]
    first = next(at for at, names in enumerate(layers) if "fastsal/" in names)
    second_layer = [at for at, kind in enumerate(kinds) if kind == "Convolution"][1]
    assert first < second_layer


def test_an_onnx_file(network, tmp_path):
    source = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, images(1, 32, 32), str(source), dynamo=False, output_names=["scores"]
        )
    written = write_openvino_of_file(source, tmp_path / "m.xml", weights=[1, 3])
    inputs = images(1, 32, 32, seed=3)
    made, maps = run(written.path, inputs), SMOEScale(network, weights=[1, 3]).maps(inputs)
    assert tuple(made) == written.outputs == ("scores", "map", "scale_1", "scale_2")
    assert_near(made["scores"], maps.logits)
    assert_near(made["map"], maps.combined)
    # The file's own output, which waits for the map, is what it was.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    alone = openvino.Core().compile_model(openvino.convert_model(str(source)), "CPU", exact)
    assert torch.equal(made["scores"], torch.from_numpy(alone(inputs.numpy())["scores"].copy()))


def test_what_is_refused(network, tmp_path, monkeypatch):
    module = with_map(network, images(1, 32, 32))
    with pytest.raises(ExportError, match=r"ends in \.xml, got .*m\.onnx"):
        write_openvino(module, images(1, 32, 32), tmp_path / "m.onnx")
    monkeypatch.setattr(openvino_file, "TOLERANCE", -1.0)
    with pytest.raises(ExportError, match=r"OpenVINO's outputs differ by .*m\.xml was not written"):
        write_openvino(module, images(1, 32, 32), tmp_path / "m.xml")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match="needs openvino: pip install openvino"):
        write_openvino(module, images(1, 32, 32), tmp_path / "m.xml")


def blocks():
    """The code that the documents show for running the files."""
    page = ROOT / "docs" / "how-to" / "export.md"
    texts = {"module": openvino_file.__doc__, "page": page.read_text()}
    for name, text in texts.items():
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            if "import openvino" in block:
                yield pytest.param(block, id=name)


@pytest.mark.parametrize("block", list(blocks()))
def test_the_lines_that_run_the_files_without_pytorch(block, network, tmp_path):
    example = images(1, 224, 224)
    write_openvino(with_map(network, example), example, tmp_path / "model.xml")
    blocked = (
        "import sys\nsys.modules['torch'] = sys.modules['fastsal'] = None\nimport numpy as np\n"
    )
    given = f"np.random.rand = lambda *shape: np.random.default_rng(0).random(shape)\n{block}"
    done = subprocess.run(
        [sys.executable, "-c", blocked + given], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    inputs = torch.from_numpy(np.random.default_rng(0).random((1, 3, 224, 224)).astype(np.float32))
    assert re.match(r"class \d\nmost salient pixel \(", done.stdout)
    row, column = map(int, re.findall(r"\d+", re.sub(r"int64", "", done.stdout.splitlines()[1])))
    combined = SMOEScale(network).maps(inputs).combined
    # The processor may compute in bfloat16.
    assert combined[0, row, column] > combined.max() - 0.05
