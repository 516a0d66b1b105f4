"""An ONNX file with its map beside the file as it was, in onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastsal.export.onnx_check import ExportError
from fastsal.export.onnx_graph.examples import Images
from fastsal.export.onnx_graph.graph_file import GraphFile, as_tensor, load_session
from fastsal.export.onnx_graph.map_graph import MapOf
from fastsal.images.colour import lovi
from fastsal.maps.combination import combine
from fastsal.maps.normalization import gaussian
from fastsal.maps.placing import placed
from fastsal.networks.scales import Scale
from fastsal.optional import one_line
from fastsal.statistics.centred import less_means
from fastsal.statistics.slices import rectified

# The number of images, where a file leaves it open, and the pixels that are added to their size.
COUNTS = (1, 3)
ADDED = (0, 32)


@dataclass(frozen=True)
class Comparison:
    """The outputs of a file with its map, beside those of the file as it was.

    Attributes:
        identical: True if the file's own outputs are the same, bit by bit.
        same_nodes: True if they are so where onnxruntime runs the nodes one by one as written.
        own_difference: The largest difference of the file's own outputs, as a share of the output's
            largest magnitude.
        difference: The largest mean difference of a map from PyTorch's of the same tensors, as a
            share of the map's largest magnitude.
        shapes: The shapes of images that were tried.
    """

    identical: bool
    same_nodes: bool
    own_difference: float
    difference: float
    shapes: tuple[tuple[int, ...], ...]


def compare(file: GraphFile, written: Path, of: MapOf, images: Images, size: int) -> Comparison:
    """Return the differences of outputs on random images that the map was not made with.

    Args:
        file: The file as it was.
        written: The file with the map.
        of: The map.
        images: The inputs of the file.
        size: Height and width of images, where the file leaves them open.

    Raises:
        ExportError: If onnxruntime does not run one of the files.
    """
    after = load_session(written)
    identical = True
    own, maps, shapes = [0.0], [0.0], []
    for example, alone, wanted in expected(file, of, images, size):
        made = _run(after, example)
        for ours, theirs in zip(made, alone, strict=False):
            same = _bits(ours) == _bits(theirs)
            identical &= same
            own.append(0.0 if same else share_of(ours, theirs, mean=False))
        for array, one in zip(made[len(alone) :], wanted, strict=True):
            maps.append(share_of(array, one.numpy(), mean=True))
        shapes.append(tuple(example[images.inputs[images.image].name].shape))
    same_nodes = identical or _same_nodes(file, written, images, size)
    # Unlike the built-in maximum, NaN for NaN.
    largest = [torch.tensor(one, device="cpu", dtype=torch.float64).amax() for one in (own, maps)]
    return Comparison(identical, same_nodes, largest[0].item(), largest[1].item(), tuple(shapes))


def expected(
    file: GraphFile, of: MapOf, images: Images, size: int
) -> Iterator[tuple[dict[str, Tensor], list[Any], list[Tensor]]]:
    """Yield random inputs, the file's own outputs in onnxruntime, and PyTorch's maps.

    The maps are those of the tensors that onnxruntime hands out. Sizes that a file leaves open and
    does not take are left out.

    Args:
        file: The file as it was.
        of: The map.
        images: The inputs of the file.
        size: Height and width of images, where the file leaves them open.

    Raises:
        ExportError: If onnxruntime does not run the file at all.
    """
    alone = file.session()
    names = [scale.name for scale in of.scales]
    handing = file.session(names)
    for index, example in enumerate(_batches(images, size)):
        arrays = {name: tensor.numpy() for name, tensor in example.items()}
        try:
            own = alone.run(None, arrays)
            tensors = handing.run(names, arrays)
        except Exception as error:
            if index:
                continue
            raise ExportError(f"onnxruntime does not run the file: {one_line(error)}") from error
        image = images.channels_first(example[images.inputs[images.image].name])
        side = image.shape[2], image.shape[3]
        yield example, own, maps_of(of, [as_tensor(one) for one in tensors], side)


def maps_of(of: MapOf, tensors: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
    """Return the maps that PyTorch makes of scales' tensors, as `SMOEScale` does.

    Args:
        of: The map.
        tensors: The tensor of each scale.
        size: (H, W) of the image.

    Returns:
        The map `(N, H, W)`, that of each scale, and the LOVI picture if it is wanted.
    """
    per_scale = [
        gaussian(of.statistic(_activations(of, scale, tensor)))
        for scale, tensor in zip(of.scales, tensors, strict=True)
    ]
    placements = [scale.placement for scale in of.scales]
    combined = combine(per_scale, of.weights, size, placements=placements)
    if not of.lovi:
        return [combined, *per_scale]
    laid = [placed(one, place, size) for one, place in zip(per_scale, placements, strict=True)]
    return [combined, *per_scale, lovi(torch.stack(laid, 1))]


def _activations(of: MapOf, scale: Scale, tensor: Tensor) -> Tensor:
    """Return a scale's activations as the statistic is defined on them."""
    activations = scale.channels_first(tensor).float().contiguous()
    if of.statistic.domain == "any":
        return activations
    return rectified(less_means(activations) if scale.linear else activations)


def _batches(images: Images, size: int) -> Iterator[dict[str, Tensor]]:
    """Yield random inputs; of what the file leaves open, several sizes."""
    counts = COUNTS if images.dynamic_batch else COUNTS[:1]
    seed = 0
    for count in counts:
        for added in ADDED if images.dynamic_size else ADDED[:1]:
            seed += 1
            yield images.example(count, size + added, seed, wider=added)


def _run(session: Any, example: dict[str, Tensor]) -> list[Any]:
    arrays = {name: tensor.numpy() for name, tensor in example.items()}
    try:
        made: list[Any] = session.run(None, arrays)
    except Exception as error:
        raise ExportError(f"onnxruntime does not run the file: {one_line(error)}") from error
    return made


def _same_nodes(file: GraphFile, written: Path, images: Images, size: int) -> bool:
    """Return True if nodes that are run one by one give the file's own outputs bit by bit."""
    example = next(_batches(images, size))
    before = _run(file.session(fused=False), example)
    after = _run(load_session(written, fused=False), example)[: len(before)]
    return [_bits(one) for one in before] == [_bits(one) for one in after]


def _bits(array: Any) -> Any:
    """Return an array's type, shape and bytes; of a sequence, those of each."""
    if isinstance(array, (list, tuple)):
        return [_bits(one) for one in array]
    if not hasattr(array, "tobytes"):
        return array
    return str(array.dtype), array.shape, array.tobytes()


def share_of(array: Any, expected: Any, mean: bool) -> float:
    """Return the largest or the mean difference as a share of the largest magnitude."""
    if isinstance(array, (list, tuple)):
        pairs = zip(array, expected, strict=True)
        return max((share_of(one, other, mean) for one, other in pairs), default=0.0)
    if array.shape != expected.shape:
        return float("nan")
    ours, theirs = as_tensor(array).double(), as_tensor(expected).double()
    difference = (ours - theirs).abs()
    distance = difference.mean() if mean else difference.amax()
    magnitude = theirs.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
    return float(distance / magnitude)
