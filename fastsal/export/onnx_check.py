"""Compare an ONNX file's outputs in onnxruntime with those of its module in PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.arguments.inputs import KINDS
from fastsal.export.model import ModelWithMap
from fastsal.maps.resize import LINEAR
from fastsal.networks.hooks import tensors_in
from fastsal.optional import needed, one_line


class ExportError(ValueError):
    """A model that cannot be written as ONNX, or whose file gives other outputs."""


def unseen_inputs(
    example: tuple[Tensor, ...], dynamic_batch: bool, dynamic_size: bool
) -> Iterator[tuple[Tensor, ...]]:
    """Yield random inputs in the example's range, which the export has not seen.

    Args:
        example: The inputs that the module was exported with.
        dynamic_batch: Yields a batch of 1 and one of 4.
        dynamic_size: Yields images of the example's size and larger ones.

    Example:
        >>> example = (torch.rand(2, 3, 16, 16),)
        >>> [tuple(image.shape) for (image,) in unseen_inputs(example, False, True)]
        [(2, 3, 16, 16), (2, 3, 48, 80)]
    """
    generator = torch.Generator("cpu").manual_seed(1)
    counts = (1, 4) if dynamic_batch else (len(example[0]),)
    for count in counts:
        for added in (0, 32) if dynamic_size else (0,):
            yield tuple(
                _random(tensor, count, added * (tensor.dim() in KINDS), generator)
                for tensor in example
            )


def _random(tensor: Tensor, count: int, added: int, generator: torch.Generator) -> Tensor:
    """Return images of smooth patches with some noise, in a tensor's range.

    Args:
        tensor: The example.
        count: The number of images.
        added: The pixels by which they are higher than the example; they are twice that wider.
        generator: The source of random numbers.
    """
    shape = [count, *tensor.shape[1:]]
    if added:
        # The last side grows most, so that no two stay equal.
        sides = range(1, len(shape) - 1)
        shape[2:] = [side + added * factor for side, factor in zip(shape[2:], sides, strict=True)]
    if not tensor.is_floating_point():
        return tensor[:1].expand(shape).contiguous()
    values = smooth_images(shape, generator) if tensor.dim() in KINDS else _rand(shape, generator)
    low, high = tensor.min().cpu(), tensor.max().cpu()
    return (low + (high - low) * values).to(tensor)


def smooth_images(shape: list[int], generator: torch.Generator) -> Tensor:
    """Return random images in [0, 1]; noise alone looks alike everywhere, its map is rounding.

    Args:
        shape: (N, C, H, W); of volumes (N, C, D, H, W), of signals (N, C, T).
        generator: The source of random numbers.
    """
    noise = _rand(shape, generator)
    coarse = _rand([*shape[:2], *[4] * (len(shape) - 2)], generator)
    return 0.9 * F.interpolate(coarse, size=shape[2:], mode=LINEAR[len(shape)]) + 0.1 * noise


def _rand(shape: list[int], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device="cpu", dtype=torch.float32)


def largest_difference(
    module: ModelWithMap, file: Path, batches: Iterable[tuple[Tensor, ...]], own: int
) -> float:
    """Return the largest difference between onnxruntime's outputs and PyTorch's.

    A difference is a share of the output's largest magnitude. The model's own outputs count by
    their largest difference, maps by their mean one: where an activation is within rounding of 0,
    its logarithm is not, and at single locations PyTorch itself is some thousandths from float64.

    Args:
        module: The exported module.
        file: Its ONNX file.
        batches: The inputs that are tried.
        own: The number of the model's own outputs, which come first.

    Returns:
        The difference; NaN if any output is NaN.

    Raises:
        ExportError: If onnxruntime does not run the file.
        ImportError: If onnxruntime is not installed.
    """
    runtime: Any = needed("onnxruntime", "an ONNX file")
    distances = [0.0]
    for inputs in batches:
        with torch.no_grad():
            expected = list(tensors_in(module(*inputs)))
        # onnxruntime raises many classes, whose one common base is Exception.
        try:
            session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            names = [given.name for given in session.get_inputs()]
            arrays = [tensor.cpu().numpy() for tensor in inputs]
            made = session.run(None, dict(zip(names, arrays, strict=True)))
        except Exception as error:
            raise ExportError(f"onnxruntime does not run the file: {one_line(error)}") from error
        for index, (ours, theirs) in enumerate(zip(expected, made, strict=True)):
            ours = ours.cpu().double()
            difference = (ours - torch.from_numpy(theirs)).abs()
            distance = difference.amax() if index < own else difference.mean()
            magnitude = ours.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
            distances.append((distance / magnitude).item())
    # Unlike the built-in maximum, NaN for NaN.
    return torch.tensor(distances, device="cpu", dtype=torch.float64).amax().item()
