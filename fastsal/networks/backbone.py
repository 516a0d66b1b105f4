"""A network's trunk: the path from the images to the decision, down to its coarsest scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fastsal.arguments.inputs import IMAGE, SIGNAL, VOLUME
from fastsal.networks import hooks
from fastsal.networks.roles import (
    attention_weights,
    is_pooling,
    only_beside,
    role_of,
    short_name,
)
from fastsal.networks.trace import REARRANGEMENTS, WEIGHTED, Node, Trace

# More maps than this for an image are boxes that are looked at, and no scale.
MOST_BLOCKS = 16
# A scale's location covers at least so many times the next finer scale's: two, where only one side
# is halved, but for rounding.
OCTAVE = 1.7
# The share of the weights at coarser scales between two tensors from which on the second is not
# the first with a gate, but the end of a decoder.
WAY_BACK = 0.2
# The share of a way's weights that lie before the end of a scale.
MOST_WEIGHTS = 0.8


def find_trunk(trace: Trace, output: Any) -> list[int]:
    """Return the nodes that every path down the trunk crosses, in the network's order.

    The trunk leads to the output; with several outputs, to the first. If branches leave it on the
    way (the skips of a U-Net, the laterals of a feature pyramid), few tensors are crossed by every
    path to the output. If more weights lie before the coarsest scale, the trunk ends there instead,
    where the network first goes back to a finer scale: at a U-Net's bottleneck, or at the end of a
    pyramid's backbone. Of two networks in a row the second counts: the trunk starts where the first
    has come back to the images' size. Heads that run over several scales with the same weights do
    not count as scales.

    Args:
        trace: The traced pass.
        output: The network's output.
    """
    ends = trace.nodes_in(output)
    if not ends and not any(True for _ in hooks.tensors_in(output)):
        # Without tensors in the output, as where it is text, the pass itself has an end.
        ends = (len(trace.nodes) - 1,)
    nodes = trace.nodes
    cuts = trace.cuts(ends[:1])
    areas = _pixels_per_location(trace, ends)
    to_first = trace.before(ends[:1])
    begin = _second_network(
        nodes, cuts, {node: area for node, area in areas.items() if node in to_first}
    )
    cuts = [cut for cut in cuts if cut >= begin]
    areas = {node: pixels for node, pixels in areas.items() if node >= begin}
    branch = [cut for cut in _way_down(trace, areas, to_first) if cut >= begin]
    cuts = _with_skipped_scales(trace, cuts, areas)
    # More weights lie before the end of a U-Net's encoder than before its first skip; but before
    # the end of a trunk there are more than before a gate that leaves it.
    descent = _last_descent(nodes, cuts, areas)
    if descent is None:
        return max(cuts, branch, key=lambda way: _scales(trace, way))
    coarsest = areas[descent] > max(areas.values()) / OCTAVE
    if coarsest and _scales(trace, cuts) >= _scales(trace, branch):
        # What a decoder makes of the last tensor to look it up, such as keys, is no way down.
        return cuts
    weights = [
        sum(nodes[node].parameters for node in trace.before(ends) if node >= begin)
        for ends in ([descent], branch[-1:])
    ]
    return branch if weights[1] > weights[0] else cuts


def output_nodes(trace: Trace, output: Any) -> set[int]:
    """Return the nodes of the output itself: those after the last weights, and what these make.

    A map of features that ends in an activation function, as that of a network's backbone, is none;
    a map of one channel is.

    Args:
        trace: The traced pass.
        output: The network's output.
    """
    found: set[int] = set()
    for end in trace.nodes_in(output):
        chain, features = [end], False
        while True:
            index = chain[-1]
            node = trace.nodes[index]
            role = role_of(trace.nodes, index)
            if role.source is not None:
                features |= role.activation and not role.of_outputs
                chain.append(role.source)
            elif len(node.sources) == 1 and (
                node.operation in REARRANGEMENTS
                or is_pooling(node)
                or short_name(node) in ("softmax", "log_softmax", "__getitem__")
            ):
                chain.append(node.sources[0])
            else:
                break
        if not trace.nodes[chain[-1]].operation.startswith(WEIGHTED):
            chain.pop()
            features = True
        found.update(node for node in chain if not features or trace.channels(node) == 1)
    return found


def before_weights(nodes: Sequence[Node]) -> list[bool]:
    """Return for each node True if it comes before all weights, as resizing of the images does."""
    found = [True]
    for node in nodes[1:]:
        weighted = node.operation.startswith(WEIGHTED)
        found.append(not weighted and all(found[source] for source in node.sources))
    return found


def pooled_away(nodes: Sequence[Node]) -> list[bool]:
    """Return for each node True after adaptive pooling to a number of cells, which is no scale.

    Of the images themselves, before any weights, it is a resizing.
    """
    unweighted = before_weights(nodes)
    found = [False]
    for index, node in enumerate(nodes[1:], 1):
        shapes = [nodes[source].shape for source in node.sources]
        adaptive = "adaptive" in node.operation and node.shape is not None and not unweighted[index]
        own = adaptive and all(shape is not None and shape != node.shape for shape in shapes)
        found.append(own or all(found[source] for source in node.sources))
    return found


def why_no_candidate(trace: Trace, trunk: Sequence[int], names: Mapping[nn.Module, str]) -> str:
    """Return the reason why there is no candidate, and the tensors that every path crosses.

    Args:
        trace: The traced pass.
        trunk: The nodes that every path crosses.
        names: The name of every module.
    """
    scripted = [name for part, name in names.items() if isinstance(part, torch.jit.ScriptModule)]
    shape = trace.nodes[0].shape or ()
    located = [node for node in trunk if trace.located(node) is not None]
    if scripted:
        why = (
            f"what goes on inside the torch.jit module {scripted[0]!r} is not seen; put the module "
            "that it was scripted or traced from in its place"
        )
    elif not trunk:
        why = "the output does not depend on the images, or by operations that a trace does not see"
    elif len(shape) == 4 and shape[3] in (1, 3, 4) and shape[1] > 4:
        why = (
            f"the images {shape} have their channels last, expected (N, C, H, W); permute them "
            "before the model, and inside it back"
        )
    elif len(shape) == SIGNAL and any(len(node.shape or ()) > SIGNAL for node in trace.nodes):
        why = (
            f"the network makes more dimensions of the signals {shape}, and their channels are no "
            "channels in it, or their time is; give it images (N, C, H, W), with the reshaping "
            "before it"
        )
    elif len(shape) == SIGNAL:
        why = (
            f"no tensor on the way has several locations along the last dimension of the signals "
            f"{shape}, expected (N, C, T); if their channels come last, transpose them before the "
            "model, and inside it back"
        )
    elif len(shape) == VOLUME and any(len(trace.nodes[one].shape or ()) == IMAGE for one in trunk):
        why = (
            "slices or frames become images of a batch, or channels, and no tensor has locations "
            "(N, C, D, H, W); give that network the images (N, C, H, W)"
        )
    elif located and any(trace.place(node, names) is not None for node in located):
        why = "all tensors with locations are the output itself, or the images before any weights"
    elif located:
        why = (
            "none of the tensors with locations (N, C, H, W) is a registered module's output or "
            "input, as in a program of torch.export or where layers are kept in a Python list; "
            "give the module that it was made from, or keep the layers in a torch.nn.ModuleList"
        )
    elif any(len(trace.nodes[one].shape or ()) == len(shape) for one in trunk):
        why = (
            f"of images of {'x'.join(map(str, shape[2:]))} pixels no tensor on the way has more "
            "than one location; give larger ones"
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


def _pixels_per_location(trace: Trace, ends: Sequence[int]) -> dict[int, float]:
    """Return the area of a location, in pixels, of each tensor that lies on the image's grid."""
    nodes = trace.nodes
    shared, pooled, beside = _shared_heads(nodes), pooled_away(nodes), only_beside(trace)
    weights = attention_weights(nodes)
    areas = {}
    for index in trace.before(ends) - {0}:
        found = trace.located(index)
        no_scale = shared[index] or pooled[index] or beside[index] or index in weights
        if found is None or no_scale or nodes[index].operation == "pad":
            continue
        if nodes[index].fields.seen is None:
            # Before all weights, the image may be resized.
            continue
        if found.placement is not None and found.placement.blocks > MOST_BLOCKS:
            continue
        areas[index] = math.prod(found.steps)
    return areas


