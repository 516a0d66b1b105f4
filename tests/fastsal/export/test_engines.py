"""The map inside onnxruntime and OpenVINO against SMOEScale, and the operations that it takes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import nn

from fastsal import FastCAM, SMOEScale
from fastsal.export.model import with_fast_cam, with_map
from fastsal.export.one_size import OneSize
from fastsal.export.onnx import map_nodes, write_onnx
from fastsal.maps.normalization import gaussian
from fastsal.networks.scales import Scale

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:layer.* give negative activations"),
]

SIZE = (96, 96)


class Network(nn.Sequential):
    """Three scales: one with sixteen blocks of channels, one of odd channels, one signed."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 18, 3, padding=1),
            nn.BatchNorm2d(18),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(18, 24, 3, padding=1),
            nn.BatchNorm2d(24),
            nn.Hardswish(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, 5),
        )


class Cropped(Network):
    """Sees a part of the image, which moves the maps of every scale."""

    def forward(self, image):
        return super().forward(image[:, :, 8:72, 16:80])


def images(count, size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    patches = F.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size=size)
    return 0.9 * patches + 0.1 * torch.rand(count, 3, *size, generator=generator)


def calibrated(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make()
        with torch.no_grad():
            for _ in range(20):
                network.train()(images(4))
    return network.eval()


@pytest.fixture(scope="module")
def network():
    return calibrated(Network)


def in_onnxruntime(path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, {"input": inputs}), strict=True))


