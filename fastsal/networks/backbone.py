"""A network's trunk: the path from the images down to its coarsest scale, without branches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fastsal.networks.trace import WEIGHTED, Node, Trace

PRODUCTS = ("matmul", "bmm", "einsum")


def image_layout(
    shape: Sequence[int], height: int, width: int, channels_last: bool = False
) -> tuple[bool, int] | None:
    """Return (channels last, octave) of a 4-D shape on an image's grid, None if it is on none.

    The octave is the base-2 logarithm of the stride. The layout whose locations have exactly the
    image's proportions is taken. If both layouts have them, or both have them only roughly,
    `channels_last` decides.

    Args:
        shape: The tensor's shape.
        height: The image's height.
        width: The image's width.
        channels_last: The layout that is tried first.

    >>> image_layout((1, 256, 56, 56), 224, 224), image_layout((1, 7, 7, 768), 224, 224)
    ((False, 2), (True, 5))
    """
    about = None
    for last in (channels_last, not channels_last):
        rows, columns = shape[1:3] if last else shape[2:4]
        if not (0 < rows <= 2 * height and 0 < columns <= 2 * width):
            continue
        octaves = math.log2(height / rows), math.log2(width / columns)
        octave = round(sum(octaves) / 2)
        # After five roundings up, a short side has one location more than its share; and one
        # location is the least that remains of a side, however long it was.
        near = max(abs(rows - height / 2**octave), abs(columns - width / 2**octave)) < 1
        if near:
            return last, octave
        alike = round(octaves[0]) == round(octaves[1]) or abs(octaves[0] - octaves[1]) < 0.6
        if alike and about is None:
            about = last, octave
    return about


def grid_size(trace: Trace) -> tuple[int, int]:
    """Return (H, W) from which strides are counted: the size that the first weights see.

    It differs from the images' size if the network resizes them, as a detection model does.
    """
    nodes = trace.nodes
    batch, channels, height, width = nodes[0].shape or (0, 0, 0, 0)
    first = next((node for node in nodes if node.operation.startswith(WEIGHTED)), None)
    read = () if first is None else nodes[first.sources[0]].shape or ()
    if len(read) != 4 or read[:2] != (batch, channels):
        return height, width
    layout = image_layout(read, height, width)
    on_grid = layout is not None and layout[1] >= 0
    return (height, width) if on_grid else (read[2], read[3])


def find_trunk(trace: Trace, output: Any, size: tuple[int, int]) -> list[int]:
    """Return the nodes that every path down the trunk crosses, in the network's order.

    The trunk leads to the output; with several outputs, to the first. If branches leave it on the
    way (the skips of a U-Net, the laterals of a feature pyramid), few tensors are crossed by every
    path to the output. If those miss the coarsest scale, the trunk ends there instead, where the
    network first goes back to a finer scale: at a U-Net's bottleneck, or at the end of a pyramid's
    backbone. Tensors that are read through attention, and heads that run over several scales with
    the same weights, do not count as scales.

    Args:
        trace: The traced pass.
        output: The network's output.
        size: (H, W) of the grid, from `grid_size`.
    """
    ends = trace.nodes_in(output)
    nodes = trace.nodes
    areas = _grid_areas(trace, ends, size)
    first = trace.cuts(ends[:1])
    least = min(areas.values(), default=0)
    # An octave is a factor of four, a valid convolution or a padding less than two.
    if not areas or any(areas[node] < 2 * least for node in first if node in areas):
        return first
    coarsest = _first_stretch(nodes, areas, 2 * least)
    sinks = coarsest - trace.before(source for node in coarsest for source in nodes[node].sources)
    to_first = trace.before(ends[:1])
    return trace.cuts(sinks & to_first or sinks)


def have_locations(nodes: Sequence[Node]) -> list[bool]:
    """Return for each node True if it has locations, False after pooling or flattening."""
    images = (nodes[0].shape or ())[:1]
    found = [True]
    for node in nodes[1:]:
        shape = node.shape
        # One vector for each image, or fewer numbers.
        flat = shape is not None and (len(shape) < 2 or (len(shape) == 2 and shape[:1] == images))
        kept = any(found[source] for source in node.sources)
        shapes = [nodes[source].shape or () for source in node.sources]
        found.append(kept and not flat and not _pooled_away(node, shapes))
    return found


def before_weights(nodes: Sequence[Node]) -> list[bool]:
    """Return for each node True if it comes before all weights, as resizing of the images does."""
    found = [True]
    for node in nodes[1:]:
        weighted = node.operation.startswith(WEIGHTED)
        found.append(not weighted and all(found[source] for source in node.sources))
    return found


def is_pooling(node: Node) -> bool:
    """Return True if a node's operation pools locations."""
    return "pool" in node.operation or node.operation in ("mean", "amax")


