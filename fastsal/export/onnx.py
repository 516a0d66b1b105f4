"""A model with its map as an ONNX file: written, checked, and its map's nodes by name.

The file runs without PyTorch, and without this package:

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
from torch import Tensor

from fastsal.arguments.inputs import Inputs, as_tuple
from fastsal.export.model import ModelWithMap
from fastsal.export.onnx_check import ExportError, largest_difference, unseen_inputs
from fastsal.files import written_whole
from fastsal.networks.hooks import tensors_in
from fastsal.optional import needed, one_line

__all__ = ["ExportError", "Written", "map_nodes", "write_onnx"]

# Of the nodes that make the map, which quantisation has to leave alone.
PREFIX = "fastsal/"
# Beside the largest magnitude of an output.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        path: The file.
        outputs: The names of its outputs, the model's own first.
        file_bytes: Its size.
        difference: The largest over outputs and inputs tried of what onnxruntime differs by from
            PyTorch, as a share of the output's largest magnitude: of the model's own outputs the
            largest difference, of maps the mean one.
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
) -> Written:
    """Write a model with its map as an ONNX file, whole or not at all.

    The file is written beside its place, run in onnxruntime on inputs that the export has not
    seen (a batch of 1 and of 4, and a second size, where these are dynamic) and compared with
    PyTorch; then it takes its place. Its inputs are "input" (of several "input_1", ...), its
    outputs "output" (of several "output_1", ...), "map", "scale_1" to "scale_R" and "lovi" where
    asked for.

    Args:
        module: From `with_map` or `with_fast_cam`.
        example: What the model is called with.
        path: Where the file goes.
        dynamic_batch: Takes any number of images.
        dynamic_size: Takes images of any size that the network takes.
        opset: The ONNX operator set; None takes PyTorch's default.

    Returns:
        What was `Written`.

    Raises:
        ExportError: A ValueError. If the model cannot be exported, an operator has no form in that
            opset, or the file's outputs are not PyTorch's; nothing is written.
        ImportError: If onnx, onnxscript or onnxruntime is not installed.
        OSError: If the file cannot be written.
    """
    path = checked_folder(path)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needed(package, "an ONNX file")
    inputs = as_tuple(example)
    if dynamic_batch and any(len(tensor) < 2 for tensor in inputs):
        # A batch of one is taken for a batch that is always one.
        inputs = tuple(torch.cat([tensor, tensor]) for tensor in inputs)
    with torch.no_grad():
        own = list(tensors_in(module(*inputs)[0]))
    names = _named("output", len(own)), _named("input", len(inputs))
    outputs = (*names[0], *module.outputs)
    axes = tuple(_axes(tensor, dynamic_batch, dynamic_size) for tensor in inputs)
    program = _exported(module, inputs, axes, names[1], outputs, opset)
    onnx: Any = needed("onnx", "an ONNX file")
    proto = program.model_proto
    _strip(proto, own_outputs=set(names[0]))
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
    return Written(path, outputs, path.stat().st_size, difference)


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

    Quantisation should leave these in float32, as `nodes_to_exclude=` of onnxruntime's
    `quantize_static`: a logarithm of a product has no meaning in eight bits. For half precision
    there is `fastsal.export.float16.write_float16`.

    Raises:
        ImportError: If onnx is not installed.
    """
    onnx: Any = needed("onnx", "reading an ONNX file")
    graph = onnx.load(str(path), load_external_data=False).graph
    return [node.name for node in graph.node if node.name.startswith(PREFIX)]


def _named(name: str, count: int) -> tuple[str, ...]:
    return (name,) if count == 1 else tuple(f"{name}_{index}" for index in range(1, count + 1))


def _axes(tensor: Tensor, batch: bool, size: bool) -> dict[int, str]:
    axes = {0: "batch"} if batch else {}
    return {**axes, 2: "height", 3: "width"} if size and tensor.dim() == 4 else axes


def _exported(
    module: ModelWithMap,
    inputs: tuple[Tensor, ...],
    axes: Sequence[dict[int, str]],
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int | None,
) -> Any:
    """Return PyTorch's ONNX program, whatever goes wrong as one message."""
    # Its notes on how it went would stand between the lines of a command.
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
    # The exporter and the network raise whatever their authors chose.
    except Exception as error:
        raise ExportError(_why(error, any(2 in one for one in axes), opset)) from error
    finally:
        logging.disable(disabled)


def _why(error: BaseException, dynamic_size: bool, opset: int | None) -> str:
    """Return an exporter's error in one line, with what can be done about it."""
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


def _strip(proto: Any, own_outputs: set[str]) -> None:
    """Take away what the exporter notes of Python, and mark the nodes of the map."""
    graph = proto.graph
    # What the model's own outputs need is the model; the rest makes the map.
    makers = {name: node for node in graph.node for name in node.output}
    waiting, own = list(own_outputs), set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in own:
            own.add(node.name)
            waiting.extend(node.input)
    for node in graph.node:
        if node.name not in own:
            node.name = PREFIX + node.name
        del node.metadata_props[:]
        node.ClearField("doc_string")
    for noted in (proto, graph, *graph.input, *graph.output, *graph.initializer):
        del noted.metadata_props[:]
    del graph.value_info[:]
