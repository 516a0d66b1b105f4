"""`fastsal layers`: a table of the layers that can be read."""

from __future__ import annotations

import argparse

from fastsal.cli.options import (
    CommandError,
    Commands,
    add_model_options,
    network_of,
    random_image,
)
from fastsal.networks.preprocessing import input_form
from fastsal.networks.scales import Candidate, ScalesError, candidates, too_few
from fastsal.optional import one_line

HEADINGS = ("layer", "shape", "stride", "sign", "chosen")


def add_layers_command(commands: Commands) -> None:
    """Add `fastsal layers` to the commands."""
    parser = commands.add_parser(
        "layers",
        help="list the layers that can be read, with the chosen ones marked",
        description="List every layer whose tensor all paths down the network's trunk cross, and "
        "mark those that end a spatial scale. The network runs once, on random pixels, with its "
        "initial weights unless --weights is given.",
    )
    add_model_options(parser)
    parser.set_defaults(run=list_layers)


def list_layers(options: argparse.Namespace) -> int:
    """Print the table and return the exit code.

    Args:
        options: The parsed options.

    Raises:
        CommandError: If the network does not run, or no layer can be read.
    """
    network = network_of(options, pretrained=False)
    channels, dtype = input_form(network, options.channels)
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
    rows = [HEADINGS, *map(_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    if sum(candidate.chosen for candidate in found) < 2:
        print(too_few(found))
    return 0


def _row(candidate: Candidate) -> tuple[str, str, str, str, str]:
    scale = candidate.scale
    # One module called at several places has a row for each call.
    name = f"{scale.name} (its call {scale.call}, from 0)" if scale.call else scale.name
    name = f"{name} (its input)" if scale.layer_input else name
    name = f"{name} (then a ReLU function)" if scale.functional_relu else name
    shape = "x".join(map(str, scale.shape[1:])) + (" (HWC)" if scale.channels_last else "")
    sign = "signed" if scale.signed else "non-negative"
    return name, shape, str(scale.stride), sign, "yes" if candidate.chosen else ""
