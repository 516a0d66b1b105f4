"""Training recipes, and published recipes by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal, get_args

import torch

__all__ = [
    "PRECISIONS",
    "RECIPES",
    "NamedRecipe",
    "OptimizerName",
    "Recipe",
    "ScheduleName",
    "default_precision",
    "recipe_name",
]

# `evaluation.training.schedules` has an entry for each.
OptimizerName = Literal["sgd", "adamw"]
ScheduleName = Literal["one-cycle", "step", "cosine", "constant"]

# By name, the type of autocast; None for no autocast.
PRECISIONS: dict[str, torch.dtype | None] = {
    "float32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

# Fields in every cell's specification. Newer fields are in it only if they differ from their
# default, so that older cells keep their ids.
_ALWAYS_IN_SPEC = (
    "epochs",
    "batch_size",
    "learning_rate",
    "momentum",
    "weight_decay",
    "label_smoothing",
    "warmup",
    "precision",
    "channels_last",
    "crop_padding",
    "flip",
)


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training.

    Times below 1 are shares of the training, from 1 on they are epochs.

    Args:
        epochs: passes over the training images.
        batch_size: images a step, of all ranks together; the last, smaller batch of an epoch is
            used too.
        learning_rate: peak learning rate; published recipes take 0.1 * batch_size / 256 for SGD.
        momentum: Nesterov momentum of SGD; beta_1 of AdamW.
        weight_decay: weight decay of all weights.
        label_smoothing: label smoothing of the cross-entropy.
        warmup: time in which the learning rate rises, linearly except in ``"one-cycle"``.
        precision: ``"float32"``, or ``"bfloat16"`` or ``"float16"`` for autocast; the loss and
            the weights stay in float32, and float16 scales the loss so that gradients do not
            vanish.
        channels_last: memory format of activations.
        crop_padding: pixels added at each side before the random crop; 0 for none.
        flip: random horizontal flip.
        optimizer: ``"sgd"`` or ``"adamw"``.
        schedule: ``"one-cycle"``, ``"step"`` (divided by 10 at each milestone), ``"cosine"`` (to 0)
            or ``"constant"``.
        milestones: times of the steps of ``"step"``.
        compile: train through `torch.compile`; the weights are those of the plain network.
        resized_crop: least share of an image's area in a random crop that is resized to the
            whole image, as `evaluation.training.augmentation.resized_boxes` draws it; 0 for none.
        ranks: number of processes that train one network together.
        alternating_flip: mirror a random half of the images in odd epochs and the other half in
            even ones, in place of `flip` (Jordan 2024, arXiv 2404.00498, section 3.6).

    Raises:
        ValueError: a value that cannot be trained with; names it.

    >>> Recipe(epochs=2).precision
    'float32'
    """

    epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    warmup: float = 0.25
    precision: str = "float32"
    channels_last: bool = True
    crop_padding: int = 2
    flip: bool = True
    optimizer: OptimizerName = "sgd"
    schedule: ScheduleName = "one-cycle"
    milestones: tuple[float, ...] = ()
    compile: bool = False
    resized_crop: float = 0.0
    ranks: int = 1
    alternating_flip: bool = False

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with."""
        object.__setattr__(self, "milestones", tuple(self.milestones))  # JSON made it a list
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(
                f"epochs={self.epochs}, batch_size={self.batch_size}: expected at least 1 of each"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate:g}: expected more than 0")
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("optimizer", self.optimizer, get_args(OptimizerName))
        _check_choice("schedule", self.schedule, get_args(ScheduleName))
        for name, below in (("momentum", 1.0), ("label_smoothing", 1.0), ("resized_crop", 1.0)):
            value = getattr(self, name)
            if not 0 <= value < below:
                raise ValueError(f"{name}={value:g}: expected at least 0 and less than {below:g}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay={self.weight_decay:g}: expected at least 0")
        if not 0 <= self.warmup <= self.epochs:
            raise ValueError(
                f"warmup={self.warmup:g}: expected a share of the training below 1, or a number "
                f"of its {self.epochs} epochs"
            )
        self._check_milestones()
        if self.crop_padding < 0:
            raise ValueError(f"crop_padding={self.crop_padding}: expected at least 0 pixels")
        if self.crop_padding and self.resized_crop:
            raise ValueError(
                f"crop_padding={self.crop_padding} and resized_crop={self.resized_crop:g} are two "
                "ways to crop: set one of them to 0"
            )
        if self.flip and self.alternating_flip:
            raise ValueError(
                "flip and alternating_flip are two ways to mirror images: set one of them to False"
            )
        if not 1 <= self.ranks <= self.batch_size:
            raise ValueError(
                f"ranks={self.ranks}: expected 1, or more processes that share each batch of "
                f"{self.batch_size} images"
            )

    def _check_milestones(self) -> None:
        if bool(self.milestones) != (self.schedule == "step"):
            raise ValueError(
                f"schedule {self.schedule!r} with milestones {list(self.milestones)}: the schedule "
                "'step' needs some, such as 30,60,80, and no other takes any"
            )
        places = [self.share(milestone) for milestone in self.milestones]
        rising = all(first < second for first, second in pairwise(places))
        if places and not (rising and places[0] > 0 and places[-1] < 1):
            raise ValueError(
                f"milestones {list(self.milestones)}: expected rising shares of the training "
                f"below 1, or epochs before the last of {self.epochs}"
            )

    def share(self, time: float) -> float:
        """The share of the training that a time is.

        >>> Recipe(epochs=90).share(30), Recipe(epochs=90).share(0.25)
        (0.3333333333333333, 0.25)
        """
        return time if time < 1 else time / self.epochs

    def in_spec(self) -> dict[str, Any]:
        """The recipe's entries of a specification; newer fields only if they differ from defaults.

        >>> "optimizer" in Recipe().in_spec(), Recipe(ranks=2).in_spec()["ranks"]
        (False, 2)
        """
        return {
            entry.name: list(value) if isinstance(value, tuple) else value
            for entry in fields(self)
            for value in (getattr(self, entry.name),)
            if entry.name in _ALWAYS_IN_SPEC or value != entry.default
        }


def default_precision(device: str) -> str:
    """``"bfloat16"`` if the device has fast bfloat16 products, else ``"float32"``."""
    if torch.device(device).type == "cuda":
        known = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return "bfloat16" if known else "float32"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"


@dataclass(frozen=True)
class NamedRecipe:
    """A named recipe with a description.

    Args:
        options: fields of `Recipe`.
        about: origin of the recipe, and its drawbacks.
    """

    options: Mapping[str, Any]
    about: str

    @property
    def recipe(self) -> Recipe:
        """The recipe with these fields."""
        return Recipe(**self.options)


_IMAGENET: dict[str, Any] = {
    "epochs": 102,
    "batch_size": 4096,
    "learning_rate": 1.6,
    "weight_decay": 1e-4,
    "warmup": 5.0,
    "schedule": "step",
    "milestones": (30.0, 60.0, 80.0),
    "crop_padding": 0,
    "resized_crop": 0.08,
}

# Fields that are left out keep the defaults of `Recipe`.
RECIPES: dict[str, NamedRecipe] = {
    "cifar-fast": NamedRecipe(
        {
            "epochs": 12,
            "batch_size": 1024,
            "learning_rate": 1.5,
            "momentum": 0.85,
            "weight_decay": 1.3e-3,
            "label_smoothing": 0.2,
            "precision": "bfloat16",
            "flip": False,
            "alternating_flip": True,
        },
        "After airbench94 (Jordan 2024, arXiv 2404.00498), for the network fastnet and images of "
        "32x32 on a GPU: 12 epochs, batch 1024, a rate that rises to 1.5 and falls in one cycle, "
        "Nesterov momentum 0.85, weight decay 1.3e-3, label smoothing 0.2, crops of 2 pixels, "
        "alternating flips, bfloat16. It leaves out averaged weights, other rates for biases and "
        "several looks at a test image.",
    ),
    "imagenet": NamedRecipe(
        _IMAGENET,
        "The recipe of He et al. (2016) as Hooker et al. (2019) trained: 102 epochs, batch 4096, "
        "rate 0.1 B/256, 5 epochs of warm-up, divided by 10 at 30, 60 and 80, Nesterov momentum "
        "0.9, weight decay 1e-4, label smoothing 0.1. Random crops are resized without "
        "interpolation, since interpolation would mix removed and kept pixels.",
    ),
    "imagenet-short": NamedRecipe(
        _IMAGENET
        | {
            "epochs": 18,
            "batch_size": 1024,
            "learning_rate": 2.0,
            "warmup": 2.0,
            "schedule": "cosine",
            "milestones": (),
            "precision": "bfloat16",
            "resized_crop": 0.35,
        },
        "18 epochs in place of 102: batch 1024, rate 0.5 B/256 that falls as a cosine after 2 "
        "epochs of warm-up, crops of at least 35 % of the area, bfloat16. It gives up accuracy, "
        "more of it where masks leave little to learn from, and the likeness to published "
        "figures: its accuracies compare with each other alone.",
    ),
}


def recipe_name(recipe: Recipe) -> str | None:
    """The name of a recipe, whatever its precision and number of ranks; None if it has none.

    >>> recipe_name(RECIPES["imagenet"].recipe), recipe_name(Recipe())
    ('imagenet', None)
    """
    free = ("precision", "channels_last", "compile", "ranks")
    for name, named in RECIPES.items():
        own = named.recipe
        names = [entry.name for entry in fields(Recipe) if entry.name not in free]
        if all(getattr(own, field) == getattr(recipe, field) for field in names):
            return name
    return None


def _check_choice(field: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        *others, last = (repr(name) for name in known)
        raise ValueError(f"{field} {value!r}: expected {', '.join(others)} or {last}")
