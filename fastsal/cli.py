"""The command `fastsal`: list a network's layers, write the maps of images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsal._version import __version__
from fastsal.attribution import SMOEScale
from fastsal.lovi import heatmap, lovi, overlay
from fastsal.model_names import FORMS, build_network, needed
from fastsal.scales import Candidate, candidates

if TYPE_CHECKING:
    from types import ModuleType

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class CommandError(Exception):
    """What ends the command, in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 1 with one line on what went wrong.

    Args:
        arguments: Those of the command line; None takes the process's own.
    """
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except CommandError as error:
        print(f"fastsal: {error}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastsal", description="SMOE Scale saliency maps from one forward pass."
    )
    parser.add_argument("--version", action="version", version=f"fastsal {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("model", metavar="MODEL", help=FORMS)
    model.add_argument("--size", type=_size, default=224, help="shorter side in pixels (224)")
    weights = model.add_mutually_exclusive_group()
    weights.add_argument("--weights", type=Path, metavar="PATH", help="a file with a state dict")
    weights.add_argument(
        "--random-weights", action="store_true", help="initial weights; nothing is downloaded"
    )

    layers = commands.add_parser(
        "layers",
        parents=[model],
        help="list the layers that can be read, and those that are",
        description="List every layer whose tensor all paths through the network cross, and mark "
        "those that end a spatial scale. The network keeps its initial weights unless --weights "
        "is given.",
    )
    layers.set_defaults(run=_layers)

    maps = commands.add_parser(
        "maps",
        parents=[model],
        help="write the maps of images",
        description="Write for each image its combined SMOE Scale map, its LOVI picture and an "
        "overlay, as PNG. A torchvision network has its pretrained weights unless --weights or "
        "--random-weights is given.",
    )
    maps.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files")
    maps.add_argument("--out", required=True, type=Path, metavar="DIR", help="where PNGs go")
    maps.add_argument("--layers", nargs="+", metavar="NAME", help="layers to read (found)")
    maps.add_argument(
        "--scale-weights", default="linear", choices=["linear", "equal", "prior"], help="(linear)"
    )
    maps.add_argument("--device", default="cpu", help="a torch device (cpu)")
    for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        maps.add_argument(
            f"--{name}",
            nargs=3,
            type=float,
            default=values,
            metavar=("R", "G", "B"),
            help=f"the network's input {name} (ImageNet's)",
        )
    maps.set_defaults(run=_maps)
    return parser


def _size(text: str) -> int:
    size = int(text)
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected a number of pixels above 0, got {text}")
    return size


def _layers(options: argparse.Namespace) -> int:
    network = _network(options, pretrained=False)
    image = torch.rand(1, 3, options.size, options.size, generator=torch.Generator().manual_seed(0))
    try:
        found = candidates(network, image)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise CommandError(
            f"{options.model} does not run on a {options.size}x{options.size} image: {error}"
        ) from error
    rows = [("layer", "shape", "stride", "sign", "chosen"), *map(_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    chosen = sum(candidate.chosen for candidate in found)
    if chosen < 2:
        print(
            f"{chosen} spatial scale(s) found, two or more are needed: "
            "give layers yourself, SMOEScale(model, layers=[...])"
        )
    return 0


def _row(candidate: Candidate) -> tuple[str, str, str, str, str]:
    scale = candidate.scale
    name = f"{scale.name} (its input)" if scale.layer_input else scale.name
    name = f"{name} (then a ReLU function)" if scale.functional_relu else name
    shape = "x".join(map(str, scale.shape[1:])) + (" (HWC)" if scale.channels_last else "")
    sign = "signed" if scale.signed else "non-negative"
    return name, shape, str(scale.stride), sign, "yes" if candidate.chosen else ""


def _maps(options: argparse.Namespace) -> int:
    network = _network(options, pretrained=not options.random_weights)
    try:
        network = network.to(options.device).eval()
        attributor = SMOEScale(network, options.layers, weights=options.scale_weights)
        options.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, RuntimeError, OSError) as error:
        raise CommandError(str(error)) from error
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (options.mean, options.std))
    taken: dict[str, int] = {}
    written = 0
    for path in options.images:
        try:
            image = _read_image(path, options.size)
        except (OSError, ValueError, SyntaxError) as error:
            print(f"fastsal: skipped {path}: {error}", file=sys.stderr)
            continue
        try:
            maps = attributor.maps(((image - mean) / std).to(options.device))
        except (ValueError, RuntimeError) as error:
            raise CommandError(f"{path}: {error}") from error
        combined, stacked = maps.combined.cpu(), maps.stacked.cpu()
        # Images of one name from several folders must not overwrite each other.
        taken[path.stem] = taken.get(path.stem, 0) + 1
        stem = path.stem if taken[path.stem] == 1 else f"{path.stem}-{taken[path.stem]}"
        pictures = {
            "map": heatmap(combined),
            "lovi": lovi(stacked),
            "overlay": overlay(image, combined),
        }
        for kind, picture in pictures.items():
            _write_png(picture[0], options.out / f"{stem}_{kind}.png")
        written += 1
        print(f"{path}: {', '.join(f'{stem}_{kind}.png' for kind in pictures)}")
    if not written:
        raise CommandError(f"none of the {len(options.images)} image(s) could be read")
    return 0


def _network(options: argparse.Namespace, *, pretrained: bool) -> nn.Module:
    try:
        return build_network(options.model, options.weights, pretrained=pretrained)
    except (ValueError, ImportError) as error:
        raise CommandError(str(error)) from error


def _needed(package: str, purpose: str) -> ModuleType:
    try:
        return needed(package, purpose)
    except ImportError as error:
        raise CommandError(str(error)) from error


def _read_image(path: Path, size: int) -> Tensor:
    """Return an image `(1, 3, H, W)` in [0, 1], its shorter side of a size."""
    pillow_image = _needed("PIL.Image", "reading images")
    orientation = _needed("PIL.ImageOps", "reading images")
    with pillow_image.open(path) as file:
        rgb = orientation.exif_transpose(file).convert("RGB")
    pixels = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    image = pixels.reshape(1, rgb.height, rgb.width, 3).movedim(-1, 1).float() / 255
    factor = size / min(rgb.height, rgb.width)
    shape = [max(size, round(side * factor)) for side in (rgb.height, rgb.width)]
    return F.interpolate(image, shape, mode="bilinear", antialias=True).clamp(0, 1)


def _write_png(picture: Tensor, path: Path) -> None:
    pillow_image = _needed("PIL.Image", "writing images")
    pixels = picture.mul(255).round().to(torch.uint8).movedim(0, -1).contiguous()
    size = (picture.shape[2], picture.shape[1])
    pillow_image.frombytes("RGB", size, pixels.numpy().tobytes()).save(path)


if __name__ == "__main__":
    sys.exit(main())
