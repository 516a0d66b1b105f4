"""Networks by name: torchvision's, timm's, and those that a named function returns."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from fastsal.optional import needed, one_line

# Torchvision warns that the initial weights of these take long to draw.
SLOW_INITIALISATION = ("googlenet", "inception_v3")
FORMS = (
    "a torchvision model's name such as resnet50, timm:NAME, package.module:function or "
    "path/to/file.py:function"
)


def build_network(
    name: str, weights: Path | str | None = None, *, pretrained: bool = False
) -> nn.Module:
    """Return the network of a name.

    Args:
        name: A torchvision model's name (classification, segmentation, detection), `timm:NAME`,
            or a function that returns a network: `package.module:function`, which is searched in
            the current folder too, or `path/to/file.py:function`.
        weights: A file with the state dict to load, or a checkpoint that holds one as "state_dict"
            or "model". It is read with `weights_only=True`: it cannot run code.
        pretrained: Loads the published weights of torchvision's and timm's networks, which may be
            downloaded, unless `weights` is given. A function's network is returned unchanged.

    Returns:
        The network, in the mode in which it was built. Without weights nothing is downloaded.

    Raises:
        ValueError: If there is no such network, it cannot be built, or the weights do not fit.
        ImportError: If torchvision or timm is needed and is not installed.

    >>> build_network("torch.nn:ReLU")
    ReLU()
    """
    pretrained = pretrained and weights is None
    if name.startswith("timm:"):
        network = _from_timm(name, pretrained)
    elif ":" in name:
        function = named_function(name)
        try:
            network = function()
        except Exception as error:
            raise ValueError(f"cannot make a network from {name!r}: {one_line(error)}") from error
    else:
        network = _from_torchvision(name, pretrained)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{name!r} returned {type(network).__name__}, not a torch.nn.Module")
    if weights is not None:
        try:
            network.load_state_dict(read_state_dict(weights))
        except Exception as error:
            raise ValueError(f"cannot load {weights} into {name}: {one_line(error)}") from error
    return network


def named_function(name: str) -> Callable[..., Any]:
    """Return the function of `package.module:function` or `path/to/file.py:function`.

    Modules are searched in the current folder too, and those that a file imports in its folder.

    Raises:
        ValueError: If it cannot be imported, or cannot be called.

    >>> named_function("math:sqrt")(4)
    2.0
    """
    where, _, function_name = name.rpartition(":")
    try:
        if where.endswith(".py"):
            module = _from_file(Path(where))
        else:
            _search(Path.cwd())
            module = importlib.import_module(where)
        function = getattr(module, function_name)
    except Exception as error:
        raise ValueError(
            f"{name!r} cannot be imported: {one_line(error)}; expected package.module:function or "
            "path/to/file.py:function"
        ) from error
    if not callable(function):
        raise ValueError(f"{name!r} is of type {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


def _from_torchvision(name: str, pretrained: bool) -> Any:
    models: Any = needed("torchvision", "a network by its name").models
    if name not in models.list_models():
        raise ValueError(f"torchvision has no model {name!r}; give {FORMS}")
    extra: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    if not pretrained:
        # Detection and segmentation would download their backbone's weights.
        if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
            extra["weights_backbone"] = None
        if name in SLOW_INITIALISATION:
            extra["init_weights"] = False
    try:
        return models.get_model(name, **extra)
    except Exception as error:
        raise ValueError(_unbuilt(name, pretrained, error)) from error


def _from_timm(name: str, pretrained: bool) -> Any:
    timm: Any = needed("timm", f"the network {name}")
    try:
        return timm.create_model(name.removeprefix("timm:"), pretrained=pretrained)
    except Exception as error:
        raise ValueError(_unbuilt(name, pretrained, error)) from error


def _unbuilt(name: str, pretrained: bool, error: Exception) -> str:
    what = " with its pretrained weights" if pretrained else ""
    instead = "; load a file of weights or ask for random ones" if pretrained else ""
    return f"cannot build {name!r}{what}: {one_line(error)}{instead}"


def _from_file(path: Path) -> ModuleType:
    path = path.resolve()
    _search(path.parent)
    # A unique name: the file may have the name of a package that is imported already.
    spec = importlib.util.spec_from_file_location(f"{path.stem} of {path.parent}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _search(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def read_state_dict(path: Path | str) -> Mapping[str, Any]:
    """Return the state dict in a file, which may hold it as "state_dict" or "model"."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            return content[key]  # type: ignore[no-any-return]
    return content  # type: ignore[no-any-return]