def why_no_candidate(trace: Trace, trunk: Sequence[int], names: Mapping[nn.Module, str]) -> str:
    """Return the reason why there is no candidate, and the tensors that every path crosses.

    Args:
        trace: The traced pass.
        trunk: The nodes that every path crosses.
        names: The name of every module.
    """
    scripted = [name for part, name in names.items() if isinstance(part, torch.jit.ScriptModule)]
    if scripted:
        why = (
            f"what goes on inside the torch.jit module {scripted[0]!r} is not seen; put the module "
            "that it was scripted or traced from in its place"
        )
    elif not trunk:
        why = "the output does not depend on the images, or by operations that a trace does not see"
    elif any(len(trace.nodes[node].shape or ()) == 4 for node in trunk):
        why = (
            "none of the tensors with locations (N, C, H, W) is a module's output or input, as in "
            "a program of torch.export; give the module that it was made from"
        )
    else:
        why = (
            "no tensor on the way has locations (N, C, H, W), as where the pixels are flattened "
            "for fully connected layers"
        )
    passed = []
    for node in trunk:
        place = trace.place(node, names)
        name = trace.nodes[node].operation if place is None else names[place.module]
        passed.append(f"{name} {trace.nodes[node].shape}")
    return (
        f"found no candidate for a spatial scale: {why}. Tensors that every path crosses: "
        f"{'; '.join(passed[:12]) or 'none'}"
    )


def _pooled_away(node: Node, sources: Sequence[Sequence[int]]) -> bool:
    """Return True if pooling left one location, or a number independent of the image's size."""
    if not is_pooling(node) or node.shape is None or len(node.shape) != 4:
        return False
    before = [source[2:] for source in sources if len(source) == 4]
    if "adaptive" in node.operation or node.shape[2:] == (1, 1):
        return all(tuple(size) != node.shape[2:] for size in before)
    return False


def _grid_areas(trace: Trace, ends: Sequence[int], size: tuple[int, int]) -> dict[int, int]:
    """Return the number of locations of each tensor that lies on the image's grid."""
    nodes = trace.nodes
    with_locations, shared = have_locations(nodes), _shared_heads(nodes)
    areas = {}
    for index in trace.before(ends, through=lambda node: not _is_attention(node)) - {0}:
        shape = nodes[index].shape
        if shape is None or len(shape) != 4 or shape[:1] != (nodes[0].shape or ())[:1]:
            continue
        if not with_locations[index] or shared[index] or nodes[index].operation == "pad":
            continue
        layout = image_layout(shape, *size)
        area = 0 if layout is None else math.prod(shape[1:3] if layout[0] else shape[2:4])
        # A single location is a global context and no map.
        if layout is not None and layout[1] >= 0 and area > 1:
            areas[index] = area
    return areas


def _is_attention(node: Node) -> bool:
    product = any(name in node.operation for name in PRODUCTS) and len(node.sources) > 1
    return product or "attention" in node.operation or node.operation == "softmax"


def _shared_heads(nodes: Sequence[Node]) -> list[bool]:
    """Return for each node True if it comes only from weights that run at several sizes."""
    sizes: dict[int, set[tuple[int, ...]]] = {}
    for node in nodes:
        if node.weight is not None and node.shape is not None and len(node.shape) == 4:
            sizes.setdefault(node.weight, set()).add(node.shape[2:])
    found = [False]
    for node in nodes[1:]:
        several = node.weight is not None and len(sizes.get(node.weight, ())) > 1
        found.append(several or all(found[source] for source in node.sources))
    return found


def _first_stretch(nodes: Sequence[Node], areas: dict[int, int], limit: int) -> set[int]:
    """Return the nodes with fewer locations than a limit, up to where paths return to finer ones.

    Args:
        nodes: The nodes of the trace.
        areas: The number of locations of each node on the grid.
        limit: The number of locations from which a node is finer.
    """
    stretch: set[int] = set()
    reached: set[int] = set()
    left: set[int] = set()
    for index, node in enumerate(nodes):
        finer = areas.get(index, 0) >= limit
        if any(source in left or (finer and source in reached) for source in node.sources):
            left.add(index)
        elif index in areas and not finer:
            stretch.add(index)
        if index in stretch or any(source in reached for source in node.sources):
            reached.add(index)
    return stretch
