"""The map in an ONNX file that exists: scales are PyTorch's, the file's own outputs as before."""

import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastsal import SMOEScale, find_scales
from fastsal.export.onnx import map_nodes
from fastsal.export.onnx_check import ExportError
from fastsal.images.colour import lovi
from fastsal.networks.by_name import build_network
from fastsal.networks.hooks import held
from fastsal.networks.layers import NamedLayer
from fastsal.networks.scales import ScalesError
from fastsal.networks.state import evaluation_pass

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from fastsal.export.onnx_graph import write_map_into  # noqa: E402
from fastsal.export.onnx_graph.traced import traced_graph  # noqa: E402

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:layer.* give negative activations"),
]
helper = onnx.helper


def images(count, side, seed=0, wider=0):
    """Random patches and some noise, so that no two places of an image are alike."""
    generator = torch.Generator().manual_seed(seed)
    size = (side, side + wider)
    patches = F.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size=size)
    return 0.9 * patches + 0.1 * torch.rand(count, 3, *size, generator=generator)


def calibrated(network, side=64):
    """The network with BatchNorm that keeps activations from vanishing."""
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.momentum = 1.0
    with torch.no_grad():
        network.train()(images(4, side))
    return network.eval()


def export(network, example, path, dynamo=False, **options):
    """Write a network alone, as its user does."""
    names = [f"x{index}" for index in range(len(example))] if isinstance(example, tuple) else ["x"]
    logging.disable(logging.CRITICAL)
    try:
        with (
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
            warnings.catch_warnings(),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network, example, str(path), dynamo=dynamo, input_names=names, **options
            )
    finally:
        logging.disable(logging.NOTSET)
    return path


def run(path, **inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    given = {name: np.asarray(value) for name, value in inputs.items()}
    return dict(zip(names, session.run(None, given), strict=True))


def assert_near(found, expected, tolerance=1e-3):
    """To a thousandth of the scale of values."""
    expected = torch.as_tensor(expected)
    atol = tolerance * expected.abs().max().item()
    torch.testing.assert_close(torch.as_tensor(found), expected, rtol=0, atol=atol)


class Small(nn.Module):
    """Two scales, of a class of activation function."""

    def __init__(self, activation=nn.ReLU):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 10, 3, padding=1)
            self.head = nn.Linear(10, 5)
        self.act = activation()

    def forward(self, x):
        x = F.max_pool2d(self.act(self.one(x)), 2)
        return self.head(self.act(self.two(x)).mean((2, 3)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        sizes = [3, 8, 16, 24]
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(sizes)
        )
        self.bottom = nn.Sequential(nn.Conv2d(24, 32, 3, padding=1), nn.ReLU())
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a + b, b, 3, padding=1), nn.ReLU())
            for a, b in ((32, 24), (24, 16), (16, 8))
        )
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        kept = []
        for part in self.down:
            kept.append(part(x))
            x = F.max_pool2d(kept[-1], 2)
        x = self.bottom(x)
        for part, skip in zip(self.up, reversed(kept), strict=True):
            x = part(torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1))
        return self.last(x)


def scale_tensors(network, scales, inputs):
    """The tensors that hooks read of the scales of a network."""
    taps = [NamedLayer.of_scale(one).tap(torch.clone) for one in scales]
    with torch.no_grad(), held(taps, (inputs,)) as readings, evaluation_pass(network):
        network(inputs)
    tensors = [one.gathered(None) for one in readings]
    return [
        one.channels_first(tensor.relu() if one.functional_relu else tensor)
        for one, tensor in zip(scales, tensors, strict=True)
    ]


