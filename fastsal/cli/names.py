"""Names that a command is given, checked before anything runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fastsal.networks.by_name import FORMS
from fastsal.networks.hugging_face.folder import PREFIX, check_folder
from fastsal.networks.layers import LATE
from fastsal.optional import needed
from fastsal.registry import similar_names


def check_packages(command: str, packages: dict[str, str]) -> None:
    """Name all missing packages at once.

    Args:
        command: The command, as the message begins.
        packages: The names for `pip install`, by the module that is imported.

    Raises:
        ImportError: If any is not installed.

    Example:
        >>> check_packages("maps", {"torch": "torch", "no_such": "no-such", "nor_this": "nor-this"})
        Traceback (most recent call last):
        ImportError: maps needs no-such, nor-this: pip install no-such nor-this
    """
    missing = [name for module, name in packages.items() if not _is_installed(module)]
    if missing:
        raise ImportError(f"{command} needs {', '.join(missing)}: pip install {' '.join(missing)}")


def network_packages(name: str, weights: Path | None = None) -> dict[str, str]:
    """Return the packages that a network and its file of weights need, by module.

    Example:
        >>> network_packages("timm:resnet18", Path("net.safetensors"))
        {'timm': 'timm', 'safetensors': 'safetensors'}
    """
    if name.startswith("timm:"):
        found = {"timm": "timm"}
    elif name.startswith(PREFIX):
        found = {"transformers": "'fastsal[hf]'"}
    else:
        found = {} if ":" in name else {"torchvision": "torchvision"}
    if weights is not None and weights.suffix == ".safetensors":
        found["safetensors"] = "safetensors"
    return found


def about(name: str, error: BaseException) -> str:
    """Return an error's message with a network's name before it, unless the name is in it.

    Example:
        >>> about("net", ValueError("no scales")), about("a.onnx", ValueError("a.onnx is none"))
        ('net: no scales', 'a.onnx is none')
    """
    text = str(error)
    return text if name in text else f"{name}: {text}"


def is_onnx(name: str) -> bool:
    """Return True if a network's name is that of an ONNX file.

    Example:
        >>> is_onnx("folder/model.onnx"), is_onnx("resnet50")
        (True, False)
    """
    return Path(name).suffix.lower() == ".onnx"


def check_network_name(name: str) -> None:
    """Refuse a name that neither torchvision nor timm has, with the names that are most like it.

    Args:
        name: As for `build_network`. A function's name is not checked, nor one of timm's that says
            where its weights are (`timm:hf-hub:...`).

    Raises:
        ValueError: If there is no such network.
        ImportError: If torchvision or timm is needed and is not installed.

    Example:
        >>> check_network_name("resnet51")
        Traceback (most recent call last):
        ValueError: torchvision has no model 'resnet51'; did you mean 'resnet50', ...?
    """
    if name.startswith(PREFIX):
        check_folder(name)
        return
    package, _, rest = name.rpartition(":")
    if package == "timm":
        timm: Any = needed("timm", f"the network {name}")
        if "/" not in rest and not timm.is_model(rest):
            question = similar_names(rest, timm.list_models())
            raise ValueError(f"timm has no model {rest!r}; {question or 'give timm:NAME'}")
    elif not package:
        models = needed("torchvision", "a network by its name").models.list_models()
        if name not in models:
            raise ValueError(_unknown(name, models))


def _unknown(name: str, models: Sequence[str]) -> str:
    if Path(name).is_file():
        return f"{name!r} is a file: give its function as {name}:FUNCTION, or weights as --weights"
    said = f"torchvision has no model {name!r}; "
    if _is_installed("timm"):
        timm: Any = needed("timm", "a network by its name")
        if timm.is_model(name):
            return f"{said}timm has it: give timm:{name}"
    return said + (similar_names(name, models) or f"give {FORMS}")


def checked_layers(
    network: nn.Module, name: str, layers: Sequence[str] | None
) -> str | list[str] | None:
    """Return the layers of an option as `SMOEScale` takes them; refuse one that is not there.

    Args:
        network: The network.
        name: Its name, for the message.
        layers: The layers' names, or "late" alone; None finds all scales.

    Raises:
        ValueError: If it has no layer of one of the names; the message has those most like it.

    Example:
        >>> checked_layers(nn.Sequential(nn.ReLU()), "net", ["late"])
        'late'
        >>> checked_layers(nn.Sequential(nn.ReLU()), "net", ["O"])
        Traceback (most recent call last):
        ValueError: net has no layer named 'O'; `fastsal layers net` lists those that can be read
    """
    if layers is None or list(layers) == [LATE]:
        return None if layers is None else LATE
    known = [one for one, _ in network.named_modules() if one]
    for layer in layers:
        if layer not in known:
            question = similar_names(layer, known)
            raise ValueError(
                f"{name} has no layer named {layer!r}; {question}{' ' if question else ''}"
                f"`fastsal layers {name}` lists those that can be read"
            )
    return list(layers)


def class_index(wanted: str, classes: tuple[str, ...]) -> int:
    """Return the index of a class that is given by index or by name.

    Args:
        wanted: A number, or a name as in `classes`; for "tabby, tabby cat" either name will do.
        classes: The names; empty if they are not known.

    Raises:
        ValueError: If no class has that name, or several have it.

    Example:
        >>> class_index("281", ()), class_index("Tabby cat", ("tench", "tabby, tabby cat"))
        (281, 1)
    """
    if wanted.isdecimal():
        return int(wanted)
    names = [[part.strip() for part in (given, *given.split(","))] for given in classes]
    name = wanted.strip().lower()
    found = [index for index, own in enumerate(names) if name in (part.lower() for part in own)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"classes {found} are all called {wanted!r}; give one of the numbers")
    # The parts of "tabby, tabby cat" are each like a mistyped one, and not the whole.
    question = similar_names(name, (part for own in names for part in own[1:]))
    raise ValueError(
        f"no class is called {wanted!r}; {question}{' ' if question else ''}"
        + ("give a name or the number of the class" if question else "give the number of the class")
        + ("" if classes else ", since the names of this network's classes are not known")
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
