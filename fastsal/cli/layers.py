"""`fastsal layers`: a table of the layers that can be read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fastsal.cli.names import about, check_packages, is_onnx
from fastsal.cli.options import (
    CommandError,
    Commands,
    add_model_options,
    network_of,
    random_image,
)
from fastsal.export.onnx_graph.traced import traced_graph
from fastsal.geometry.placement import View
from fastsal.networks.preprocessing import input_form
from fastsal.networks.scales import Candidate, Scale, ScalesError, candidates, too_few
from fastsal.optional import one_line

HEADINGS = ("layer", "shape", "stride", "sign", "place", "chosen")
PLACE = HEADINGS.index("place")
WHOLE = "whole image"


def add_layers_command(commands: Commands) -> None:
    """Add `fastsal layers` to the commands."""
    parser = commands.add_parser(
        "layers",
        help="list the layers that can be read, with the chosen ones marked",
        description="List every layer whose tensor all paths down the network's trunk cross, and "
        "mark those that end a spatial scale. Of FILE.onnx these are tensors of its graph. The "
        "network runs once, on random pixels, with its initial weights unless --weights is given. "
        "Where the network moves, crops or pads its image, a column says in which place of it each "
        "layer lies.",
    )
    add_model_options(parser, files=True)
    parser.set_defaults(run=list_layers)


def list_layers(options: argparse.Namespace) -> int:
    """Print the table and return the exit code.

    Args:
        options: The parsed options.

    Raises:
        CommandError: If the network does not run, or no layer can be read.
    """
    found, pixels = (_of_file if is_onnx(options.model) else _of_network)(options)
    rows = [HEADINGS, *(_row(candidate, pixels) for candidate in found)]
    if all(row[PLACE] == WHOLE for row in rows[1:]):
        rows = [row[:PLACE] + row[PLACE + 1 :] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    if sum(candidate.chosen for candidate in found) < 2:
        print(too_few(found))
    return 0


def _of_network(options: argparse.Namespace) -> tuple[Sequence[Candidate], tuple[int, int]]:
    """Return a network's candidates, and (H, W) of the image that was tried."""
    network = network_of(options, pretrained=False, quiet=True)
    try:
        channels, dtype = input_form(network, options.channels)
    except ValueError as error:
        raise CommandError(f"{options.model}: {error}") from error
    image = random_image(options.size, options.size, channels).to(dtype)
    try:
        found = candidates(network, image)
    except ScalesError as error:
        raise CommandError(f"{options.model}: {error}") from error
    # A network raises any class of error.
    except Exception as error:
        size = f"{options.size}x{options.size}"
        size += "" if channels == 3 else f" {channels}-channel"
        raise CommandError(
            f"{options.model} does not run on a {size} image: {one_line(error)}"
        ) from error
    return found, (image.shape[2], image.shape[3])


def _of_file(options: argparse.Namespace) -> tuple[Sequence[Candidate], tuple[int, int]]:
    """Return an ONNX file's candidates, and (H, W) of the image that was tried."""
    for name, default in (("weights", None), ("random_weights", False), ("channels", None)):
        if getattr(options, name) != default:
            raise CommandError(
                f"--{name.replace('_', '-')} is for a network of PyTorch; {options.model} has its "
                "weights and channels"
            )
    try:
        check_packages("layers", {"onnx": "onnx", "onnxruntime": "onnxruntime"})
        traced = traced_graph(options.model, options.size)
        return traced.candidates(), traced.size
    except (ValueError, OSError, ImportError) as error:
        raise CommandError(about(options.model, error)) from error


def _row(candidate: Candidate, size: tuple[int, int]) -> tuple[str, ...]:
    scale = candidate.scale
    # One module called at several places has a row for each call.
    name = f"{scale.name} (its call {scale.call}, from 0)" if scale.call else scale.name
    name = f"{name} (its input)" if scale.layer_input else name
    name = f"{name} (then a ReLU function)" if scale.functional_relu else name
    if scale.functions:
        name = f"{name} (then {scale.functions} function{'s' * (scale.functions > 1)})"
    shape = "x".join(map(str, scale.shape[1:])) + (" (HWC)" if scale.channels_last else "")
    down, across = scale.strides
    stride = str(down) if down == across else f"{down}x{across}"
    sign = "non-negative"
    if scale.signed:
        sign = "signed, centred" if scale.linear else "signed"
    return name, shape, stride, sign, place_of(scale, size), "yes" if candidate.chosen else ""


def place_of(scale: Scale, size: tuple[int, int]) -> str:
    """Return the place of a scale's maps on an image in words.

    Args:
        scale: The scale.
        size: (H, W) of the image.
    """
    placement = scale.placement
    words = ["transposed"] if scale.layout.transposed else []
    if scale.varies:
        words.append("decided by the image")
    elif scale.doubt:
        words.append("not known")
    elif placement is not None:
        view = placement.views[0]
        if len(placement.views) > 1:
            words.append(f"{len(placement.views)} views")
        elif view.points is not None:
            words.append("turned")
        else:
            words += _of_view(view, size)
    return ", ".join(words) or WHOLE


def _of_view(view: View, size: tuple[int, int]) -> list[str]:
    words = []
    lines = (("rows", "upside down", view.rows), ("columns", "mirrored", view.columns))
    for (name, turned, places), (first, last), length in zip(lines, view.seen, size, strict=True):
        start, stop = max(0, round(first)), min(length, round(last))
        if (start, stop) != (0, length):
            words.append(f"{name} {start} to {stop}")
        if first < -1 or last > length + 1:
            words.append(f"{name} padded")
        if places[0] > places[-1]:
            words.append(turned)
    return words
