"""`fastsal export`: a network with its map as a file for onnxruntime or OpenVINO."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastsal.cli.names import about, check_packages, checked_layers, is_onnx
from fastsal.cli.options import (
    CommandError,
    Commands,
    add_method_options,
    add_model_options,
    add_scale_options,
    network_of,
    random_image,
)
from fastsal.export.model import ModelWithMap, with_fast_cam, with_map
from fastsal.export.onnx import ExportError, write_onnx
from fastsal.export.onnx_graph import write_map_into
from fastsal.export.openvino import write_openvino, write_openvino_of_file
from fastsal.networks.preprocessing import input_form
from fastsal.networks.scales import ScalesError
from fastsal.optional import one_line

# What writing and comparing the file needs; all that are missing are named at once.
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Of an ONNX file these are settled, and their values if they are not given.
OF_NETWORKS = {
    "weights": None,
    "random_weights": False,
    "channels": None,
    "dynamic_batch": False,
    "dynamic_size": False,
    "opset": None,
    "target": None,
}


class _Written(NamedTuple):
    """The line that is printed about a file.

    Attributes:
        outputs: The names of its outputs.
        file_bytes: Its size.
        equal: To whose outputs its own are equal, and how nearly.
    """

    outputs: tuple[str, ...]
    file_bytes: int
    equal: str


def add_export_command(commands: Commands) -> None:
    """Add `fastsal export` to the commands."""
    parser = commands.add_parser(
        "export",
        help="write a network, or an ONNX file, with its map as a file for onnxruntime or OpenVINO",
        description="Write one file that computes the network's output, its map and the map of "
        "every scale, and runs without PyTorch. Of FILE.onnx the map is put into the network that "
        "the file has; its own outputs stay the same, bit by bit. Before it is saved it is "
        "compared with the network that it came from, on images that the export has not seen. A "
        "network of torchvision or timm has its pretrained weights unless --weights or "
        "--random-weights is given.",
    )
    add_model_options(parser, files=True)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="the file (OpenVINO: FILE.xml)"
    )
    parser.add_argument("--format", default="onnx", choices=["onnx", "openvino"], help="(onnx)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    parser.add_argument("--dynamic-batch", action="store_true", help="any number of images")
    parser.add_argument("--dynamic-size", action="store_true", help="images of any size")
    parser.add_argument("--opset", type=int, metavar="N", help="ONNX operator set (PyTorch's own)")
    add_method_options(parser)
    parser.add_argument(
        "--target",
        type=int,
        metavar="CLASS",
        help="the class fastcam explains, a number (predicted)",
    )
    add_scale_options(parser)
    parser.set_defaults(run=export_model)


def export_model(options: argparse.Namespace) -> int:
    """Write the file, print a line about it and return the exit code.

    Args:
        options: The parsed options.

    Raises:
        CommandError: If the network has no map, or cannot be exported with it.
    """
    if options.target is not None and options.method != "fastcam":
        raise CommandError(f"--target {options.target} is for --method fastcam")
    if options.opset is not None and options.format != "onnx":
        raise CommandError(f"--opset {options.opset} is for --format onnx")
    if options.out.exists() and not options.overwrite:
        raise CommandError(f"{options.out} is there already; --overwrite replaces it")
    packages = (*PACKAGES, *(("openvino",) if options.format == "openvino" else ()))
    needs = {name: name for name in packages}
    network = None
    if is_onnx(options.model):
        _check_options_of_file(options)
        try:
            check_packages("export", needs)
        except ImportError as error:
            raise CommandError(str(error)) from error
    else:
        network = network_of(options, pretrained=not options.random_weights, packages=needs)
    try:
        with warnings.catch_warnings(record=True) as told:
            written = _of_file(options) if network is None else _of_network(network, options)
    except ScalesError as error:
        raise CommandError(f"{options.model}: {_without_candidates(error)}") from error
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        raise CommandError(about(options.model, error)) from error
    for warning in told:
        print(f"fastsal: {options.model}: {_without_candidates(warning.message)}", file=sys.stderr)
    print(
        f"{options.out}: {', '.join(written.outputs)}; {written.file_bytes / 1e6:.1f} MB, "
        f"{written.equal}"
    )
    return 0


def _check_options_of_file(options: argparse.Namespace) -> None:
    """Refuse options that a file has settled.

    Raises:
        CommandError: If one is given.
    """
    if options.method != "smoe":
        raise CommandError(
            f"--method {options.method} needs the weights of the network's last layer, which are "
            f"looked for in a network of PyTorch alone; of {options.model} there is --method smoe"
        )
    for name, default in OF_NETWORKS.items():
        if getattr(options, name) != default:
            raise CommandError(
                f"--{name.replace('_', '-')} is for a network of PyTorch; {options.model} has its "
                "weights, sizes and operators, which stay"
            )


def _of_file(options: argparse.Namespace) -> _Written:
    """Write an ONNX file with its map."""
    given = {
        "layers": options.layers,
        "weights": options.scale_weights,
        "statistic": options.statistic,
        "lovi": options.lovi,
        "epsilon": options.epsilon,
        "size": options.size,
    }
    if options.format == "openvino":
        converted = write_openvino_of_file(options.model, options.out, **given)
        equal = f"equal to onnxruntime's to {converted.difference:.1g}"
        return _Written(converted.outputs, converted.file_bytes, equal)
    written = write_map_into(options.model, options.out, **given)
    own = "bit by bit"
    if not written.identical:
        near = f"{written.own_difference:.1g}"
        own = f"to {near}, and bit by bit without onnxruntime's fusions of nodes"
    equal = (
        f"the file's own outputs equal {own}, the maps to {written.difference:.1g}; read: "
        f"{', '.join(written.scales)}"
    )
    for usual, name in written.renamed.items():
        equal += f"; {usual!r} is taken in the file, and the map's is {name!r}"
    return _Written(written.outputs, written.file_bytes, equal)


def _of_network(network: nn.Module, options: argparse.Namespace) -> _Written:
    """Write a network with its map."""
    options.layers = checked_layers(network, options.model, options.layers)
    example = _example(network, options)
    make: Callable[..., ModelWithMap] = with_map
    if options.method == "fastcam":
        make = partial(with_fast_cam, target=options.target)
    module = make(
        network.eval(),
        example,
        layers=options.layers,
        weights=options.scale_weights,
        statistic=options.statistic,
        lovi=options.lovi,
        epsilon=options.epsilon,
    )
    sizes = {"dynamic_batch": options.dynamic_batch, "dynamic_size": options.dynamic_size}
    if options.format == "openvino":
        converted = write_openvino(module, example, options.out, **sizes)
        equal = f"equal to PyTorch's to {converted.difference:.1g}"
        return _Written(converted.outputs, converted.file_bytes, equal)
    written = write_onnx(module, example, options.out, opset=options.opset, **sizes)
    equal = f"equal to PyTorch's to {written.difference:.1g}"
    return _Written(written.outputs, written.file_bytes, equal)


def _example(network: nn.Module, options: argparse.Namespace) -> Tensor:
    """Return an image that the network runs on.

    Raises:
        ExportError: If it does not.
    """
    size = options.size
    channels, dtype = input_form(network, options.channels)
    example = random_image(size, size, channels).to(dtype)
    network.eval()
    try:
        with torch.no_grad():
            network(example)
    # A network raises any class of error.
    except Exception as error:
        raise ExportError(
            f"the network does not run on a {size}x{size} image: {one_line(error)}"
        ) from error
    return example


def _without_candidates(error: Warning | str | ScalesError) -> str:
    """Return a message without its list of candidates, which `fastsal layers` shows."""
    return str(error).partition(". Candidates: ")[0]
