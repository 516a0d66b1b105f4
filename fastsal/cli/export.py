"""`fastsal export`: a network with its map as an ONNX file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from fastsal.export.model import ModelWithMap, with_fast_cam, with_map
from fastsal.export.onnx import ExportError, Written, write_onnx


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add what `fastsal export` takes beside the model, its weights and the image's size."""
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the ONNX file")
    parser.add_argument("--dynamic-batch", action="store_true", help="any number of images")
    parser.add_argument("--dynamic-size", action="store_true", help="images of any size")
    parser.add_argument("--opset", type=int, metavar="N", help="ONNX operator set (PyTorch's own)")
    parser.add_argument("--method", default="smoe", choices=["smoe", "fastcam"], help="(smoe)")
    parser.add_argument(
        "--target", type=int, metavar="CLASS", help="fastcam's class, a number (predicted)"
    )
    parser.add_argument(
        "--lovi", action="store_true", help="a picture of which scale spoke as well"
    )


def export_network(network: nn.Module, options: argparse.Namespace) -> Written:
    """Write a network with its map.

    Args:
        network: The network.
        options: The command line's.

    Raises:
        ValueError: If there is no map of the network, or no ONNX file of the two.
        ImportError: If a package is missing.
        OSError: If the file cannot be written.
    """
    size = options.size
    example = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    network = network.eval()
    try:
        with torch.no_grad():
            network(example)
    # A network raises whatever its authors chose.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"the network does not run on a {size}x{size} image: {reason}") from error
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
    )
    return write_onnx(
        module,
        example,
        options.out,
        dynamic_batch=options.dynamic_batch,
        dynamic_size=options.dynamic_size,
        opset=options.opset,
    )
