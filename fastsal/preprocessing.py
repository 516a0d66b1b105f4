"""What a named network expects of its input, and what its classes are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from fastsal.model_names import needed

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How an image in [0, 1] is scaled, and the names of the classes.

    Attributes:
        mean: Subtracted, a number each for red, green and blue.
        std: Divided by, likewise.
        classes: The classes' names; empty where they are not known.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    classes: tuple[str, ...] = ()


def preprocessing_of(name: str, network: nn.Module) -> Preprocessing:
    """Return what the publisher of a network's weights states; ImageNet's numbers where none did.

    Args:
        name: The network's name, as for `build_network`.
        network: The network; timm's carry their mean and standard deviation.

    >>> preprocessing_of("torch.nn:ReLU", nn.ReLU()).mean
    (0.485, 0.456, 0.406)
    """
    published = getattr(network, "default_cfg", None)
    if isinstance(published, dict) and "mean" in published and "std" in published:
        return Preprocessing(tuple(published["mean"]), tuple(published["std"]))
    if ":" in name:
        return Preprocessing()
    models: Any = needed("torchvision", "a network by its name").models
    weights: Any = models.get_model_weights(name)
    default = getattr(weights, "DEFAULT", None)
    if default is None:
        return Preprocessing()
    transforms = default.transforms()
    return Preprocessing(
        tuple(getattr(transforms, "mean", IMAGENET_MEAN)),
        tuple(getattr(transforms, "std", IMAGENET_STD)),
        tuple(default.meta.get("categories", ())),
    )