def check(network, path, side, map_too=True):
    """The file's scales are those of the network; its map is that of SMOEScale."""
    inputs = images(1, side, seed=5)
    scales = find_scales(network, inputs)
    expected = scale_tensors(network, scales, inputs)
    found = [one for one in traced_graph(path, side).candidates() if one.chosen]
    assert len(found) == len(scales)
    model = onnx.load(path)
    names = [one.scale.name for one in found]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    handed = session.run(names, {"x": inputs.numpy()})
    for one, array, tensor in zip(found, handed, expected, strict=True):
        assert_near(one.scale.channels_first(torch.from_numpy(array)), tensor)
    if not map_too:
        return
    written = write_map_into(path, path.with_name("map.onnx"), size=side)
    made = run(written.path, x=inputs)
    maps = SMOEScale(network).maps(inputs)
    assert_near(made["map"], maps.combined)
    alone = run(path, x=inputs)
    for name, values in alone.items():
        assert made[name].tobytes() == values.tobytes()


NETWORKS = [
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0",
    "timm:tf_efficientnet_lite0", "densenet121", "vgg16_bn", "convnext_tiny", "regnet_y_400mf",
    "googlenet", "shufflenet_v2_x1_0", "swin_t",
]  # fmt: skip


def network_of(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return calibrated(UNet() if name == "unet" else build_network(name), 96)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NETWORKS, "unet"])
def test_the_scales_of_a_file_are_those_of_the_network(name, tmp_path):
    side = 224 if name in ("swin_t", "vgg16_bn") else 96
    network = network_of(name)
    path = export(network, images(1, side), tmp_path / "net.onnx", opset_version=17)
    check(network, path, side)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large", "convnext_tiny", "unet"])
def test_the_scales_of_a_file_of_the_newer_exporter(name, tmp_path):
    network = network_of(name)
    path = export(network, images(1, 96), tmp_path / "net.onnx", dynamo=True, external_data=False)
    check(network, path, 96, map_too=False)


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU, nn.LeakyReLU, nn.ELU, nn.Mish, nn.PReLU],
)
def test_activation_functions(activation, tmp_path):
    network = Small(activation).eval()
    path = export(network, images(1, 32), tmp_path / "net.onnx", opset_version=17)
    check(network, path, 32, map_too=False)


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 20, 23])
def test_operator_sets(opset, tmp_path):
    network = Small().eval()
    path = export(
        network, images(1, 32), tmp_path / "net.onnx", dynamo=opset > 18, opset_version=opset
    )
    assert opset in [one.version for one in onnx.load(path).opset_import if not one.domain]
    written = write_map_into(path, tmp_path / "map.onnx", size=32, lovi=True)
    assert written.opset == max(opset, 12)
    inputs = images(1, 32, seed=3)
    maps = SMOEScale(network).maps(inputs)
    made = run(written.path, x=inputs)
    assert_near(made["map"], maps.combined)
    assert_near(made["lovi"], lovi(maps.stacked))
    assert written.identical
    onnx.checker.check_model(onnx.load(written.path), full_check=True)
    nodes = onnx.load(written.path).graph.node
    own = [node for node in nodes if node.name not in set(map_nodes(written.path))]
    if opset >= 12:
        assert own == list(onnx.load(path).graph.node)


def test_open_numbers_and_sizes(tmp_path):
    network = Small().eval()
    axes = {"x": {0: "images", 2: "rows", 3: "columns"}}
    path = export(
        network, images(2, 32), tmp_path / "net.onnx", opset_version=17, dynamic_axes=axes
    )
    written = write_map_into(path, tmp_path / "map.onnx", size=32)
    for count, side, wider in ((1, 32, 0), (5, 48, 16)):
        inputs = images(count, side, seed=count, wider=wider)
        made = run(written.path, x=inputs)
        maps = SMOEScale(network).maps(inputs)
        assert_near(made["map"], maps.combined)
        for index, one in enumerate(maps.per_scale, 1):
            assert_near(made[f"scale_{index}"], one, 5e-3)
    output = next(one for one in onnx.load(written.path).graph.output if one.name == "map")
    dims = [one.dim_param for one in output.type.tensor_type.shape.dim]
    assert dims == ["images", "rows", "columns"]


