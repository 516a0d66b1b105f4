"""`fastsal export`: a network with its map as an ONNX file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from fastsal.cli.names import checked_layers
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
from fastsal.export.onnx import ExportError, OnnxFile, write_onnx
from fastsal.networks.preprocessing import input_form
from fastsal.optional import one_line

# What writing and comparing the file needs; all that are missing are named at once.
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def add_export_command(commands: Commands) -> None:
    """Add `fastsal export` to the commands."""
    parser = commands.add_parser(
        "export",
        help="write a network with its map as an ONNX file",
        description="Write one ONNX file that computes the network's output, its map and the map "
        "of every scale. It runs with onnxruntime and NumPy alone. Before it is saved it is "
        "compared with PyTorch on images that the export has not seen. A network of torchvision or "
        "timm has its pretrained weights unless --weights or --random-weights is given.",
    )
    add_model_options(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the ONNX file")
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
    network = network_of(
        options,
        pretrained=not options.random_weights,
        packages={name: name for name in PACKAGES},
    )
    try:
        options.layers = checked_layers(network, options.model, options.layers)
        written = _write(network, options)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        raise CommandError(f"{options.model}: {error}") from error
    print(
        f"{written.path}: {', '.join(written.outputs)}; {written.file_bytes / 1e6:.1f} MB, equal "
        f"to PyTorch's to {written.difference:.1g}"
    )
    return 0


def _write(network: nn.Module, options: argparse.Namespace) -> OnnxFile:
    size = options.size
    channels, dtype = input_form(network, options.channels)
    example = random_image(size, size, channels).to(dtype)
    network = network.eval()
    try:
        with torch.no_grad():
            network(example)
    # A network raises any class of error.
    except Exception as error:
        raise ExportError(
            f"the network does not run on a {size}x{size} image: {one_line(error)}"
        ) from error
    make: Callable[..., ModelWithMap] = with_map
    if options.method == "fastcam":
        make = partial(with_fast_cam, target=options.target)
    module = make(
        network,
        example,
        layers=options.layers,
        weights=options.scale_weights,
        statistic=options.statistic,
        lovi=options.lovi,
        epsilon=options.epsilon,
    )
    return write_onnx(
        module,
        example,
        options.out,
        dynamic_batch=options.dynamic_batch,
        dynamic_size=options.dynamic_size,
        opset=options.opset,
    )