def _second_network(nodes: Sequence[Node], cuts: Sequence[int], areas: Mapping[int, float]) -> int:
    """Return the last cut at the finest scale with coarser weights both before it and after it.

    What pools a tensor is no beginning: the tensor itself may end a scale.
    """
    on_grid = [cut for cut in cuts if cut in areas and not is_pooling(nodes[cut])]
    if not on_grid:
        return 0
    finest = min(areas.values())
    coarser = [
        node for node, area in areas.items() if area > OCTAVE * finest and nodes[node].parameters
    ]
    for cut in reversed(on_grid):
        back = areas[cut] < OCTAVE * finest
        if back and min(coarser, default=cut) < cut < max(coarser, default=cut):
            return cut
    return 0


def _way_down(trace: Trace, areas: Mapping[int, float], to_first: set[int]) -> list[int]:
    """Return the nodes that every path to the coarsest scale crosses.

    Args:
        trace: The traced pass.
        areas: The area of a location of each node on the grid.
        to_first: The nodes before the first output.
    """
    nodes = trace.nodes
    coarsest = _first_stretch(nodes, areas, max(areas.values(), default=0.0) / OCTAVE)
    sinks = coarsest - trace.before(source for node in coarsest for source in nodes[node].sources)
    found = trace.cuts(sinks & to_first or sinks)

    if _scales(trace, found) == _scales(trace, areas):
        return found
    # Branches at several scales that read each other: the way down is before the first exchange.
    ways = [trace.cuts([end]) for end in sorted(coarsest & to_first or coarsest)]
    best = max(ways, key=lambda way: (_scales(trace, way), len(way)), default=found)
    return best if _scales(trace, best) > _scales(trace, found) else found


