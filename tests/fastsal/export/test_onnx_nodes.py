"""Constants as nodes, which onnx's reference computes, and slices along a second axis."""

import pytest
import torch
import torch.nn.functional as F

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from fastsal.export import onnx_nodes  # noqa: E402
from fastsal.export.onnx_nodes import keep_slices, write_constants_as_nodes  # noqa: E402


def interpolation(locations, pixels):
    """A matrix by PyTorch's interpolation of each unit vector."""
    return F.interpolate(torch.eye(locations)[None], size=pixels, mode="linear")[0].T.contiguous()


def belonging(counts, dtype):
    return torch.block_diag(*(torch.ones(1, count) for count in counts)).to(dtype)


def padded():
    """Of pixels, some of which lie outside what the network sees."""
    return F.pad(interpolation(14, 100), (0, 0, 20, 30))


CONSTANTS = {
    "twice as large": interpolation(112, 224),
    "no whole factor": interpolation(13, 224),
    "smaller": interpolation(200, 64),
    "with a share": interpolation(28, 224) * (3 / 15),
    "lying": interpolation(56, 224).T.contiguous(),
    "with zeros": padded(),
    "locations of scales": belonging([400, 100, 25, 1], torch.uint8),
    "their averages": belonging([400, 100, 25], torch.float32) / torch.tensor([[400], [100], [25]]),
    "their columns": belonging([400, 100, 25], torch.float32).T.contiguous(),
    "equal": torch.full((1, 1, 960), 1 / 960),
}


def graph_with(constants):
    nodes = [helper.make_node("Identity", [name], [f"out {name}"]) for name in constants]
    for node in nodes:
        node.name = f"fastsal/{node.input[0]}"
    outputs = [helper.make_tensor_value_info(f"out {name}", 0, None) for name in constants]
    initializers = [numpy_helper.from_array(one.numpy(), name) for name, one in constants.items()]
    return helper.make_graph(nodes, "constants", [], outputs, initializers)


def test_the_nodes_make_the_constants():
    # A second time the same one, which is made once.
    constants = {**CONSTANTS, "again": CONSTANTS["no whole factor"]}
    graph = graph_with(constants)
    before = graph.ByteSize()
    write_constants_as_nodes(graph)
    assert not {one.name for one in graph.initializer} & set(constants)
    assert graph.ByteSize() < before / 10
    assert sum(node.op_type == "Relu" for node in graph.node) == 6
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made = ReferenceEvaluator(model).run(None, {})
    for name, found in zip(constants, made, strict=True):
        found, expected = torch.from_numpy(found.copy()), constants[name]
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.max().item())


def test_what_has_no_form_stays():
    generator = torch.Generator().manual_seed(0)
    cubic = F.interpolate(torch.eye(28)[None, None], size=(224, 28), mode="bicubic")[0, 0]
    torn = CONSTANTS["locations of scales"].clone()
    torn[0, 20] = 0
    moved = CONSTANTS["twice as large"].clone()
    moved[7, 50] = 0.5
    others = {
        "random": torch.rand(30, 30, generator=generator),
        "cubic": cubic,
        "torn": torn,
        "moved": moved,
        "small": interpolation(7, 14),
        "not finite": torch.full((300,), torch.nan),
        "negative": -torch.eye(30),
    }
    made = {name: onnx_nodes.nodes_of(one, name) for name, one in others.items()}
    assert made == dict.fromkeys(others)
    # Nor what the network reads too, in a graph inside a node.
    graph = graph_with({"matrix": CONSTANTS["twice as large"]})
    inner = helper.make_graph([helper.make_node("Identity", ["matrix"], ["made"])], "in", [], [])
    graph.node.append(helper.make_node("If", ["condition"], ["chosen"], then_branch=inner))
    assert "matrix" in onnx_nodes.names_read(graph.node[1:])
    write_constants_as_nodes(graph)
    assert [one.name for one in graph.initializer] == ["matrix"]


def test_slices_name_a_second_axis():
    bounds = {"a": [0], "b": [2], "c": [5], "axis": [1], "step": [1]}
    initializers = [
        helper.make_tensor(name, TensorProto.INT64, [1], v) for name, v in bounds.items()
    ]
    rows = [("first", "a", "b"), ("second", "b", "c")]
    nodes = [
        helper.make_node("Slice", ["x", begin, end, "axis", "step"], [name], name=f"fastsal/{name}")
        for name, begin, end in rows
    ]
    # The network's own, which stays.
    nodes.append(helper.make_node("Slice", ["x", "a", "b", "axis", "step"], ["own"], name="own"))
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("first", "second")
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5, 3])
    graph = helper.make_graph(nodes, "slices", [given], values, initializers)
    keep_slices(graph)
    assert list(graph.node[2].input) == ["x", "a", "b", "axis", "step"]
    assert {one.name for one in graph.initializer} >= {"a", "b", "axis", "step"}
    assert "c" not in {one.name for one in graph.initializer}
    constants = {one.name: numpy_helper.to_array(one).tolist() for one in graph.initializer}
    assert constants[graph.node[1].input[3]] == [0, 1]
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    x = torch.arange(30.0).reshape(2, 5, 3)
    first, second = ReferenceEvaluator(model).run(None, {"x": x.numpy()})
    assert first.tolist() == x[:, :2].tolist()
    assert second.tolist() == x[:, 2:].tolist()
