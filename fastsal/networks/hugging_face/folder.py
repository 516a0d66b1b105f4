"""A Hugging Face image classifier from a local folder: its network, classes and normalisation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fastsal.optional import needed, one_line

# The beginning of such a network's name: `hf:PATH`.
PREFIX = "hf:"
CONFIGURATION = "config.json"
PROCESSOR = "preprocessor_config.json"


def check_folder(name: str) -> Path:
    """Return the folder of `hf:PATH`.

    Args:
        name: The network's name.

    Raises:
        ValueError: If it is no folder of a network of transformers; nothing is downloaded.

    >>> check_folder("hf:no/such")
    Traceback (most recent call last):
    ValueError: 'hf:no/such' needs no/such/config.json, and there is none: give the folder of a ...
    """
    folder = Path(name.removeprefix(PREFIX))
    if not (folder / CONFIGURATION).is_file():
        raise ValueError(
            f"{name!r} needs {folder / CONFIGURATION}, and there is none: give the folder of a "
            "network of transformers as save_pretrained writes it; nothing is downloaded "
            "(huggingface-cli download NAME --local-dir PATH does that)"
        )
    return folder


def network_of_folder(name: str, pretrained: bool) -> nn.Module:
    """Return the image classifier in the folder of `hf:PATH`, without running code from it.

    Args:
        name: The network's name.
        pretrained: Loads its weights, which are read from safetensors alone, in the precision in
            which they are stored; False gives it initial ones.

    Raises:
        ValueError: If the folder has no image classifier, or no weights in safetensors.
        ImportError: If transformers is not installed.
    """
    folder = check_folder(name)
    transformers: Any = needed("transformers", f"the network {name}", "'fastsal[hf]'")
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        configuration = transformers.AutoConfig.from_pretrained(folder, **local)
        classifier: Any = transformers.AutoModelForImageClassification
        network: nn.Module = (
            classifier.from_pretrained(folder, use_safetensors=True, **local)
            if pretrained
            else classifier.from_config(configuration, trust_remote_code=False)
        )
    # Of a damaged file, a missing one, or another task: transformers raises any class of error.
    except Exception as error:
        raise ValueError(
            f"cannot build {name!r}: {one_line(error)}; expected an image classifier"
            + (" with its weights in safetensors" if pretrained else "")
        ) from error
    return network.eval()


def normalisation_of_folder(
    name: str,
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and the standard deviation of a folder's image processor, None without any.

    Args:
        name: The network's name, `hf:PATH`.

    Raises:
        ValueError: If the processor's file cannot be read.
    """
    path = check_folder(name) / PROCESSOR
    if not path.is_file():
        return None
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        scale = 255 * float(found.get("rescale_factor") or 1 / 255)
        if found.get("do_rescale") is False:
            scale = 255.0
        if found.get("do_normalize") is False:
            return (0.0,) * 3, (1 / scale,) * 3
        mean, std = found["image_mean"], found["image_std"]
        # x in [0, 1] becomes (scale x - mean) / std.
        return (
            tuple(float(value) / scale for value in mean),
            tuple(float(value) / scale for value in std),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({one_line(error)}); expected the image_mean and image_std of "
            "an image processor, or give --mean and --std"
        ) from error


def classes_of(network: nn.Module) -> tuple[str, ...]:
    """Return the names of a classifier's classes, none if its configuration has none of its own.

    Args:
        network: A network of transformers.
    """
    names: Mapping[int, str] = getattr(getattr(network, "config", None), "id2label", None) or {}
    found = tuple(str(names[index]) for index in sorted(names))
    # What transformers puts in where a configuration says nothing.
    unnamed = all(one == f"LABEL_{index}" for index, one in enumerate(found))
    return () if unnamed else found
