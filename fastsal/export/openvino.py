"""OpenVINO's files (`.xml` and `.bin`) of networks with their maps.

They run without PyTorch and without fastsal:

```python
import numpy as np
import openvino

network = openvino.Core().compile_model("model.xml", "CPU")
images = np.random.rand(1, 3, 224, 224).astype(np.float32)  # scaled as the network expects
made = network(images)
print("class", made["output"][0].argmax())
print("most salient pixel", np.unravel_index(made["map"][0].argmax(), made["map"][0].shape))
```
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastsal.arguments.inputs import Inputs, as_tuple
from fastsal.export.model import ModelWithMap
from fastsal.export.onnx import TOLERANCE, checked_folder, write_onnx
from fastsal.export.onnx_check import ExportError, unseen_inputs
from fastsal.export.onnx_graph.comparison import expected, share_of
from fastsal.export.onnx_graph.graph_file import save_model
from fastsal.export.onnx_graph.insertion import place_map
from fastsal.files import written_together
from fastsal.kernels.constants import EPSILON
from fastsal.maps.prior import Weights
from fastsal.networks.hooks import tensors_in
from fastsal.optional import needed, one_line
from fastsal.statistics.registry import Statistic, StatisticFunction

__all__ = ["OpenvinoFile", "write_openvino", "write_openvino_of_file"]

# Inputs by name, and the outputs that are expected of them: the network's own, then maps.
Batches = Iterable[tuple[Mapping[str, Tensor], Sequence[Any], Sequence[Tensor]]]


@dataclass(frozen=True)
class OpenvinoFile:
    """A pair of files for OpenVINO.

    Attributes:
        path (pathlib.Path): The `.xml` file; the weights are beside it, in `.bin`.
        outputs (tuple of str): The names of its outputs, the network's own first.
        file_bytes (int): The size of both.
        difference (float): The largest difference of OpenVINO's outputs from those of the network
            without OpenVINO, as a share of the output's largest magnitude. The network's own
            outputs count by their largest difference, maps by their mean one.
    """

    path: Path
    outputs: tuple[str, ...]
    file_bytes: int
    difference: float


def write_openvino(
    module: ModelWithMap,
    example: Inputs,
    path: Path | str,
    *,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
) -> OpenvinoFile:
    """Write a model with its map for OpenVINO, both files or none.

    It is written as ONNX first, and converted. Before the files take their places OpenVINO's
    outputs on a CPU, in float32, are compared with PyTorch's on inputs that the export has not
    seen.

    Args:
        module (ModelWithMap): As for `write_onnx`.
        example (torch.Tensor or tuple of torch.Tensor): As for `write_onnx`.
        path (str or pathlib.Path): The `.xml` file; its folder must exist.
        dynamic_batch (bool): As for `write_onnx`. Default: False.
        dynamic_size (bool): As for `write_onnx`. Default: False.

    Returns:
        The `OpenvinoFile`.

    Raises:
        ExportError: A ValueError. As for `write_onnx`; or if OpenVINO does not take the model, or
            its outputs differ by more than 0.001 of their largest magnitude.
        ImportError: If openvino, onnx, onnxscript or onnxruntime is not installed.
        OSError: If a file cannot be written.

    Example:
        ```python
        module = with_map(model, images)
        written = write_openvino(module, images, "model.xml", dynamic_batch=True)
        written.outputs  # ("output", "map", "scale_1", "scale_2", ...)
        ```
    """
    path = _checked_path(path)
    inputs = as_tuple(example)
    with tempfile.TemporaryDirectory() as folder:
        between = Path(folder) / "model.onnx"
        written = write_onnx(
            module, inputs, between, dynamic_batch=dynamic_batch, dynamic_size=dynamic_size
        )
        batches = _of_module(module, between, unseen_inputs(inputs, dynamic_batch, dynamic_size))
        own = len(written.outputs) - len(module.outputs)
        return _convert(between, path, written.outputs, own, batches)


def write_openvino_of_file(
    source: Path | str,
    path: Path | str,
    *,
    layers: Sequence[str] | None = None,
    weights: Weights = "linear",
    statistic: str | Statistic | StatisticFunction = "smoe_scale",
    lovi: bool = False,
    epsilon: float = EPSILON,
    size: int = 224,
) -> OpenvinoFile:
    """Put the map into the network of an ONNX file and write both for OpenVINO.

    Before the files take their places OpenVINO's outputs on a CPU, in float32, are compared with
    those of the ONNX file in onnxruntime, and with the maps that PyTorch makes of its tensors.

    Args:
        source (str or pathlib.Path): The ONNX file, as for `write_map_into`.
        path (str or pathlib.Path): The `.xml` file; its folder must exist.
        layers (sequence of str, optional): As for `write_map_into`. Default: None.
        weights (str, path or sequence of float): As for `write_map_into`. Default: "linear".
        statistic (str, Statistic or Callable): As for `write_map_into`. Default: "smoe_scale".
        lovi (bool): As for `write_map_into`. Default: False.
        epsilon (float): As for `write_map_into`. Default: 1e-6.
        size (int): As for `write_map_into`. Default: 224.

    Returns:
        The `OpenvinoFile`.

    Raises:
        ExportError: A ValueError. As for `write_map_into`; or if OpenVINO does not take the file,
            or its outputs differ by more than 0.001 of their largest magnitude.
        ImportError: If openvino, onnx, onnxscript or onnxruntime is not installed.
        OSError: If a file cannot be read or written.

    Example:
        ```python
        written = write_openvino_of_file("detector.onnx", "detector-map.xml")
        ```
    """
    path = _checked_path(path)
    map_placed = place_map(source, layers, weights, statistic, lovi, epsilon, size)
    with tempfile.TemporaryDirectory() as folder:
        between = Path(folder) / "model.onnx"
        save_model(map_placed.model, map_placed.file, between)
        batches = expected(map_placed.file, map_placed.of, map_placed.images, size)
        outputs = (*map_placed.file.outputs, *map_placed.outputs.values())
        return _convert(between, path, outputs, len(map_placed.file.outputs), batches)


def _checked_path(path: Path | str) -> Path:
    """Return a file's path, if it can be OpenVINO's.

    Raises:
        ExportError: If its name does not end in `.xml`.
        ImportError: If openvino is not installed.
    """
    path = checked_folder(path)
    if path.suffix != ".xml":
        raise ExportError(f"OpenVINO's file ends in .xml, got {path}; the weights go to .bin")
    needed("openvino", "a file of OpenVINO")
    return path


def _of_module(
    module: ModelWithMap, file: Path, batches: Iterable[tuple[Tensor, ...]]
) -> Iterator[tuple[dict[str, Tensor], list[Any], list[Tensor]]]:
    """Yield inputs by their names in a file, with PyTorch's outputs."""
    onnx: Any = needed("onnx", "an ONNX file")
    names = [one.name for one in onnx.load(str(file), load_external_data=False).graph.input]
    for inputs in batches:
        with torch.no_grad():
            output, *maps = module(*inputs)
        own = [tensor.cpu().numpy() for tensor in tensors_in(output)]
        yield dict(zip(names, inputs, strict=True)), own, list(tensors_in(maps))


