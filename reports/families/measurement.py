"""The scales of one network of a family, and the share of its parameters after the last one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.profiling.random_weights import enliven
from fastsal.files import written_whole
from fastsal.networks.scales import Scale, ScalesError, candidates, chosen_scales
from fastsal.optional import one_line
from reports.families.graph import Graph, last_cut, missed, unread
from reports.families.networks import build, count_parameters, smallest

MOST_PARAMETERS = 150_000_000
MOST_TRIED = 4


@dataclass(frozen=True)
class FoundScale:
    """One scale of a network.

    Attributes:
        name: The layer.
        shape: The shape of its tensor in the network.
        size: The channels, rows and columns of its map.
        stride: The scale's stride.
        layer_input: True if the layer's input is read.
        functions: The number of functions after the layer that make the tensor.
        passed: True if the output depends on the images around this tensor too.
        later: The last tensor of the same grid after it that all paths to the output cross.
        missed: The share of the parameters at its grid that runs between the two.
    """

    name: str
    shape: tuple[int, ...]
    size: tuple[int, ...]
    stride: int
    layer_input: bool
    functions: int
    passed: bool
    later: str
    missed: float


@dataclass(frozen=True)
class Measurement:
    """The scales of a family's smallest network.

    Attributes:
        family: The package, the module, and the letters that begin the names.
        network: The network's name.
        size: The side of its image; 0 for a network that was not run.
        parameters: The number of its parameters.
        head: The share of them that works on one location, as after global pooling.
        after: The share of the others that runs after the last scale.
        beside: The share of the others that reaches the output around the last scale besides.
        scales: The scales.
        unread: The numbers of locations at which layers that all paths cross work, without a scale.
        error: The reason why there are none.
    """

    family: str
    network: str
    size: int = 0
    parameters: int = 0
    head: float = 0.0
    after: float = 0.0
    beside: float = 0.0
    scales: tuple[FoundScale, ...] = field(default=())
    unread: tuple[int, ...] = ()
    error: str = ""


def survey(family: str, names: Sequence[str]) -> Measurement:
    """Return the measurement of a family: of its smallest network that runs.

    Args:
        family: The family's name.
        names: The names of its networks.
    """
    reason = "no network"
    for name in smallest(names)[:MOST_TRIED]:
        torch.manual_seed(0)
        try:
            network, size = build(name)
            if count_parameters(network) > MOST_PARAMETERS:
                reason = f"more than {MOST_PARAMETERS:,} parameters"
                continue
            images = torch.rand(2, 3, size, size)
            enliven(network, images)
        # A network raises any class of error, the want of another package among them.
        except Exception as error:
            reason = f"does not run: {one_line(error)}"
            continue
        return measure(family, name, network, images[:1])
    return Measurement(family, names[0], error=reason)


def measure(family: str, name: str, network: nn.Module, images: Tensor) -> Measurement:
    """Return a network's scales and what comes after them.

    Args:
        family: The family's name.
        name: The network's name.
        network: The network, in evaluation mode.
        images: Images `(N, C, H, W)`.
    """
    scales: tuple[Scale, ...] = ()
    reason = ""
    try:
        scales = chosen_scales(candidates(network, images))
    except ScalesError as error:
        reason = one_line(error)
    # A fault of `find_scales` is shown in the table, and the other families are measured.
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
    graph = Graph(network, images, scales)
    most: dict[nn.Module, int] = {}
    for call in graph.calls:
        most[call.module] = max(most.get(call.module, 0), call.locations)
    # Parameters of a module that is no operation of its own count as with locations.
    with_locations = {
        id(parameter)
        for owner in network.modules()
        for parameter in owner.parameters(recurse=False)
        if most.get(owner, 0) != 1
    }
    parameters = list(network.parameters())
    total = sum(each.numel() for each in parameters if id(each) in with_locations)
    names = {module: name for name, module in network.named_modules()}

    def share(leaves: set[int]) -> float:
        late = (each.numel() for each in parameters if id(each) in leaves & with_locations)
        return sum(late) / max(1, total)

    found = []
    around: set[int] = set()
    after: set[int] = set()
    for scale, (steps, when) in zip(scales, graph.scales, strict=True):
        size = tuple(scale.channels_first(torch.empty(scale.shape, device="meta")).shape[1:])
        later = last_cut(graph, size[1:], when)
        around, after = graph.around(steps), graph.after(steps)
        found.append(
            FoundScale(
                name=scale.name,
                shape=tuple(scale.shape),
                size=size,
                stride=scale.stride,
                layer_input=scale.layer_input,
                functions=scale.functions,
                passed=id(graph.images) in around,
                later="" if later is None else names[later.module],
                missed=0.0 if later is None else missed(graph, size[1:], when, later.end),
            )
        )
    number = count_parameters(network)
    return Measurement(
        family,
        name,
        size=images.shape[-1],
        parameters=number,
        head=1 - total / max(1, number),
        after=share(after),
        beside=share(around - after),
        scales=tuple(found),
        unread=tuple(unread(graph, [scale.size[1:] for scale in found])),
        error=reason,
    )


def read_measurements(path: Path) -> dict[str, Measurement]:
    """Return the measurements in a file of JSON lines by family, none without the file."""
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        scales = tuple(map(_scale, fields.pop("scales")))
        grids = tuple(fields.pop("unread"))
        found[fields["family"]] = Measurement(**fields, scales=scales, unread=grids)
    return found


def write_measurements(path: Path, measurements: Iterable[Measurement]) -> None:
    """Write measurements as JSON lines in the order of their families."""
    lines = [
        json.dumps(_rounded(asdict(one))) + "\n"
        for one in sorted(measurements, key=lambda one: one.family)
    ]
    with written_whole(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def _scale(fields: Mapping[str, Any]) -> FoundScale:
    sizes = {"shape": tuple(fields["shape"]), "size": tuple(fields["size"])}
    return FoundScale(**{**fields, **sizes})


def _rounded(fields: Mapping[str, object]) -> dict[str, object]:
    """Return fields with shares to five digits, so that another machine writes the same."""
    rounded: dict[str, object] = {}
    for key, value in fields.items():
        if isinstance(value, float):
            value = round(value, 5)
        elif isinstance(value, tuple) and value and isinstance(value[0], dict):
            value = [_rounded(one) for one in value]
        rounded[key] = value
    return rounded
