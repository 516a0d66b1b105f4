"""Options of a training recipe, and their parsers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from comparisons.plans.words import as_words
from evaluation.networks.pretrained import Normalisation
from evaluation.training.recipe import PRECISIONS, RECIPES, Recipe, default_precision
from evaluation.training.schedules import OPTIMIZERS, SCHEDULES

__all__ = ["as_augmentation", "as_milestones", "stated_recipe"]

WEIGHTS = typer.Option(
    help="Weights of the network that the maps explain: torchvision:NAME, timm:TAG, as-built "
    "(those that a function's network comes with), or a file with a state dict; trained here by "
    "default. Retraining starts from scratch either way."
)
WEIGHTS_EXPECT = typer.Option(
    help="Whose normalisation they expect: published (that of the model's published weights, where "
    "it has any), or data (that of the training images)."
)
WEIGHTS_MEAN = typer.Option(
    help="The mean that a file's or as-built weights expect, of R, G and B in [0, 1]: 0.5,0.5,0.5; "
    "with --weights-std, in place of --weights-expect."
)
WEIGHTS_STD = typer.Option(help="The standard deviation likewise, above 0.")
RECIPE = typer.Option(
    help=f"How networks are trained: {', '.join(RECIPES)}; the preset's own by default. The "
    "options below change parts of it."
)
EPOCHS = typer.Option(help="Epochs of each training.")
LEARNING_RATE = typer.Option(
    help="Peak learning rate; published recipes take 0.1 * batch size / 256 for SGD."
)
BATCH_SIZE = typer.Option(help="Images a training step, of all ranks together.")
PRECISION = typer.Option(
    help=f"{', '.join(PRECISIONS)}; bfloat16 where this machine is fast at it. float16 is slow on "
    "processors."
)
OPTIMIZER = typer.Option(help=f"{', '.join(OPTIMIZERS)}.")
SCHEDULE = typer.Option(help=f"Of the learning rate: {', '.join(SCHEDULES)}.")
MILESTONES = typer.Option(
    help="Where the schedule step divides by 10: epochs, or shares of the training, such as "
    "30,60,80."
)
WARMUP = typer.Option(
    help="Time in which the learning rate rises: a share of the training below 1, else epochs."
)
WEIGHT_DECAY = typer.Option(help="Of all weights.")
LABEL_SMOOTHING = typer.Option(help="Of the cross-entropy.")
AUGMENT = typer.Option(
    help="none, or some of flip, alternating-flip (each image the other way round in every second "
    "epoch), crop:PIXELS (padded) and resized-crop:SHARE (of the area, at least), comma-separated."
)
COMPILE = typer.Option(help="Train through torch.compile; the first steps take minutes.")
CHANNELS_LAST = typer.Option(help="Memory format of activations.")
RANKS = typer.Option(
    help="Processes that train each network together, with DistributedDataParallel; by default one "
    "for each GPU of --gpus-per-cell."
)


def stated_recipe(
    named: str | None, usual: Mapping[str, Any], stated: Mapping[str, Any], *, device: str
) -> Recipe:
    """Return the recipe that options describe.

    Args:
        named: a key of `evaluation.training.recipe.RECIPES`, or None.
        usual: fields of the preset's recipe, which holds where none is named.
        stated: fields as they were typed; None for those that were not.
        device: of the networks; decides the precision if neither says it.

    Raises:
        ValueError: an unknown name, or a recipe that cannot be trained.

    >>> stated_recipe("imagenet", {}, {"epochs": 90}, device="cpu").milestones
    (30.0, 60.0, 80.0)
    """
    if named is not None and named not in RECIPES:
        *others, last = RECIPES
        raise ValueError(f"unknown recipe {named!r}: expected {', '.join(others)} or {last}")
    options = dict(usual if named is None else RECIPES[named].options)
    options.setdefault("precision", default_precision(device))
    given = {name: value for name, value in stated.items() if value is not None}
    if given.get("schedule", "step") != "step":
        # The milestones of the named recipe belong to its own schedule.
        given.setdefault("milestones", ())
    return Recipe(**(options | given))


def as_milestones(text: str | None) -> tuple[float, ...] | None:
    """Parse comma-separated epochs or shares of the training.

    Raises:
        ValueError: something that is no number.

    >>> as_milestones("30,60,80"), as_milestones("0.5")
    ((30.0, 60.0, 80.0), (0.5,))
    """
    words = as_words(text)
    if words is None:
        return None
    try:
        return tuple(float(word) for word in words)
    except ValueError:
        raise ValueError(f"--milestones {text!r}: expected numbers, such as 30,60,80") from None


def as_augmentation(text: str | None) -> dict[str, Any]:
    """Parse the fields of a recipe for crops and flips.

    Raises:
        ValueError: a word that is no augmentation; names it.

    >>> as_augmentation("crop:4,flip")
    {'crop_padding': 4, 'resized_crop': 0.0, 'flip': True, 'alternating_flip': False}
    >>> as_augmentation("none")["flip"]
    False
    """
    words = as_words(text)
    if words is None:
        return {}
    found: dict[str, Any] = {"crop_padding": 0, "resized_crop": 0.0}
    found |= {"flip": False, "alternating_flip": False}
    for word in () if words == ("none",) else words:
        name, _, amount = word.partition(":")
        try:
            if word in ("flip", "alternating-flip"):
                found[word.replace("-", "_")] = True
            elif name == "crop":
                found["crop_padding"] = int(amount)
            elif name == "resized-crop":
                found["resized_crop"] = float(amount)
            else:
                raise ValueError(word)
        except ValueError:
            raise ValueError(
                f"--augment {word!r}: expected none, or some of flip, alternating-flip, "
                "crop:PIXELS such as crop:4, and resized-crop:SHARE such as resized-crop:0.08"
            ) from None
    return found


def as_normalisation(mean: str | None, std: str | None) -> Normalisation | None:
    """Parse a mean and a standard deviation of three numbers each; without both, None.

    Raises:
        ValueError: one without the other, or not three numbers.

    >>> as_normalisation("0.5,0.5,0.5", "0.25,0.25,0.25")
    ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ValueError("--weights-mean and --weights-std belong together: give both")
    return _three("--weights-mean", mean), _three("--weights-std", std)


def _three(option: str, text: str) -> tuple[float, float, float]:
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        raise ValueError(
            f"{option} {text!r}: expected three numbers, such as 0.5,0.5,0.5"
        ) from None
    return red, green, blue
