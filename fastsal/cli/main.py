"""The command `fastsal`: list a network's layers, write the maps of images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from fastsal._version import __version__
from fastsal.cam.registry import CAMS
from fastsal.cli.export import add_export_options, export_network
from fastsal.cli.map_pictures import Settings
from fastsal.cli.maps import write_maps
from fastsal.maps.normalization import NORMALIZATIONS
from fastsal.networks.by_name import FORMS, build_network
from fastsal.networks.preprocessing import class_index, preprocessing_of
from fastsal.networks.scales import Candidate, ScalesError, candidates, too_few
from fastsal.statistics.registry import STATISTICS


class CommandError(Exception):
    """What ends the command, in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    It is 0, or 1 with one line on what went wrong, or 130 where Ctrl-C stopped it.

    Args:
        arguments: Those of the command line; None takes the process's own.
    """
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except CommandError as error:
        print(f"fastsal: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fastsal: stopped; the same command goes on from here", file=sys.stderr)
        return 130
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
    _add_weights(model)

    layers = commands.add_parser(
        "layers",
        parents=[model],
        help="list the layers that can be read, and those that are",
        description="List every layer whose tensor all paths down the network's trunk cross, and "
        "mark those that end a spatial scale. The network runs on one image with its initial "
        "weights unless --weights is given.",
    )
    layers.set_defaults(run=_layers)

    maps = commands.add_parser(
        "maps",
        help="write the maps of photographs",
        description="Write for each photograph its map and an overlay as PNG, and a line of "
        "manifest.jsonl: size, predicted class, scales, settings, versions. A file that cannot be "
        "read is recorded there and the rest goes on; what is done is not done again. A network of "
        "torchvision or timm has its pretrained weights unless --weights or --random-weights is "
        "given. Pictures have the size the network saw. A video gives videos.",
    )
    maps.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGE_OR_FOLDER",
        help="files, videos among them, or whole folders of images",
    )
    maps.add_argument("--model", required=True, metavar="NAME_OR_PATH", help=FORMS)
    _add_weights(maps)
    maps.add_argument("--out", required=True, type=Path, metavar="DIR", help="where files go")
    maps.add_argument("--method", default="smoe", choices=["smoe", "fastcam"], help="(smoe)")
    maps.add_argument("--lovi", action="store_true", help="a picture of which scale spoke as well")
    maps.add_argument(
        "--size",
        type=_size_or_original,
        default=224,
        help="shorter side in pixels (224), or 'original'",
    )
    _add_reading(maps)
    maps.add_argument(
        "--smoothing",
        type=_smoothing,
        default=0.0,
        metavar="A",
        help="average maps over time, of a video, or of a folder's images by name: each is A times "
        "the one before and 1 - A of its own (0)",
    )
    maps.add_argument(
        "--normalize", default="gaussian", choices=sorted(NORMALIZATIONS), help="(gaussian)"
    )
    maps.add_argument("--cam", choices=sorted(CAMS), help="fastcam's (gradcam)")
    maps.add_argument(
        "--target", metavar="CLASS", help="the class fastcam explains, number or name (predicted)"
    )
    maps.add_argument("--device", default="cpu", help="a torch device (cpu)")
    for name in ("mean", "std"):
        maps.add_argument(
            f"--{name}",
            nargs=3,
            type=float,
            metavar=("R", "G", "B"),
            help=f"the network's input {name} (as published with its weights, else ImageNet's)",
        )
    maps.add_argument("--quiet", action="store_true", help="no progress bar")
    maps.set_defaults(run=_maps)

    export = commands.add_parser(
        "export",
        parents=[model],
        help="write a network with its map as an ONNX file",
        description="Write one ONNX file that gives the network's output, the map and the maps of "
        "the scales: with onnxruntime and NumPy alone it runs. The file is compared with PyTorch "
        "on images the export has not seen before it takes its place. A network of torchvision or "
        "timm has its pretrained weights unless --weights or --random-weights is given.",
    )
    add_export_options(export)
    _add_reading(export)
    export.set_defaults(run=_export)
    return parser


def _add_weights(parser: argparse.ArgumentParser) -> None:
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--weights", type=Path, metavar="PATH", help="a file with a state dict")
    weights.add_argument(
        "--random-weights", action="store_true", help="initial weights; nothing is downloaded"
    )


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="layers to read (found)")
    parser.add_argument(
        "--scale-weights",
        type=_scale_weights,
        default="linear",
        metavar="NAME_OR_NUMBERS",
        help="linear, equal, prior, or a number a scale: 1,1,2,3,5 (linear)",
    )
    parser.add_argument(
        "--statistic", default="smoe_scale", choices=sorted(STATISTICS), help="(smoe_scale)"
    )


def _size_or_original(text: str) -> int | None:
    return None if text == "original" else _size(text)


def _size(text: str) -> int:
    size = int(text)
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected a number of pixels above 0, got {text}")
    return size


def _smoothing(text: str) -> float:
    smoothing = float(text)
    if not 0 <= smoothing < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 up to but not 1, got {text}")
    return smoothing


def _scale_weights(text: str) -> str | tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        # A name: the library knows which there are.
        return text


def _layers(options: argparse.Namespace) -> int:
    network = _network(options, pretrained=False)
    image = torch.rand(1, 3, options.size, options.size, generator=torch.Generator().manual_seed(0))
    try:
        found = candidates(network, image)
    except ScalesError as error:
        raise CommandError(f"{options.model}: {error}") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise CommandError(
            f"{options.model} does not run on a {options.size}x{options.size} image: {reason}"
        ) from error
    rows = [("layer", "shape", "stride", "sign", "chosen"), *map(_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    if sum(candidate.chosen for candidate in found) < 2:
        print(too_few(found))
    return 0


def _row(candidate: Candidate) -> tuple[str, str, str, str, str]:
    scale = candidate.scale
    # Calls tell apart what one module does at several places.
    name = f"{scale.name} (its call {scale.call}, from 0)" if scale.call else scale.name
    name = f"{name} (its input)" if scale.layer_input else name
    name = f"{name} (then a ReLU function)" if scale.functional_relu else name
    shape = "x".join(map(str, scale.shape[1:])) + (" (HWC)" if scale.channels_last else "")
    sign = "signed" if scale.signed else "non-negative"
    return name, shape, str(scale.stride), sign, "yes" if candidate.chosen else ""


def _maps(options: argparse.Namespace) -> int:
    for name in ("cam", "target"):
        given = getattr(options, name)
        if given is not None and options.method != "fastcam":
            raise CommandError(
                f"--{name} {given} is for --method fastcam; SMOE Scale does not look at a class"
            )
    network = _network(options, pretrained=not options.random_weights)
    try:
        known = preprocessing_of(options.model, network)
        settings = Settings(
            method=options.method,
            cam=options.cam or ("gradcam" if options.method == "fastcam" else None),
            target=None if options.target is None else class_index(options.target, known.classes),
            layers=None if options.layers is None else tuple(options.layers),
            statistic=options.statistic,
            normalize=options.normalize,
            scale_weights=options.scale_weights,
            size=options.size,
            lovi=options.lovi,
            mean=tuple(options.mean or known.mean),
            std=tuple(options.std or known.std),
            smoothing=options.smoothing,
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
        )
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        raise CommandError(str(error)) from error
    manifest = options.out / "manifest.jsonl"
    counts = f"{tally.written} written, {tally.done_before} done before, {tally.failed} failed"
    print(f"{counts}: {manifest}")
    if not tally.written and not tally.done_before:
        raise CommandError(f"no map of the {tally.failed} image(s) could be made; see {manifest}")
    return 0


def _export(options: argparse.Namespace) -> int:
    if options.target is not None and options.method != "fastcam":
        raise CommandError(f"--target {options.target} is for --method fastcam")
    network = _network(options, pretrained=not options.random_weights)
    try:
        written = export_network(network, options)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        raise CommandError(f"{options.model}: {error}") from error
    print(
        f"{written.path}: {', '.join(written.outputs)}; {written.file_bytes / 1e6:.1f} MB, equal "
        f"to PyTorch's to {written.difference:.1g}"
    )
    return 0


def _network(options: argparse.Namespace, *, pretrained: bool) -> nn.Module:
    try:
        # Random weights are the same at every call, so that what is done stays done.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build_network(options.model, options.weights, pretrained=pretrained)
    except (ValueError, ImportError) as error:
        raise CommandError(str(error)) from error
