"""The classes of images among those of a network, found by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from torch import nn

from fastsal.networks.preprocessing import preprocessing_of
from fastsal.optional import needed

__all__ = ["class_places"]

_WNID = re.compile(r"n\d{8}")


def class_places(classes: Sequence[str], network: nn.Module, name: str) -> tuple[int, ...] | None:
    """The output of a network for each class of an image set.

    A class is found by its WNID, if the network's classes are ImageNet's and timm, which knows
    their WNIDs, is installed; else by its name: the whole of the network's name of a class, or one
    of the names between its commas, in upper or lower case.

    Args:
        classes: names of the images' classes.
        network: the network; timm's know the image set that they were trained on.
        name: its name, as `evaluation.networks.build.build_network` takes it.

    Returns:
        A place for each class; None if the network's classes are not known, or one of the images'
        is not among them or is the name of several.

    >>> class_places(("tench", "golf ball"), nn.Identity(), "resnet50")
    (0, 574)
    >>> class_places(("tench", "no such class"), nn.Identity(), "resnet50") is None
    True
    """
    known = preprocessing_of(name, network).classes
    tables = [_wnids(len(known))] if all(_WNID.fullmatch(each) for each in classes) else []
    tables.append([_names(each) for each in known])
    for table in tables:
        places: dict[str, list[int]] = {}
        for place, names in enumerate(table):
            for each in names:
                places.setdefault(each, []).append(place)
        found = [places.get(each.strip().lower(), []) for each in classes]
        if all(len(each) == 1 for each in found):
            return tuple(place for (place,) in found)
    return None


def _names(title: str) -> set[str]:
    parts = (title, *title.split(","))
    return {part.strip().lower() for part in parts}


def _wnids(classes: int) -> list[set[str]]:
    """The WNIDs of ImageNet's classes in their order, if they are as many and timm is installed."""
    if find_spec("timm") is None:
        return []
    data: Any = needed("timm.data", "the WNIDs of classes", "timm")
    info = data.ImageNetInfo()
    return [{wnid} for wnid in info.label_names()] if info.num_classes() == classes else []