def test_weights_in_a_file_beside(tmp_path):
    network = Small().eval()
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = export(network, images(1, 32), tmp_path / "in" / "net.onnx", opset_version=17)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    written = write_map_into(path, tmp_path / "out" / "map.onnx", size=32)
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["map.onnx", "map.onnx.data"]
    both = sum(one.stat().st_size for one in (tmp_path / "out").iterdir())
    assert written.file_bytes == both
    (tmp_path / "in" / "w.bin").rename(tmp_path / "in" / "other.bin")
    inputs = images(1, 32, seed=3)
    assert_near(run(written.path, x=inputs)["map"], SMOEScale(network).maps(inputs).combined)
    with pytest.raises(ExportError, match=r"has its weights in 'w.bin', which is not beside it"):
        write_map_into(path, tmp_path / "out" / "again.onnx")


def test_half_precision(tmp_path):
    float16 = pytest.importorskip("onnxruntime.transformers.float16")
    network = Small().eval()
    path = export(network, images(1, 32), tmp_path / "net.onnx", opset_version=17)
    half = tmp_path / "half.onnx"
    onnx.save(float16.convert_float_to_float16(onnx.load(path)), half)
    written = write_map_into(half, tmp_path / "map.onnx", size=32)
    assert written.identical
    inputs = images(1, 32, seed=3)
    made = run(written.path, x=inputs.half())
    assert made["map"].dtype == np.float32
    assert np.abs(made["map"] - SMOEScale(network).maps(inputs).combined.numpy()).mean() < 0.01


def quantized(path, target):
    quantization = pytest.importorskip("onnxruntime.quantization")

    class Images(quantization.CalibrationDataReader):
        batches = iter([{"x": images(1, 32, seed).numpy()} for seed in range(4)])

        def get_next(self):
            return next(self.batches, None)

    quantization.quantize_static(
        str(path), str(target), Images(), quant_format=quantization.QuantFormat.QDQ
    )
    return target


def test_eight_bits(tmp_path):
    network = Small().eval()
    path = export(network, images(1, 32), tmp_path / "net.onnx", opset_version=17)
    int8 = quantized(path, tmp_path / "int8.onnx")
    written = write_map_into(int8, tmp_path / "map.onnx", size=32)
    makers = {name: node for node in onnx.load(int8).graph.node for name in node.output}
    assert [makers[name].op_type for name in written.scales] == ["DequantizeLinear"] * 2
    inputs = images(1, 32, seed=3)
    made = run(written.path, x=inputs)
    for name, values in run(int8, x=inputs).items():
        assert made[name].tobytes() == values.tobytes()
    exact = SMOEScale(network).maps(inputs).combined.flatten()
    ranks = [
        one.flatten().argsort().argsort().double() for one in (exact, torch.as_tensor(made["map"]))
    ]
    assert torch.corrcoef(torch.stack(ranks))[0, 1] > 0.95


