"""The map put into an ONNX file that exists already, without its PyTorch model.

The scales are found in the file's graph by the rule of `fastsal.find_scales`. Its nodes, weights
and outputs stay as they are; the nodes of the map follow them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from fastsal.export.onnx import TOLERANCE, checked_folder
from fastsal.export.onnx_check import ExportError
from fastsal.export.onnx_graph.comparison import Comparison, compare
from fastsal.export.onnx_graph.examples import Images, images_of
from fastsal.export.onnx_graph.graph_file import (
    GraphFile,
    data_path,
    opset_of,
    read_graph,
    save_model,
)
from fastsal.export.onnx_graph.map_graph import MapOf, map_model
from fastsal.export.onnx_graph.merging import merged
from fastsal.export.onnx_graph.opsets import LEAST_OPSET, in_opset
from fastsal.export.onnx_graph.traced import TracedGraph
from fastsal.files import written_together
from fastsal.kernels.constants import EPSILON
from fastsal.maps.prior import Weights, layer_weights
from fastsal.networks.scales import chosen_scales
from fastsal.optional import needed
from fastsal.statistics.registry import Statistic, StatisticFunction, get_statistic, with_epsilon

__all__ = ["MapInFile", "write_map_into"]


@dataclass(frozen=True)
class MapInFile:
    """An ONNX file into which `write_map_into` put the map.

    Attributes:
        path (pathlib.Path): The file.
        outputs (tuple of str): The names of its outputs, the file's own first.
        scales (tuple of str): The tensors that are read, the shallowest first.
        renamed (dict): Of outputs of the map whose names were taken, the new name by the usual one.
        file_bytes (int): The size of the file, with that of its weights.
        identical (bool): True if the file's own outputs are those of before, bit by bit, with all
            of onnxruntime's optimisations; False if with nodes run one by one alone.
        own_difference (float): The largest difference of the file's own outputs with all
            optimisations, as a share of the output's largest magnitude.
        difference (float): The largest mean difference of a map from PyTorch's of the same tensors,
            as a share of the map's largest magnitude.
        opset (int): The version of ONNX's operators.
    """

    path: Path
    outputs: tuple[str, ...]
    scales: tuple[str, ...]
    renamed: dict[str, str]
    file_bytes: int
    identical: bool
    own_difference: float
    difference: float
    opset: int


def write_map_into(
    source: Path | str,
    path: Path | str,
    *,
    layers: Sequence[str] | None = None,
    weights: Weights = "linear",
    statistic: str | Statistic | StatisticFunction = "smoe_scale",
    lovi: bool = False,
    epsilon: float = EPSILON,
    size: int = 224,
) -> MapInFile:
    """Put the map into an ONNX file, and write that whole or not at all.

    The scales are the tensors that `fastsal.find_scales` would find in the network: the graph is
    traced as a PyTorch network is, with the values that onnxruntime gives. The map is that of
    `with_map`. The new file has the old one's nodes, names and outputs, followed by "map",
    "scale_1" to "scale_R", and "lovi" if wanted; a name that is taken gets a number. Where the old
    file leaves the number of images or their size open, the new one does too. A file of operators
    before version 12 is raised to that; functions of its own are written out.

    Before it takes its place the new file is run beside the old one in onnxruntime: the file's own
    outputs must be identical bit by bit, and the maps those that PyTorch makes of the tensors which
    onnxruntime hands out.

    Args:
        source (str or pathlib.Path): The ONNX file; it is not changed.
        path (str or pathlib.Path): The new file; its folder must exist. If the old one has its
            weights in files of their own, the new one's are in `path` with `.data` at the end.
        layers (sequence of str, optional): The names of the tensors to read, the shallowest first.
            Default: None, which finds them.
        weights (str, path or sequence of float): As for `with_map`. Default: "linear".
        statistic (str, Statistic or Callable): As for `with_map`. Default: "smoe_scale".
        lovi (bool): Returns the LOVI picture too. Default: False.
        epsilon (float): As for `SMOEScale`. Default: 1e-6.
        size (int): Height and width of the images that are tried, where the file leaves them open.
            Default: 224.

    Returns:
        The `MapInFile`.

    Raises:
        ExportError: A ValueError. If the source is no ONNX file, lacks its weights, has no image
            among its inputs, does not run, has a map already or no tensor of a name; or if the new
            file's outputs are not those of the old.
        ScalesError: A ValueError. If no scales are found.
        ImportError: If onnx, onnxscript or onnxruntime is not installed.
        OSError: If a file cannot be read or written.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", Eq 1 to 7.

    Example:
        ```python
        written = write_map_into("detector.onnx", "detector-map.onnx")
        written.outputs  # ("boxes", "scores", "map", "scale_1", "scale_2", ...)
        written.scales  # ("/relu/Relu_output_0", ...)
        ```
    """
    path = checked_folder(path)
    if path.exists() and path.samefile(source):
        raise ExportError(f"{path} is the file itself, which stays as it is; give another name")
    placed = place_map(source, layers, weights, statistic, lovi, epsilon, size)
    file = placed.file
    data = (data_path(path),) if file.external else ()
    with written_together(*data, path) as partial:
        save_model(placed.model, file, partial[-1])
        compared = compare(file, partial[-1], placed.of, placed.images, size)
        _check(compared, path)
    return MapInFile(
        path,
        (*file.outputs, *placed.outputs.values()),
        tuple(scale.name for scale in placed.of.scales),
        {name: new for name, new in placed.outputs.items() if name != new},
        sum(one.stat().st_size for one in (*data, path)),
        compared.identical,
        compared.own_difference,
        compared.difference,
        opset_of(placed.model),
    )


class PlacedMap(NamedTuple):
    """A file's model with its map, not yet written.

    Attributes:
        file: The file as it was.
        images: Its inputs.
        of: The map.
        model: The `onnx.ModelProto` with the map.
        outputs: The name of each output of the map by its usual one.
    """

    file: GraphFile
    images: Images
    of: MapOf
    model: Any
    outputs: dict[str, str]


def place_map(
    source: Path | str,
    layers: Sequence[str] | None,
    weights: Weights,
    statistic: str | Statistic | StatisticFunction,
    lovi: bool,
    epsilon: float,
    size: int,
) -> PlacedMap:
    """Return a file's model with its map behind it.

    Args:
        source: As for `write_map_into`, like the others.
        layers: The tensors to read.
        weights: The weight of every scale.
        statistic: The statistic.
        lovi: Adds the LOVI picture.
        epsilon: What the statistic adds to activations.
        size: Height and width of images, where the file leaves them open.

    Raises:
        ExportError: As for `write_map_into`.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needed(package, "an ONNX file")
    chosen = with_epsilon(get_statistic(statistic), epsilon)
    if chosen.domain == "pre_relu":
        raise ExportError(
            f"statistic {chosen.name!r} is defined before the ReLU, which a file does not tell; "
            "choose one that is defined after it, such as smoe_scale"
        )
    file = read_graph(source)
    images = images_of(file)
    example = images.example(1, size)
    traced = TracedGraph(file, images, example)
    found = [traced.scale(name) for name in layers or ()]
    scales = tuple(found) or chosen_scales(traced.candidates())
    names = tuple(scale.name for scale in scales)
    of = MapOf(
        scales,
        tuple(traced.operation(name) for name in names),
        tuple(traced.dtype(name) for name in names),
        layer_weights(weights, len(scales), names),
        chosen,
        lovi,
    )
    target = file
    if file.opset < LEAST_OPSET:
        target = replace(file, model=in_opset(file.model, LEAST_OPSET))
    image = example[images.inputs[images.image].name]
    model, outputs = merged(target, map_model(of, images, image, target.opset), images, names)
    return PlacedMap(file, images, of, model, outputs)


def _check(compared: Comparison, path: Path) -> None:
    """Refuse a file that does not compute what it should.

    Raises:
        ExportError: If it does not.
    """
    if not compared.same_nodes:
        raise ExportError(
            f"the file's own outputs differ by {compared.own_difference:.2g} of their largest "
            f"magnitude from those without the map, expected the same bits; {path} was not written"
        )
    if not compared.difference <= TOLERANCE:
        raise ExportError(
            f"the maps differ by {compared.difference:.2g} of their largest magnitude from those "
            f"that PyTorch makes of the same tensors, expected {TOLERANCE} at most; {path} was not "
            "written. Where activations vanish, maps are made of rounding alone"
        )
