"""Families of networks of timm, torchvision and transformers, with random weights."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fastsal.networks.by_name import build_network
from fastsal.optional import needed

# Of a name of timm: who made the network or what was changed of it, and the letters after that.
ORIGIN = re.compile(r"^(tf|gluon|legacy|ese|wide)_")
LETTERS = re.compile(r"[a-z]+?v\d|[a-z]+")
# Never the smallest of a family, and slow to build.
LARGE = re.compile(r"giant|gigantic|huge|enormous|_xx?large|[_-](so|[2-9]b)\d*")
TASKS = ("IMAGE_CLASSIFICATION", "SEMANTIC_SEGMENTATION", "OBJECT_DETECTION")
SIDE = 224


def all_families() -> dict[str, list[str]]:
    """Return the names of every family's networks, by the family's name."""
    return {**timm_families(), **torchvision_families(), **transformers_families()}


def timm_families() -> dict[str, list[str]]:
    """Return timm's networks by family: the module, and the letters that begin the name."""
    timm: Any = needed("timm", "a list of its networks")
    module_of: Mapping[str, str] = timm.models._registry._model_to_module
    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        # timm's tests have miniatures of their own.
        if name.startswith("test_"):
            continue
        letters = LETTERS.match(ORIGIN.sub("", name))
        kind = "" if letters is None or letters[0] == module_of[name] else f" {letters[0]}"
        families.setdefault(f"timm {module_of[name]}{kind}", []).append(f"timm:{name}")
    return families


def torchvision_families() -> dict[str, list[str]]:
    """Return torchvision's networks for single images by family: the module."""
    models: Any = needed("torchvision", "a list of its networks").models
    families: dict[str, list[str]] = {}
    for name in models.list_models():
        module = models.get_model_builder(name).__module__.removeprefix("torchvision.models.")
        if not module.startswith(("video", "optical_flow", "quantization")):
            families.setdefault(f"torchvision {module}", []).append(name)
    return families


def transformers_families() -> dict[str, list[str]]:
    """Return one network of each of transformers' image models, none without transformers."""
    if importlib.util.find_spec("transformers") is None:
        return {}
    tables: Any = importlib.import_module("transformers.models.auto.modeling_auto")
    families: dict[str, list[str]] = {}
    for task in TASKS:
        named: Mapping[str, Any] = getattr(tables, f"MODEL_FOR_{task}_MAPPING_NAMES")
        for family, classes in named.items():
            name = classes if isinstance(classes, str) else classes[0]
            families.setdefault(f"transformers {family}", [f"transformers:{family}:{name}"])
    return families


def build(name: str) -> tuple[nn.Module, int]:
    """Return a network with random weights, and the side of its images.

    Args:
        name: As `build_network` takes it, or `transformers:TYPE:CLASS`.
    """
    if not name.startswith("transformers:"):
        network = build_network(name)
        config: Mapping[str, Any] = getattr(network, "pretrained_cfg", {})
        return network, config.get("input_size", (3, SIDE, SIDE))[-1]
    transformers: Any = needed("transformers", f"the network {name}")
    _, kind, class_name = name.split(":")
    settings = transformers.AutoConfig.for_model(kind)
    for key in ("use_pretrained_backbone", "use_timm_backbone"):
        if getattr(settings, key, False):
            setattr(settings, key, False)
    size = getattr(settings, "image_size", None) or SIDE
    return getattr(transformers, class_name)(settings), size if isinstance(size, int) else max(size)


def smallest(names: Sequence[str]) -> list[str]:
    """Return a family's networks by their number of parameters, the fewest first."""
    if len(names) == 1:
        return list(names)
    sizes: dict[str, int] = {}
    for name in names:
        if LARGE.search(name):
            continue
        try:
            with torch.device("meta"):
                sizes[name] = count_parameters(build(name)[0])
        # Some compute with their initial weights; such a network may also need another package.
        except Exception:
            try:
                sizes[name] = count_parameters(build(name)[0])
            except Exception:
                continue
        gc.collect()
    return sorted(sizes, key=lambda name: (sizes[name], name)) or list(names)


def count_parameters(network: nn.Module) -> int:
    """Return the number of a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
