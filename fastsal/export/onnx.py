"""ONNX files of models with their maps, and the names of the nodes that make a map.

The file runs without PyTorch and without fastsal:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
images = np.random.rand(1, 3, 224, 224).astype(np.float32)  # scaled as the network expects
output, saliency, *per_scale = session.run(None, {"input": images})
print("class", output[0].argmax())
print("most salient pixel", np.unravel_index(saliency[0].argmax(), saliency[0].shape))
print("maps of the scales", [one.shape for one in per_scale])
```
"""

from __future__ import annotations

import errno
import logging
import os
import re
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.arguments.detections import are_selected
from fastsal.arguments.inputs import Inputs, as_tuple
from fastsal.export.model import ModelWithMap
from fastsal.export.onnx_check import ExportError, largest_difference, unseen_inputs
from fastsal.export.onnx_nodes import (
    PREFIX,
    keep_slices,
    mark_map_nodes,
    place_map_nodes,
    remove_metadata,
    write_constants_as_nodes,
)
from fastsal.files import written_whole
from fastsal.networks.hooks import tensors_in
from fastsal.optional import needed, one_line

__all__ = ["ExportError", "OnnxFile", "map_nodes", "write_onnx"]

# The axes that may be dynamic, by the number of dimensions of signals, images and volumes.
DYNAMIC = {3: ("length",), 4: ("height", "width"), 5: ("depth", "height", "width")}
# The largest difference from PyTorch, as a share of an output's largest magnitude.
TOLERANCE = 1e-3
SELECTED = (
    "the model selects its boxes by their scores, as torchvision's detectors do, and as many as "
    "an image has, which no exporter follows: export the part before that, such as model.backbone "
    "or a module that calls model.backbone and model.head, for images that model.transform has "
    "resized and normalised"
)


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that `write_onnx` wrote.

    Attributes:
        path (pathlib.Path): The file.
        outputs (tuple of str): The names of its outputs, the model's own first.
        file_bytes (int): Its size.
        difference (float): The largest difference of onnxruntime's outputs from PyTorch's over the
            inputs that were tried, as a share of the output's largest magnitude. The model's own
            outputs count by their largest difference, maps by their mean one.
    """

    path: Path
    outputs: tuple[str, ...]
    file_bytes: int
    difference: float


def write_onnx(
    module: ModelWithMap,
    example: Inputs,
    path: Path | str,
    *,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
    opset: int | None = None,
) -> OnnxFile:
    """Write a model with its map as an ONNX file, whole or not at all.

    A temporary file beside `path` is run in onnxruntime on inputs that the export has not seen (a
    batch of 1 and one of 4, and a second image size, if these are dynamic) and compared with
    PyTorch; then it replaces `path`. The inputs are named "input", or "input_1", ... if there are
    several; the outputs "output", or "output_1", ..., then "map", "scale_1" to "scale_R", and
    "lovi" if the module returns it.

    Args:
        module (ModelWithMap): A module of `with_map` or `with_fast_cam`.
        example (torch.Tensor or tuple of torch.Tensor): Example inputs of the model.
        path (str or pathlib.Path): The file; its folder must exist.
        dynamic_batch (bool): The file takes any number of images. Default: False.
        dynamic_size (bool): The file takes any image size that the network takes. Default: False.
        opset (int, optional): The version of the ONNX operator set. Default: None, PyTorch's own.

    Returns:
        The `OnnxFile`.

    Raises:
        ExportError: A ValueError, if the model cannot be exported, an operator does not exist in
            the opset, or the outputs differ from PyTorch's by more than 0.001 of their largest
            magnitude. Nothing is written.
        ImportError: If onnx, onnxscript or onnxruntime is not installed.
        OSError: If the file cannot be written.

    Example:
        ```python
        module = with_map(model, images)
        written = write_onnx(module, images, "model.onnx", dynamic_batch=True)
        written.outputs  # ("output", "map", "scale_1", "scale_2", ...)
        ```
    """
    path = checked_folder(path)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needed(package, "an ONNX file")
    inputs = as_tuple(example)
    if dynamic_batch and any(len(tensor) < 2 for tensor in inputs):
        # The exporter takes a batch of one for a constant size.
        inputs = tuple(torch.cat([tensor, tensor]) for tensor in inputs)
    with torch.no_grad():
        output = module(*inputs)[0]
    if are_selected(output):
        raise ExportError(SELECTED)
    own = list(tensors_in(output))
    own_names = _numbered("output", len(own))
    outputs = (*own_names, *module.outputs)
    axes = tuple(_axes(tensor, dynamic_batch, dynamic_size) for tensor in inputs)
    input_names = _numbered("input", len(inputs))
    program = exported_program(module, inputs, axes, input_names, outputs, opset)
    onnx: Any = needed("onnx", "an ONNX file")
    proto = program.model_proto
    remove_metadata(proto)
    mark_map_nodes(proto.graph, own_names)
    keep_slices(proto.graph)
    write_constants_as_nodes(proto.graph)
    place_map_nodes(proto.graph)
    with written_whole(path) as partial:
        try:
            onnx.save(proto, partial)
        except ValueError as error:
            raise ExportError(f"cannot write {path}: {one_line(error)}") from error
        batches = unseen_inputs(inputs, dynamic_batch, dynamic_size)
        difference = largest_difference(module, partial, batches, own=len(own))
        if not difference <= TOLERANCE:
            raise ExportError(
                f"onnxruntime's outputs differ from PyTorch's by {difference:.2g} of their "
                f"largest magnitude, expected {TOLERANCE} at most; {path} was not written. Where "
                "activations vanish, as with some initial weights, maps are made of rounding alone"
            )
    return OnnxFile(path, outputs, path.stat().st_size, difference)


def checked_folder(path: Path | str) -> Path:
    """Return a file's path, if its folder exists.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    return path


