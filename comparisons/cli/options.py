"""Options that several commands share, and what they say of a plan."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import typer

from comparisons.cli.panels import in_panels
from comparisons.plans.words import as_words
from evaluation.masking.variants import Variant, crossfitted

__all__ = ["as_variants", "declare_parameters", "typed_command"]

# Each command states its own type and default beside them.
DATA = typer.Option(
    help="shapes, volumes, signals, cifar10, cifar100, imagenette, or the folder of an image set: "
    "folder:PATH with "
    "train/CLASS/* and test/CLASS/* (or a tar file of them, as of imagenet:PATH), places365:PATH, "
    "cowc:PATH, webdataset:PATH."
)
MODEL = typer.Option(
    help="resnet9, resnet9-stride2 (for 64x64), resnet20, fastnet, convnet-3d (for volumes), "
    "convnet-1d (for signals), a torchvision classifier, or package.module:function."
)
TRAIN_IMAGES = typer.Option(help="Training images at most, the same number a class.")
IMAGE_SIZE = typer.Option(
    help="Resize and crop images to this height and width; the side of volumes, the length of "
    "signals."
)
OUT = typer.Option(help="Directory of the run; one that exists is continued.")
SCRATCH = typer.Option(
    help="Folder on each machine's own disk, where several share the run's directory: images and "
    "levels are copied there before trainings read them at random."
)
WORKERS = typer.Option(help="Processes that work at once; by default as many as there is room for.")
THREADS = typer.Option(help="Threads of each worker.")
ENGINE = typer.Option(help="local: processes of this machine; ray: tasks of a Ray cluster.")
ADDRESS = typer.Option(
    help="The Ray cluster to join, or auto for the one this machine belongs to; by default Ray is "
    "started here."
)
CPUS_PER_CELL = typer.Option(
    help="Processors set aside for each piece of work; by default as many as it has threads."
)
GPUS_PER_CELL = typer.Option(
    help="GPUs set aside for each training, which they share; 0.5 lets two trainings share one. "
    "By default one, none on the CPU."
)
DEVICE = typer.Option(help="cpu, or cuda where there is one.")
FILL = typer.Option(
    help="What removed pixels become: mean, noisy-linear, or both as two variants, comma-separated."
)
UNIT = typer.Option(
    help="What is removed: pixel, element (each channel by itself), or both as two variants."
)
CROSSFIT = typer.Option(
    help="A further variant: the class to explain comes from networks that did not train on the "
    "image, in so many folds.",
)
RECURSIVE = typer.Option(
    help="A further variant: at each fraction the maps come from the network retrained before "
    "(ROAR alone)."
)


def declare_parameters(
    command: Callable[..., None], parameters: Iterable[inspect.Parameter]
) -> Callable[..., None]:
    """Declare the parameters of a command that takes them as keywords, in groups.

    Args:
        command: takes any keywords; changed in place.
        parameters: with their annotations, from which typer makes the options.

    Returns:
        The command.
    """
    declared = inspect.Signature(in_panels(parameters))
    command.__signature__ = declared  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in declared.parameters.values()}
    return command


def typed_command() -> str:
    """Return the command line of this process, as it can be typed again."""
    return f"python -m comparisons {shlex.join(sys.argv[1:])}"


def as_variants(
    fill: str | None, unit: str | None, crossfit: int | None, recursive: bool
) -> dict[str, Any]:
    """Return the fields of a plan that say its variants of ROAR and KAR.

    Every variant differs from the first in one option, so that a change in ranking has one cause.

    Args:
        fill: fills, that of the first variant first.
        unit: units, likewise.
        crossfit: folds of the variant with crossfitted targets; None for no such variant.
        recursive: True for a recursive variant.

    >>> as_variants("mean,noisy-linear", None, None, False)["variants"][0].title
    'fill noisy-linear'
    """
    fills, units = as_words(fill) or ("mean",), as_words(unit) or ("pixel",)
    first = Variant(fills[0], units[0])
    variants = [replace(first, fill=other) for other in fills[1:]]
    variants += [replace(first, mask_unit=other) for other in units[1:]]
    if crossfit is not None:
        variants.append(replace(first, target_from=crossfitted(crossfit)))
    if recursive:
        variants.append(replace(first, recursive=True))
    return {"fill": first.fill, "unit": first.mask_unit, "variants": tuple(variants)}