def make_map_first(model: Any, own: int) -> None:
    """Let an `openvino.Model` make its map before the network's own outputs.

    OpenVINO makes outputs in their order, and each with all that it needs, so that the scales of a
    map behind the network's outputs would be read when they have left the processor's cache. Here
    the first output waits for the map: a Select, whose condition never holds, hands its values on
    as they are. Outputs keep their names and their order, and the network's nodes theirs.

    Args:
        model: The model, whose first outputs are the network's own and the next one the map.
        own: The number of the network's own outputs.

    Raises:
        ImportError: If openvino is not installed.
    """
    operators: Any = needed("openvino.opset13", "a file of OpenVINO", "openvino")
    first, saliency = model.results[0], model.results[own].input_value(0)
    output = first.input_value(0)
    kind = output.get_element_type()
    if not (kind.is_real() or kind.is_integral()):
        return
    pixel = operators.gather(operators.reshape(saliency, [-1], False), 0, 0)
    # Maps are in [0, 1], or NaN, which is greater than nothing.
    never = operators.greater(pixel, operators.constant(2.0, saliency.get_element_type()))
    waiting = operators.select(never, operators.constant(0, kind), output).output(0)
    names = output.get_names()
    output.get_tensor().set_names(set())
    waiting.get_tensor().set_names(names)
    first.input(0).replace_source_output(waiting)
    model.validate_nodes_and_infer_types()


def _convert(
    between: Path, path: Path, outputs: tuple[str, ...], own: int, batches: Batches
) -> OpenvinoFile:
    """Write OpenVINO's files of an ONNX file, if its outputs are those that are expected.

    Raises:
        ExportError: If they are not, or OpenVINO does not take the file.
    """
    openvino: Any = needed("openvino", "a file of OpenVINO")
    weights = path.with_suffix(".bin")
    with written_together(weights, path) as partial:
        # OpenVINO raises RuntimeError and classes of its own.
        try:
            converted = openvino.convert_model(str(between))
            make_map_first(converted, own)
            openvino.save_model(converted, str(partial[1]), compress_to_fp16=False)
            exact = {"INFERENCE_PRECISION_HINT": "f32"}
            network = openvino.Core().compile_model(str(partial[1]), "CPU", exact)
        except Exception as error:
            raise ExportError(f"OpenVINO does not take the file: {one_line(error)}") from error
        difference = _largest_difference(network, batches)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"OpenVINO's outputs differ by {difference:.2g} of their largest magnitude, "
                f"expected {TOLERANCE} at most; {path} was not written"
            )
    size = path.stat().st_size + weights.stat().st_size
    return OpenvinoFile(path, outputs, size, difference)


def _largest_difference(network: Any, batches: Batches) -> float:
    distances = [0.0]
    for inputs, own, maps in batches:
        arrays = {name: tensor.cpu().numpy() for name, tensor in inputs.items()}
        try:
            results = network(arrays)
        except Exception as error:
            raise ExportError(f"OpenVINO does not run the file: {one_line(error)}") from error
        made = [results[output] for output in network.outputs]
        wanted = [*own, *(one.cpu().numpy() for one in maps)]
        for index, (ours, theirs) in enumerate(zip(made, wanted, strict=True)):
            distances.append(share_of(ours, theirs, mean=index >= len(own)))
    # Unlike the built-in maximum, NaN for NaN.
    return torch.tensor(distances, device="cpu", dtype=torch.float64).amax().item()
