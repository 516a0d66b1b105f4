"""Networks by name: torchvision's, timm's, and those that a named function returns."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from fastsal.networks.checkpoints import load_weights
from fastsal.networks.hugging_face.folder import PREFIX, network_of_folder
from fastsal.optional import needed, one_line

# Torchvision warns that the initial weights of these take long to draw.
SLOW_INITIALISATION = ("googlenet", "inception_v3")
_REQUIRED = frozenset(
    (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )
)
_POSITIONAL = frozenset(
    (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
)
FORMS = (
    "a torchvision model's name such as resnet50, timm:NAME, hf:FOLDER, package.module:function or "
    "path/to/file.py:function"
)


def build_network(
    name: str, weights: Path | str | None = None, *, pretrained: bool = False
) -> nn.Module:
    """Return the network of a name.

    Args:
        name: A torchvision model's name (classification, segmentation, detection), `timm:NAME`,
            `hf:FOLDER` for an image classifier of transformers in a local folder,
            or a function that returns a network: `package.module:function`, which is searched in
            the current folder too, or `path/to/file.py:function`. It is called without arguments.
        weights: A file of weights, as `load_weights` loads it.
        pretrained: Loads the published weights of torchvision's and timm's networks, which may be
            downloaded, or those in the folder, unless `weights` is given. A function's network is
            returned unchanged.

    Returns:
        The network, in the mode in which it was built. Without weights nothing is downloaded.

    Raises:
        ValueError: If there is no such network, it cannot be built, or the weights do not fit.
        ImportError: If torchvision, timm or transformers is needed and is not installed.

    >>> build_network("torch.nn:ReLU")
    ReLU()
    """
    pretrained = pretrained and weights is None
    if name.startswith("timm:"):
        network = _from_timm(name, pretrained)
    elif name.startswith(PREFIX):
        network = network_of_folder(name, pretrained)
    elif ":" in name:
        network = built_by(named_function(name), name)
    else:
        network = _from_torchvision(name, pretrained)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{name!r} returned {type(network).__name__}, not a torch.nn.Module")
    if weights is not None:
        load_weights(network, name, weights)
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


def built_by(function: Callable[..., Any], name: str, classes: int | None = None) -> Any:
    """Return what a function of `named_function` builds.

    The function gets the number of classes if it takes it: as `num_classes` or `classes`, or as its
    first parameter if that has no default. Otherwise it is called without arguments.

    Args:
        function: The function.
        name: Its name, for messages.
        classes: The number of classes; None where it is not known.

    Raises:
        ValueError: If it raises an error, or needs a number of classes that is not known.

    >>> built_by(lambda classes: classes, "net", 10), built_by(lambda width=16: width, "net", 10)
    (10, 16)
    """
    parameter = _parameter_of_classes(function)
    try:
        if parameter is None:
            return function()
        if classes is None:
            if parameter.kind in _REQUIRED and parameter.default is parameter.empty:
                raise TypeError(
                    f"it takes the number of classes, which is not known here; give {parameter} a "
                    f"default, such as {parameter.name}=1000"
                )
            return function()
        by_name = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        return function(**{parameter.name: classes}) if by_name else function(classes)
    except Exception as error:
        raise ValueError(f"cannot make a network from {name!r}: {one_line(error)}") from error


def _parameter_of_classes(function: Callable[..., Any]) -> inspect.Parameter | None:
    """Return the parameter that takes the number of classes, or None."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        # A function of an extension may have no signature.
        return None
    for parameter in parameters:
        if parameter.name in ("num_classes", "classes"):
            return parameter
    first = parameters[0] if parameters else None
    if first is not None and first.default is first.empty and first.kind in _POSITIONAL:
        return first
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        # Handed on, as by torchvision's functions.
        return inspect.Parameter("num_classes", inspect.Parameter.KEYWORD_ONLY, default=None)
    return None


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