def in_openvino(path):
    openvino = pytest.importorskip("openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(openvino.convert_model(str(path)), "CPU", settings)
    return lambda inputs: {port.get_any_name(): value for port, value in model(inputs).items()}


@pytest.fixture(params=[in_onnxruntime, in_openvino])
def engine(request):
    return request.param


def assert_same_map(found, expected):
    """To a thousandth, and of the same ranks."""
    for ours, theirs in zip(found, expected.numpy(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
        assert spearmanr(ours.ravel(), theirs.ravel()).statistic >= 0.999


@pytest.mark.parametrize(
    ("dynamic", "sizes"), [(False, [SIZE]), (True, [SIZE, (64, 128)])], ids=["one", "any"]
)
def test_an_engine_s_map_is_smoe_scales(network, engine, dynamic, sizes, tmp_path):
    path = tmp_path / "m.onnx"
    module = with_map(network, images(1))
    write_onnx(module, images(1), path, dynamic_batch=dynamic, dynamic_size=dynamic)
    run = engine(path)
    for size in sizes:
        inputs = images(3, size, seed=4)
        expected = SMOEScale(network).maps(inputs)
        for batch in (slice(0, 3), slice(1, 2)) if dynamic else (slice(0, 1), slice(2, 3)):
            found = run(inputs[batch].numpy())
            assert_same_map(found["map"], expected.combined[batch])
            for index, one in enumerate(expected.per_scale, 1):
                assert_same_map(found[f"scale_{index}"], one[batch])


@pytest.mark.parametrize("statistic", ["mean", "std"])
def test_other_statistics(network, engine, statistic, tmp_path):
    path = tmp_path / "m.onnx"
    write_onnx(with_map(network, images(1), statistic=statistic), images(1), path)
    expected = SMOEScale(network, statistic=statistic).maps(images(1, seed=5))
    assert_same_map(engine(path)(images(1, seed=5).numpy())["map"], expected.combined)


def test_another_epsilon(network, engine, tmp_path):
    path = tmp_path / "m.onnx"
    write_onnx(with_map(network, images(1), epsilon=0.1), images(1), path)
    expected = SMOEScale(network, epsilon=0.1).maps(images(1, seed=5))
    assert_same_map(engine(path)(images(1, seed=5).numpy())["map"], expected.combined)


def test_maps_that_the_network_moves(engine, tmp_path):
    cropped, path = calibrated(Cropped), tmp_path / "m.onnx"
    write_onnx(with_map(cropped, images(1), lovi=True), images(1), path)
    inputs = images(1, seed=5)
    found = engine(path)(inputs.numpy())
    np.testing.assert_allclose(
        found["map"], SMOEScale(cropped).maps(inputs).combined, rtol=0, atol=1e-3
    )
    assert (found["map"][0, :8] == 0).all()


@pytest.mark.filterwarnings("ignore:gradcam is 0 everywhere")
def test_fast_cam_with_its_picture(network, engine, tmp_path):
    path = tmp_path / "m.onnx"
    write_onnx(with_fast_cam(network, images(1), target=2, lovi=True), images(1), path)
    inputs = images(1, seed=5)
    found = engine(path)(inputs.numpy())
    expected = FastCAM(network).attribute(inputs, 2)[:, 0].detach()
    np.testing.assert_allclose(found["map"], expected, rtol=0, atol=1e-3)
    assert found["lovi"].shape == (1, 3, *SIZE)


def test_half_precision(network, engine, tmp_path):
    pytest.importorskip("onnxruntime.transformers.float16")
    from fastsal.export.float16 import write_float16

    path = tmp_path / "m.onnx"
    write_onnx(with_map(network, images(1)), images(1), path)
    half = write_float16(path, tmp_path / "half.onnx")
    inputs = images(1, seed=5)
    expected = SMOEScale(network).maps(inputs).combined[0]
    found = engine(half)(inputs.numpy())["map"][0]
    assert spearmanr(found.ravel(), expected.numpy().ravel()).statistic >= 0.999


def test_eight_bits(network, engine, tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    path, small = tmp_path / "m.onnx", tmp_path / "int8.onnx"
    write_onnx(with_map(network, images(1)), images(1), path)

    class Images(quantization.CalibrationDataReader):
        batches = iter([{"input": images(1, seed=seed).numpy()} for seed in range(4)])

        def get_next(self):
            return next(self.batches, None)

    quantization.quantize_static(
        str(path), str(small), Images(), nodes_to_exclude=map_nodes(path), reduce_range=True
    )
    inputs = images(1, seed=5)
    found = engine(small)(inputs.numpy())["map"][0]
    expected = in_onnxruntime(small)(inputs.numpy())["map"][0]
    # The engines round the network differently, and a map is a function of rounded activations.
    assert spearmanr(found.ravel(), expected.ravel()).statistic >= 0.99


@pytest.mark.parametrize(("make", "lovi"), [(Network, False), (Network, True), (Cropped, False)])
def test_the_operations_for_one_size(make, lovi, tmp_path):
    path = tmp_path / "m.onnx"
    module = with_map(calibrated(make), images(1), lovi=lovi)
    write_onnx(module, images(1), path, dynamic_batch=True)
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    names = set(map_nodes(path))
    nodes = [node for node in graph.node if node.name in names]
    operations = {node.op_type for node in nodes}
    assert not operations & {"Split", "Resize"}
    shapes = {
        value.name: tuple(one.dim_value for one in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output)
    }
    wide = [
        node for node in nodes if node.op_type == "Concat" and shapes[node.output[0]][-2:] == SIZE
    ]
    assert bool(wide) == lovi
    # The engine puts no slices together again, and computes constants when it loads the file.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    running = onnx.load(tmp_path / "optimised.onnx").graph.node
    kinds = [node.op_type for node in running]
    # The blocks of channels; the one Split hands out the maps of the scales.
    assert kinds.count("Slice") >= 8 + 4 + 4
    assert kinds.count("Split") <= 1
    assert not [node.name for node in running if "made_" in node.name]
    if not lovi:
        # Sixteen, four and four blocks of channels, and what is done once for all scales.
        assert len([node for node in nodes if "made_" not in node.name]) <= 160


def test_the_map_takes_few_bytes_for_one_size(network, tmp_path):
    path = tmp_path / "m.onnx"
    write_onnx(with_map(network, images(1)), images(1), path)
    onnx.utils.extract_model(str(path), str(tmp_path / "own.onnx"), ["input"], ["output"])
    added = path.stat().st_size - (tmp_path / "own.onnx").stat().st_size
    # As constants the matrices of three scales took 120 kB.
    assert added < 30_000


def test_the_first_scale_is_read_as_soon_as_it_is_made(network, tmp_path):
    path = tmp_path / "m.onnx"
    write_onnx(with_map(network, images(1)), images(1), path)
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    session.run(None, {"input": images(1).numpy()})

    events = json.loads(Path(session.end_profiling()).read_text())
    ran = [event for event in events if event["name"].endswith("_kernel_time")]
    convolutions = [at for at, event in enumerate(ran) if event["args"]["op_name"] == "Conv"]
    first = next(at for at, event in enumerate(ran) if event["name"].startswith("fastsal/"))
    assert first < convolutions[1]


def test_the_normal_cdf_of_all_scales_is_that_of_each():
    generator = torch.Generator().manual_seed(0)
    sizes = [(12, 16), (3, 4), (1, 1), (2, 2)]
    scales = [
        Scale(str(index), nn.Identity(), 0, (2, 4, *size), (1, 1), signed=False)
        for index, size in enumerate(sizes)
    ]
    maps = [torch.rand(2, *size, generator=generator) for size in sizes]
    # Squares of which leave float32's range; a constant map; one with a single location that
    # differs from others by its last digit.
    maps[0][0] *= 1e-30
    maps[0][1] *= 1e30
    maps[1][0] = 0.3
    maps[3][0] = 0
    maps[3][1] = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 2**-23]])
    values = torch.cat([one.reshape(2, 1, -1) for one in maps], 2)
    for found, one in zip(OneSize(scales, (24, 32)).gaussian(values), maps, strict=True):
        torch.testing.assert_close(found, gaussian(one), rtol=0, atol=1e-6)


def test_what_is_not_finite_is_seen_in_its_image_alone(network, engine, tmp_path):
    path = tmp_path / "m.onnx"
    write_onnx(with_map(network, images(2)), images(2), path)
    inputs = images(2, seed=5)
    inputs[0, 0, 3, 3] = torch.inf
    found = engine(path)(inputs.numpy())["map"]
    assert np.isnan(found[0]).any()
    assert_same_map(found[1:], SMOEScale(network).maps(inputs[1:]).combined)