def _scales(trace: Trace, nodes: Iterable[int]) -> int:
    """Return the number of scales of nodes."""
    places = (trace.located(node) for node in nodes if trace.nodes[node].fields.seen is not None)
    return len({place.octaves for place in places if place is not None})


def _with_skipped_scales(trace: Trace, cuts: list[int], areas: Mapping[int, float]) -> list[int]:
    """Return cuts with the last tensor of each scale that no tensor cuts.

    A network in which two paths lie side by side, each read by the next two cells, has such scales.
    A tensor counts if nothing finer is made of it, and most weights up to its scale come before it.

    Args:
        trace: The traced pass.
        cuts: The nodes that every path crosses.
        areas: The area of a location of each node on the grid.
    """
    nodes = trace.nodes
    on_grid = [cut for cut in cuts if cut in areas]
    if len(on_grid) < 2:
        return cuts
    to_last = trace.before(on_grid[-1:])
    places = {node: place for node in areas if (place := trace.located(node)) is not None}
    there = {places[cut].octaves for cut in on_grid}
    low, high = places[on_grid[0]].octaves, places[on_grid[-1]].octaves
    added = []
    for octaves in {place.octaves for place in places.values()} - there:
        between = all(a <= b <= c for a, b, c in zip(low, octaves, high, strict=True))
        of_scale = [n for n, place in places.items() if place.octaves == octaves and n in to_last]
        if not between or not of_scale:
            continue
        last = max(of_scale)
        up_to_it = trace.before([last])
        every = [n for n in to_last if n <= last and n > on_grid[0]]
        share = sum(nodes[n].parameters for n in up_to_it if n > on_grid[0])
        if share < MOST_WEIGHTS * sum(nodes[n].parameters for n in every):
            continue
        made = _made_of(nodes, last)
        if not any(areas.get(n, math.inf) < areas[last] / OCTAVE for n in made):
            added.append(last)
    return sorted([*cuts, *added])


def _made_of(nodes: Sequence[Node], index: int) -> set[int]:
    """Return the nodes that a node's tensor goes into."""
    found = {index}
    for node in range(index + 1, len(nodes)):
        if any(source in found for source in nodes[node].sources):
            found.add(node)
    return found - {index}


def _last_descent(
    nodes: Sequence[Node], cuts: Sequence[int], areas: Mapping[int, float]
) -> int | None:
    """Return the last cut of the last run of cuts over several scales, None if there is none.

    A run ends where the network comes back from coarser scales with a good part of its weights.
    """
    end = None
    first = before = 0.0
    every = sum(nodes[node].parameters for node in areas)
    on_grid = [cut for cut in cuts if cut in areas]
    for last, cut in zip([0, *on_grid], on_grid, strict=False):
        between = sum(
            nodes[node].parameters
            for node in range(last + 1, cut)
            if areas.get(node, 0.0) > OCTAVE * areas[cut]
        )
        if not before or areas[cut] < before / OCTAVE or between > WAY_BACK * every:
            first = areas[cut]
        if areas[cut] > OCTAVE * first:
            end = cut
        before = areas[cut]
    return end


def _shared_heads(nodes: Sequence[Node]) -> list[bool]:
    """Return for each node True if it comes only from weights that run at several sizes."""
    sizes: dict[int, set[tuple[int, ...]]] = {}
    dimensions = len(nodes[0].shape or ())
    for node in nodes:
        if node.weight is not None and node.shape is not None and len(node.shape) == dimensions:
            sizes.setdefault(node.weight, set()).add(node.shape[2:])
    found = [False]
    for node in nodes[1:]:
        several = node.weight is not None and len(sizes.get(node.weight, ())) > 1
        found.append(several or all(found[source] for source in node.sources))
    return found


def _first_stretch(nodes: Sequence[Node], areas: Mapping[int, float], limit: float) -> set[int]:
    """Return the nodes coarser than a limit, up to where paths return to finer ones.

    Args:
        nodes: The nodes of the trace.
        areas: The area of a location of each node on the grid.
        limit: The area up to which a node is finer.
    """
    stretch: set[int] = set()
    reached: set[int] = set()
    left: set[int] = set()
    for index, node in enumerate(nodes):
        finer = areas.get(index, limit + 1) <= limit
        if any(source in left or (finer and source in reached) for source in node.sources):
            left.add(index)
        elif index in areas and not finer:
            stretch.add(index)
        if index in stretch or any(source in reached for source in node.sources):
            reached.add(index)
    return stretch
