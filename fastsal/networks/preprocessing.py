"""The preprocessing and the class names of a named network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastsal.networks.hugging_face.folder import PREFIX, classes_of, normalisation_of_folder
from fastsal.optional import needed

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """The normalisation of an image in [0, 1], and the names of the classes.

    Attributes:
        mean: The mean of red, green and blue, which is subtracted.
        std: The standard deviation of each, which is divided by.
        classes: The classes' names; empty if they are not known.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    classes: tuple[str, ...] = ()


def input_form(network: nn.Module, channels: int | None = None) -> tuple[int, torch.dtype]:
    """Return the number of channels and the type of the images that a network takes.

    Args:
        network: The network.
        channels: The number, if it is known; None takes that of the network's first convolution,
            or 3 without any.

    >>> input_form(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)).half())
    (1, torch.float16)
    """
    if channels is None:
        _check_takes_images(network)
        convolutions = (part for part in network.modules() if isinstance(part, nn.Conv2d))
        channels = next((part.in_channels for part in convolutions), 3)
    types = (weight.dtype for weight in network.parameters() if weight.is_floating_point())
    return channels, next(types, torch.float32)


def _check_takes_images(network: nn.Module) -> None:
    """Raise for a network whose convolutions are all along one axis, or three.

    Raises:
        ValueError: If they are; the message says what to do.
    """
    kinds = {nn.Conv1d: "signals (N, C, T)", nn.Conv3d: "volumes (N, C, D, H, W)"}
    found = {type(part) for part in network.modules()}
    if nn.Conv2d not in found and found & kinds.keys():
        given = next(kinds[kind] for kind in kinds if kind in found)
        raise ValueError(
            f"the network takes {given}, and the command reads images; use fastsal.SMOEScale, "
            "fastsal.find_scales and fastsal.export.with_map in Python"
        )


def of_channels(values: Sequence[float], channels: int, opacity: float) -> tuple[float, ...]:
    """Return the mean or deviation of red, green and blue for another number of channels.

    Grey has the average of the three; `opacity` stands for opacity.

    >>> of_channels((0.25, 0.5, 0.75), 2, 0.0), of_channels((0.25, 0.5, 0.75), 4, 0.0)
    ((0.5, 0.0), (0.25, 0.5, 0.75, 0.0))
    """
    if len(values) == channels:
        return tuple(values)
    colours = tuple(values) if channels > 2 else (sum(values) / 3,)
    return (*colours, *[opacity] * (channels - len(colours)))


def published_normalisation(
    network: nn.Module,
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and the standard deviation that a network carries, or None.

    timm's networks carry those of their published weights.

    >>> published_normalisation(nn.ReLU())
    """
    published = getattr(network, "pretrained_cfg", None)
    if isinstance(published, dict) and "mean" in published and "std" in published:
        return tuple(published["mean"]), tuple(published["std"])
    return None


def preprocessing_of(name: str, network: nn.Module) -> Preprocessing:
    """Return the preprocessing published with a network's weights, or ImageNet's if there is none.

    Args:
        name: The network's name, as for `build_network`.
        network: The network; timm's networks carry their mean and standard deviation.

    >>> preprocessing_of("torch.nn:ReLU", nn.ReLU()).mean
    (0.485, 0.456, 0.406)
    """
    carried = published_normalisation(network)
    if carried is not None:
        return Preprocessing(*carried, _timm_classes(network))
    if name.startswith(PREFIX):
        mean, std = normalisation_of_folder(name) or (IMAGENET_MEAN, IMAGENET_STD)
        return Preprocessing(mean, std, classes_of(network))
    if ":" in name:
        return Preprocessing()
    models: Any = needed("torchvision", "a network by its name").models
    weights: Any = models.get_model_weights(name)
    default = getattr(weights, "DEFAULT", None)
    if default is None:
        return Preprocessing()
    transforms = default.transforms()
    return Preprocessing(
        # Detectors normalise the image themselves.
        tuple(getattr(transforms, "mean", (0.0, 0.0, 0.0))),
        tuple(getattr(transforms, "std", (1.0, 1.0, 1.0))),
        tuple(default.meta.get("categories", ())),
    )


def _timm_classes(network: nn.Module) -> tuple[str, ...]:
    data: Any = needed("timm.data", "class names", "timm")
    subset = data.infer_imagenet_subset(network)
    if subset is None:
        return ()
    names = data.ImageNetInfo(subset)
    return tuple(names.index_to_description(index) for index in range(names.num_classes()))
