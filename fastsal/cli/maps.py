"""`fastsal maps`: the maps of photographs and videos as pictures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from fastsal.cam.registry import CAMS
from fastsal.cli.map_pictures import PictureSettings
from fastsal.cli.map_writer import write_maps
from fastsal.cli.names import checked_layers, class_index
from fastsal.cli.options import (
    CommandError,
    Commands,
    add_method_options,
    add_scale_options,
    add_weights_options,
    network_of,
    pixels,
)
from fastsal.images import clips
from fastsal.images.files import checked_window
from fastsal.maps.normalization import NORMALIZATIONS
from fastsal.networks.by_name import FORMS
from fastsal.networks.preprocessing import input_form, of_channels, preprocessing_of


def add_maps_command(commands: Commands) -> None:
    """Add `fastsal maps` to the commands."""
    parser = commands.add_parser(
        "maps",
        help="write the maps of photographs and videos",
        description="Write for each photograph its map and an overlay as PNG, and a line of "
        "manifest.jsonl: size, predicted class, scales, settings, versions. A file that cannot be "
        "read is recorded there, and the run goes on; the exit code is then 1. Photographs with "
        "valid pictures are skipped; those of other settings stay, unless --overwrite is given. "
        "A network of torchvision or timm has its pretrained weights unless --weights or "
        "--random-weights is given. Pictures have the size of the network's input. A video gives "
        "videos.",
    )
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGE_OR_FOLDER",
        help="image files, videos, or folders of images",
    )
    parser.add_argument("--model", required=True, metavar="NAME_OR_PATH", help=FORMS)
    add_weights_options(parser)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the folder of the pictures"
    )
    add_method_options(parser)
    parser.add_argument(
        "--size",
        type=pixels_or_original,
        default=224,
        help="shorter side in pixels (224), or 'original'",
    )
    add_scale_options(parser)
    parser.add_argument(
        "--smoothing",
        type=smoothing,
        default=0.0,
        metavar="A",
        help="smooth the maps of a video, or of a folder's images in the order of their names: "
        "each becomes A times the smoothed map before plus 1 - A times itself (0)",
    )
    parser.add_argument(
        "--normalize", default="gaussian", choices=sorted(NORMALIZATIONS), help="(gaussian)"
    )
    parser.add_argument(
        "--cam",
        choices=sorted(CAMS),
        help="fastcam's class activation map (gradcam; of a detector layercam)",
    )
    parser.add_argument(
        "--target",
        metavar="CLASS",
        help="the class fastcam explains, number or name (predicted); of a detector the best box "
        "of that class",
    )
    parser.add_argument("--device", default="cpu", help="a torch device (cpu)")
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}",
            nargs=3,
            type=float,
            metavar=("R", "G", "B"),
            help=f"the network's input {name} (as published with its weights, else ImageNet's); "
            "grey has their average",
        )
    parser.add_argument(
        "--window",
        type=window,
        metavar="LOW,HIGH",
        help="the grey values that become 0 and 1, for pictures of 12 or 16 bits "
        "(the whole range of 8 or 16)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace maps of these files that were made with other settings",
    )
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="print no progress bar and no line for each file, but errors, warnings and the count",
    )
    parser.set_defaults(run=make_maps)


def pixels_or_original(text: str) -> int | None:
    """Return a number of pixels above 0, or None for "original".

    Raises:
        argparse.ArgumentTypeError: If it is neither.

    Example:
        >>> pixels_or_original("224"), pixels_or_original("original")
        (224, None)
    """
    if text == "original":
        return None
    try:
        return pixels(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}: give pixels, or 'original'") from error


def window(text: str) -> tuple[float, float]:
    """Return two numbers with a comma between them, the first below the second.

    Raises:
        argparse.ArgumentTypeError: If it is something else.

    Example:
        >>> window("0,4095")
        (0.0, 4095.0)
    """
    try:
        return checked_window([float(word) for word in text.split(",")])
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected LOW,HIGH, two grey values, LOW below HIGH, got {text!r}"
        ) from error


def smoothing(text: str) -> float:
    """Return a number from 0 up to but not 1.

    Raises:
        argparse.ArgumentTypeError: If it is not in this range, or no number.

    Example:
        >>> smoothing("0.8")
        0.8
    """
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 up to but not 1, got {text!r}")
    return number


def packages_of(images: Sequence[Path]) -> dict[str, str]:
    """Return the packages that reading and writing the files needs, by module.

    Example:
        >>> packages_of([Path("cat.jpg")])
        {'PIL': 'pillow'}
    """
    found = {"PIL": "pillow"}
    if any(path.suffix.lower() in clips.SUFFIXES for path in images):
        found["av"] = "'fastsal[video]'"
    return found


def default_cam(network: nn.Module) -> str:
    """Return the name of Fast-CAM's class activation map for a network.

    Example:
        >>> default_cam(nn.ReLU())
        'gradcam'
    """
    detector = type(network).__module__.startswith("torchvision.models.detection.")
    return "layercam" if detector else "gradcam"


def make_maps(options: argparse.Namespace) -> int:
    """Write the pictures, print their number and return the exit code.

    Args:
        options: The parsed options.

    Raises:
        CommandError: If the options do not fit, or the map of any file could not be made.
    """
    for name in ("cam", "target"):
        given = getattr(options, name)
        if given is not None and options.method != "fastcam":
            raise CommandError(
                f"--{name} {given} is for --method fastcam; SMOE Scale does not look at a class"
            )
    network = network_of(
        options,
        pretrained=not options.random_weights,
        packages=packages_of(options.images),
        quiet=options.quiet,
    )
    try:
        layers = checked_layers(network, options.model, options.layers)
        known = preprocessing_of(options.model, network)
        channels, _ = input_form(network, options.channels)
        settings = PictureSettings(
            method=options.method,
            cam=options.cam or (default_cam(network) if options.method == "fastcam" else None),
            target=None if options.target is None else class_index(options.target, known.classes),
            layers=tuple(layers) if isinstance(layers, list) else layers,
            statistic=options.statistic,
            normalize=options.normalize,
            scale_weights=options.scale_weights,
            size=options.size,
            lovi=options.lovi,
            mean=of_channels(options.mean or known.mean, channels, 0.0),
            std=of_channels(options.std or known.std, channels, 1.0),
            smoothing=options.smoothing,
            epsilon=options.epsilon,
            window=options.window,
        )
        tally = write_maps(
            network,
            options.model,
            options.images,
            options.out,
            settings,
            classes=known.classes,
            device=options.device,
            quiet=options.quiet,
            overwrite=options.overwrite,
        )
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        raise CommandError(str(error)) from error
    manifest = options.out / "manifest.jsonl"
    counts = f"{tally.written} written, {tally.done_before} done before, {tally.failed} failed"
    print(f"{counts}: {manifest}")
    if not tally.written and not tally.done_before:
        raise CommandError(f"no map could be made of any image; {manifest} says why")
    if tally.failed:
        total = tally.written + tally.done_before + tally.failed
        raise CommandError(f"{tally.failed} of {total} files have no map; {manifest} says why")
    return 0
