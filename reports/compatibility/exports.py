"""A network with its map as one module, as a program of torch.export and as an ONNX file."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn

from fastsal.export.model import ModelWithMap, with_fast_cam, with_map
from fastsal.export.onnx import write_onnx
from fastsal.optional import needed

__all__ = ["difference", "difference_of_onnx", "difference_of_program", "takes_fast_cam"]


def difference(module: ModelWithMap, image: Tensor, expected: Tensor) -> float:
    """Return the largest difference of a module's map to that of `SMOEScale`.

    Args:
        module: of `with_map`.
        image: `(1, C, *grid)`.
        expected: the map `(1, *grid)`.
    """
    with torch.no_grad():
        return _largest(module(image)[1], expected)


def difference_of_program(module: ModelWithMap, image: Tensor, expected: Tensor) -> float:
    """Return the same of what `torch.export` makes of the module.

    Raises:
        Exception: as torch.export raises it, of many classes.
    """
    with _quiet(), torch.no_grad():
        program = torch.export.export(module, (image,)).module()
        return _largest(program(image)[1], expected)


def difference_of_onnx(network: nn.Module, image: Tensor, expected: Tensor) -> float:
    """Return the same of the ONNX file, run by onnxruntime.

    Raises:
        ExportError: a ValueError, if the model cannot be exported.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    runtime = needed("onnxruntime", "the map of an ONNX file", "onnx")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "network.onnx"
        write_onnx(with_map(network, image), image, path)
        session = runtime.InferenceSession(str(path))
        (found,) = session.run(["map"], {session.get_inputs()[0].name: image.numpy()})
        return _largest(torch.from_numpy(found), expected)


def takes_fast_cam(network: nn.Module, image: Tensor) -> bool:
    """Return True if `with_fast_cam` takes a network.

    Raises:
        ValueError: it does not; the message says why.
    """
    with _quiet():
        with_fast_cam(network, image)
    return True


def _largest(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and the graphs that exporters print."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        yield
