"""Options that several commands of `fastsal` share, and the network they name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn, TypeAlias

import torch
from torch import nn

from fastsal.cli.names import check_network_name, check_packages, network_packages
from fastsal.kernels.constants import EPSILON
from fastsal.networks.by_name import FORMS, build_network
from fastsal.networks.hugging_face.folder import PREFIX
from fastsal.statistics.registry import STATISTICS

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


class CommandError(Exception):
    """An error that ends the command; its message is printed."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the command's whole usage."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with 2."""
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help lists the options\n")


def random_image(height: int, width: int, channels: int = 3) -> torch.Tensor:
    """Return one image `(1, channels, height, width)` of random pixels, always the same."""
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (1, channels, height, width)
    return torch.rand(shape, generator=generator, device="cpu", dtype=torch.float32)


def add_model_options(parser: argparse.ArgumentParser, files: bool = False) -> None:
    """Add the network, its weights and the image's size.

    Args:
        parser: The command's parser.
        files: The command takes ONNX files too.
    """
    forms = f"{FORMS}, or FILE.onnx" if files else FORMS
    parser.add_argument("model", metavar="MODEL", help=forms)
    parser.add_argument("--size", type=pixels, default=224, help="shorter side in pixels (224)")
    add_weights_options(parser)


def add_weights_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the network's weights, and the channels of its images."""
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--weights",
        type=Path,
        metavar="PATH",
        help="a state dict, a checkpoint that holds one, or safetensors",
    )
    weights.add_argument(
        "--random-weights", action="store_true", help="initial weights; nothing is downloaded"
    )
    parser.add_argument(
        "--channels",
        type=pixels,
        metavar="N",
        help="channels of the network's images (those of its first convolution)",
    )


def add_method_options(parser: argparse.ArgumentParser) -> None:
    """Add the kind of map."""
    parser.add_argument("--method", default="smoe", choices=["smoe", "fastcam"], help="(smoe)")
    parser.add_argument(
        "--lovi",
        action="store_true",
        help="add a LOVI picture: the scales in colour, over the photograph",
    )


def add_scale_options(parser: argparse.ArgumentParser) -> None:
    """Add the layers, their weights and the statistic."""
    parser.add_argument(
        "--layers",
        nargs="+",
        metavar="NAME",
        help="the layers to read, or 'late' for all scales but the first two (all scales)",
    )
    parser.add_argument(
        "--scale-weights",
        type=scale_weights,
        default="linear",
        metavar="NAME_OR_NUMBERS",
        help="linear, equal, prior, or a number for each scale: 1,1,2,3,5 (linear)",
    )
    parser.add_argument(
        "--statistic", default="smoe_scale", choices=sorted(STATISTICS), help="(smoe_scale)"
    )
    parser.add_argument(
        "--epsilon",
        type=float,
        default=EPSILON,
        metavar="E",
        help="added to each activation (1e-6; the authors' code adds 1e-7)",
    )


def pixels(text: str) -> int:
    """Return a number of pixels above 0.

    Raises:
        argparse.ArgumentTypeError: If it is no whole number, or below 1.

    Example:
        >>> pixels("224")
        224
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def scale_weights(text: str) -> str | tuple[float, ...]:
    """Return numbers that are separated by commas, or the text as the name of a weighting.

    Example:
        >>> scale_weights("1,2.5"), scale_weights("equal")
        ((1.0, 2.5), 'equal')
    """
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        # The library knows the names.
        return text


def network_of(
    options: argparse.Namespace,
    *,
    pretrained: bool,
    packages: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> nn.Module:
    """Build the network that the options name, after a line on stderr that says so.

    Args:
        options: The parsed options, with `model`, `weights` and `command`.
        pretrained: Loads published weights where `weights` is None.
        packages: What the command needs beside the network's packages, as for `check_packages`.
        quiet: Prints no line.

    Raises:
        CommandError: If there is no such network, or packages are missing.
    """
    name, weights = options.model, options.weights
    try:
        needs = {**network_packages(name, weights), **(packages or {})}
        check_packages(options.command, needs)
        check_network_name(name)
        if not quiet:
            # A download or a large file can take minutes, in which nothing else is said.
            origin = _origin(options, pretrained)
            print(f"fastsal: loading {name} with {origin} ...", file=sys.stderr, flush=True)
        # Random weights are the same at every call, so that finished pictures stay valid.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = build_network(name, weights, pretrained=pretrained)
    except (ValueError, ImportError) as error:
        raise CommandError(str(error)) from error
    return network


def _origin(options: argparse.Namespace, pretrained: bool) -> str:
    """Return in words where the weights of the network are from."""
    if options.weights is not None:
        return f"the weights of {options.weights}"
    if options.model.startswith(PREFIX) and pretrained:
        return "the weights in its folder"
    if ":" in options.model and not options.model.startswith(("timm:", PREFIX)):
        return "the weights that its function gives it"
    return "its published weights" if pretrained else "initial weights"