def map_nodes(path: Path | str) -> list[str]:
    """Return the names of the nodes in an ONNX file that make its maps.

    Quantisation must leave these nodes in float32, since the logarithm of a product has no meaning
    in eight bits. Give them to onnxruntime's `quantize_static` as `nodes_to_exclude`, with
    `reduce_range=True` for processors without instructions for int8. For half precision there is
    `fastsal.export.float16.write_float16`.

    Args:
        path (str or pathlib.Path): A file of `write_onnx`.

    Returns:
        A list of names.

    Raises:
        ImportError: If onnx is not installed.
        OSError: If the file cannot be read.

    Example:
        ```python
        from onnxruntime.quantization import quantize_static

        nodes = map_nodes("model.onnx")
        quantize_static("model.onnx", "int8.onnx", calibration, nodes_to_exclude=nodes)
        ```
    """
    onnx: Any = needed("onnx", "reading an ONNX file")
    graph = onnx.load(str(path), load_external_data=False).graph
    return [node.name for node in graph.node if node.name.startswith(PREFIX)]


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return (name,) if count == 1 else tuple(f"{name}_{index}" for index in range(1, count + 1))


def _axes(tensor: Tensor, dynamic_batch: bool, dynamic_size: bool) -> dict[int, str]:
    """Return the dynamic axes of an input, by dimension."""
    axes = {0: "batch"} if dynamic_batch else {}
    if not dynamic_size or tensor.dim() not in DYNAMIC:
        return axes
    return axes | dict(enumerate(DYNAMIC[tensor.dim()], 2))


def exported_program(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    axes: Sequence[dict[int, str]],
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int | None,
) -> Any:
    """Return PyTorch's ONNX program of a module.

    Raises:
        ExportError: If the module cannot be exported.
    """
    # The exporter logs and prints its progress, which does not belong in a command's output.
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                input_names=input_names,
                output_names=output_names,
                dynamic_shapes=(tuple(axes),) if any(axes) else None,
                opset_version=opset,
                verbose=False,
            )
    # The exporter and the network raise any class of error.
    except Exception as error:
        raise ExportError(_explained(error, any(2 in one for one in axes), opset)) from error
    finally:
        logging.disable(disabled)


def _explained(error: BaseException, dynamic_size: bool, opset: int | None) -> str:
    """Return an exporter's error in one line, with a hint."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    text = " ".join(str(one) for one in chain)
    missing = re.search(
        r"No (?:ONNX function|decompositions).*?found for <?OpOverload\(op='(.+?)'", text
    )
    if missing:
        at = "" if opset is None else f" {opset}"
        return (
            f"operator {missing[1]} has no form in ONNX's opset{at}; give a later opset, a network "
            "without it, or, where the statistic uses it, another statistic such as smoe_scale"
        )
    hint = "; export it for one size, without the dynamic size" if dynamic_size else ""
    return f"the model cannot be exported: {one_line(chain[-1])}{hint}"