def test_a_quantisation_that_rectifies_is_an_activation_function(tmp_path):
    # Without a convolution before it to be fused with, as in DenseNet, the ReLU is left out.
    scale, least = (
        onnx.numpy_helper.from_array(np.array(value), name)
        for value, name in ((np.float32(0.02), "s"), (np.uint8(0), "z"))
    )
    rng = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array(rng.normal(size=size).astype(np.float32), name)
        for name, size in (("w1", (8, 3, 3, 3)), ("w2", (4, 8, 1, 1)), ("w3", (4, 4, 3, 3)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["c1", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
        helper.make_node("Conv", ["dq", "w2"], ["c2"]),
        helper.make_node("MaxPool", ["c2"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w3"], ["c3"]),
        helper.make_node("Relu", ["c3"], ["y"]),
    ]
    graph = helper.make_graph(
        # As tools that add nodes leave them: not in order.
        [*nodes[1:], nodes[0]], "rectified",
        [helper.make_tensor_value_info("x", 1, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", 1, [1, 4, 14, 14])], [scale, least, *weights],
    )  # fmt: skip
    path = tmp_path / "net.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path
    )
    found = {one.scale.name: one for one in traced_graph(path, 32).candidates()}
    assert found["dq"].preferred
    assert found["dq"].operation == "relu"
    assert [name for name, one in found.items() if one.chosen] == ["dq", "y"]


def test_tokens_of_images_of_any_size_are_refused(tmp_path):
    class Unfolded(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 8, 2, 2)
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            x = self.one(x).relu()
            x = self.two(x).flatten(2).transpose(1, 2)
            return self.linear(x).relu().sum(1)

    axes = {"x": {2: "rows", 3: "columns"}}
    example = images(1, 32)
    path = tmp_path / "net.onnx"
    export(Unfolded().eval(), example, path, opset_version=17, dynamic_axes=axes)
    with pytest.raises(ExportError, match="for one size of images, which the file leaves open"):
        write_map_into(path, tmp_path / "map.onnx", size=32)


def test_channels_last_with_a_transpose_in_front(tmp_path):
    network = Small().eval()

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x.permute(0, 3, 1, 2))

    inputs = images(1, 32, seed=3, wider=16)
    path = export(
        Last(), inputs.permute(0, 2, 3, 1).contiguous(), tmp_path / "net.onnx", opset_version=17
    )
    written = write_map_into(path, tmp_path / "map.onnx")
    made = run(written.path, x=inputs.permute(0, 2, 3, 1).contiguous())
    assert_near(made["map"], SMOEScale(network).maps(inputs).combined)


class TwoInputs(nn.Module):
    """A detector: a list of sizes beside the image; boxes and scores, and a mask called "map"."""

    def __init__(self):
        super().__init__()
        self.network = Small()

    def forward(self, sizes, x):
        scores = self.network(x)
        return sizes * scores[:, :2], scores, x.mean(1)


def test_several_inputs_and_outputs_and_names_that_are_taken(tmp_path):
    network = TwoInputs().eval()
    example = (torch.tensor([[32.0, 32.0]]), images(1, 32))
    path = export(
        network, example, tmp_path / "net.onnx", opset_version=17,
        output_names=["boxes", "scores", "map"],
    )  # fmt: skip
    written = write_map_into(path, tmp_path / "map.onnx")
    assert written.outputs[:3] == ("boxes", "scores", "map")
    assert written.outputs[3:] == ("map_2", "scale_1", "scale_2")
    assert written.renamed == {"map": "map_2"}
    inputs = images(1, 32, seed=3)
    made = run(written.path, x0=example[0], x1=inputs)
    assert_near(made["map"], inputs.mean(1))
    assert_near(made["map_2"], SMOEScale(network.network).maps(inputs).combined)


def planted():
    """A graph written by hand: nodes without names, weights that are inputs, an If, a function."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(8, 3, 3, 3)), "w2": rng.normal(size=(10, 8, 3, 3)),
    }  # fmt: skip
    conv = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    branch = [
        helper.make_graph(
            [helper.make_node(kind, ["pooled"], [f"{kind}_out"])], kind, [],
            [helper.make_tensor_value_info(f"{kind}_out", 1, [1, 10, 1, 1])],
        )
        for kind in ("Identity", "Neg")
    ]  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], **conv),
        helper.make_node("Twice", ["c1"], ["fastsal/r1"], domain="own"),
        helper.make_node("MaxPool", ["fastsal/r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], **conv),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch[0], else_branch=branch[1]),
    ]
    constants = [
        onnx.numpy_helper.from_array(value.astype(np.float32), name)
        for name, value in weights.items()
    ]
    constants.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    own = [
        onnx.helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in constants
    ]
    graph = helper.make_graph(
        nodes, "planted", [helper.make_tensor_value_info("x", 1, [1, 3, 32, 32]), *own],
        [helper.make_tensor_value_info("y", 1, [1, 10, 1, 1])], constants,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"],
        [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Add", ["r", "r"], ["b"])],
        opsets[:1],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=opsets, functions=[twice], ir_version=8), weights


def test_functions_branches_nameless_nodes_and_weights_that_are_inputs(tmp_path):
    model, weights = planted()
    onnx.checker.check_model(model)
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    written = write_map_into(path, tmp_path / "map.onnx")
    inputs = images(1, 32, seed=3)
    w1, w2 = (torch.from_numpy(one.astype(np.float32)) for one in weights.values())
    one, two = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 10, 3, padding=1, bias=False)
    one.weight.data, two.weight.data = 2 * w1, w2
    same = nn.Sequential(one, nn.ReLU(), nn.MaxPool2d(2), two, nn.ReLU())
    assert written.scales == ("fastsal/r1", "r2")
    made = run(written.path, x=inputs)
    assert_near(made["map"], SMOEScale(same).maps(inputs).combined)
    assert made["y"].tobytes() == run(path, x=inputs)["y"].tobytes()


def test_a_convolution_s_padding_by_name(tmp_path):
    # As TensorFlow pads: more after the image than before it.
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.normal(size=(8, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("AveragePool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w2"], ["c2"], auto_pad="SAME_UPPER"),
        helper.make_node("Relu", ["c2"], ["y"]),
    ]
    second = onnx.numpy_helper.from_array(rng.normal(size=(4, 8, 3, 3)).astype(np.float32), "w2")
    graph = helper.make_graph(
        nodes, "padded", [helper.make_tensor_value_info("x", 1, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("y", 1, [1, 4, 16, 16])], [weight, second],
    )  # fmt: skip
    path = tmp_path / "net.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path
    )
    scales = [one.scale for one in traced_graph(path, 64).candidates() if one.chosen]
    assert [(one.name, one.stride, one.placement) for one in scales] == [
        ("r", 2, None),
        ("y", 4, None),
    ]


def test_layers_by_tensor_names(tmp_path):
    network = Small().eval()
    path = export(network, images(1, 32), tmp_path / "net.onnx", opset_version=17)
    names = [node.output[0] for node in onnx.load(path).graph.node if node.op_type == "Conv"]
    written = write_map_into(path, tmp_path / "map.onnx", layers=names, weights=(1, 3))
    assert written.scales == tuple(names)
    inputs = images(1, 32, seed=3)
    expected = SMOEScale(network, layers=["one", "two"], weights=[1, 3]).maps(inputs)
    assert_near(run(written.path, x=inputs)["map"], expected.combined)


class Tokens(nn.Module):
    """A plain vision transformer's patches and one layer."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.layer, self.head = nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head((x + F.gelu(self.layer(x))).mean(1))


def test_a_network_without_locations(tmp_path):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU())

        def forward(self, x):
            return self.net(x)

    path = export(Flat().eval(), images(1, 32), tmp_path / "net.onnx", opset_version=17)
    with pytest.raises(ScalesError, match="no tensor on the way has locations"):
        write_map_into(path, tmp_path / "map.onnx")
    assert not (tmp_path / "map.onnx").exists()


@pytest.mark.filterwarnings("ignore:found 1 spatial scale")
def test_one_scale_is_one_scale(tmp_path):
    network = Tokens().eval()
    path = export(network, images(1, 32), tmp_path / "net.onnx", opset_version=17)
    with pytest.warns(UserWarning, match="found 1 spatial scale"):
        written = write_map_into(path, tmp_path / "map.onnx")
    inputs = images(1, 32, seed=3)
    assert_near(run(written.path, x=inputs)["map"], SMOEScale(network).maps(inputs).combined)


def test_outputs_that_differ_are_not_written(tmp_path, monkeypatch):
    from fastsal.export.onnx_graph import insertion

    path = export(Small().eval(), images(1, 32), tmp_path / "net.onnx", opset_version=17)
    before = path.read_bytes()
    monkeypatch.setattr(insertion, "TOLERANCE", -1.0)
    (tmp_path / "map.onnx").write_text("as it was")
    with pytest.raises(ExportError, match=r"maps differ by .*map\.onnx was not written"):
        write_map_into(path, tmp_path / "map.onnx")
    assert (tmp_path / "map.onnx").read_text() == "as it was"
    with pytest.raises(ExportError, match="is the file itself, which stays as it is"):
        write_map_into(path, path)
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["map.onnx", "net.onnx"]


def test_a_map_is_put_in_once(tmp_path):
    path = export(Small().eval(), images(1, 32), tmp_path / "net.onnx", opset_version=17)
    written = write_map_into(path, tmp_path / "map.onnx")
    with pytest.raises(ExportError, match="has its map already"):
        write_map_into(written.path, tmp_path / "again.onnx")
