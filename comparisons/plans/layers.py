"""The plan of a run inside the network, and the recipe of its fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from comparisons.plans.plan import PlanError
from evaluation.datasets.load import axes_of
from evaluation.layers.layerwise import Locations
from evaluation.networks.pretrained import AS_BUILT
from evaluation.training.retraining import Recipe
from fastsal.statistics.registry import STATISTICS

__all__ = ["AS_BUILT", "TRAIN", "LayersPlan", "tuning_recipe"]

TRAIN = "train"


def tuning_recipe(**options: Any) -> Recipe:
    """Return the recipe of fine-tuning, without crops and flips, since activations are cached.

    >>> tuning_recipe(epochs=3).learning_rate
    0.02
    """
    defaults: dict[str, Any] = {"epochs": 2, "learning_rate": 0.02, "warmup": 0.1}
    return Recipe(**(defaults | options), crop_padding=0, flip=False)


@dataclass(frozen=True)
class LayersPlan:
    """Every option that a result of a run inside the network depends on.

    Args:
        data: ``name`` or ``name:argument`` of a source of images.
        model: as `evaluation.networks.build.build_network` takes it.
        statistics: keys of `fastsal.statistics.STATISTICS`, in the order of the report; the
            random control always comes along.
        start: origin of the network's weights: ``"train"`` trains one a seed from scratch,
            ``"as-built"`` takes those it is built with, anything else is a file of weights.
        locations: shares of locations that pass the mask.
        seeds: of the networks and of fine-tuning.
        train_images: training images at most; None for all.
        test_images: test images at most; None for all.
        tuning_images: training images that fine-tuning sees at most; None for all.
        image_size: height and width to resize to; None to take images as they are.
        data_seed: seed of generated images, and of which images are taken.
        base: recipe of the network itself.
        tuning: recipe of the part after the mask.

    Raises:
        PlanError: an option that cannot be run; says which.
    """

    data: str
    model: str
    statistics: tuple[str, ...]
    start: str = TRAIN
    locations: Locations = field(default_factory=Locations)
    seeds: tuple[int, ...] = (0,)
    train_images: int | None = None
    test_images: int | None = None
    tuning_images: int | None = None
    image_size: int | None = None
    data_seed: int = 0
    base: Recipe = field(default_factory=Recipe)
    tuning: Recipe = field(default_factory=tuning_recipe)

    def __post_init__(self) -> None:
        """Check every option."""
        if axes_of(self.data) != 2:
            raise PlanError(
                f"--data {self.data}: masks inside the network are for images; compare maps of "
                "volumes and signals by `python -m comparisons run`"
            )
        if not self.statistics or len(set(self.statistics)) < len(self.statistics):
            raise PlanError("statistics: expected at least one, and each once")
        for name in self.statistics:
            if name not in STATISTICS:
                raise PlanError(
                    f"unknown statistic {name!r}: expected some of {', '.join(STATISTICS)}"
                )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise PlanError(f"seeds {list(self.seeds)}: expected some of 0 and up, each once")
        for name in ("train_images", "test_images", "tuning_images", "image_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise PlanError(f"{name}={value}: expected at least 1")
        tuning = self.tuning
        flips = tuning.flip or tuning.alternating_flip
        if tuning.crop_padding or tuning.resized_crop or flips:
            raise PlanError("tuning: cached activations cannot be cropped or flipped")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LayersPlan:
        """Read ``dataclasses.asdict(plan)``, also after JSON made its tuples lists.

        >>> from dataclasses import asdict
        >>> plan = LayersPlan("shapes", "resnet9", ("mean",))
        >>> LayersPlan.from_json(asdict(plan)) == plan
        True
        """
        values = dict(data)
        values["locations"] = Locations(**values["locations"])
        for name in ("base", "tuning"):
            values[name] = Recipe(**values[name])
        for name in ("statistics", "seeds"):
            values[name] = tuple(values[name])
        return cls(**values)

    def conflicts(self, other: LayersPlan) -> list[str]:
        """Return the options, except statistics and seeds, in which two plans differ."""
        names = [entry.name for entry in fields(self) if entry.name not in ("statistics", "seeds")]
        return [name for name in names if getattr(self, name) != getattr(other, name)]
