"""Methods whose cost is measured but which are not retrained: `with_map`, and other packages' CAMs.

To add one, decorate a function with `cost_only`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from comparisons.methods.base import PAPER, Batch, Explain, Group, Method, Prepare
from comparisons.methods.registry import METHODS, SETS, expanded
from fastsal import find_scales
from fastsal.export.model import with_map
from fastsal.networks.hooks import Tap, forward
from fastsal.networks.layers import NamedLayer
from fastsal.networks.scales import Scale

__all__ = [
    "COST_ONLY",
    "compiled_network",
    "compiler_settings",
    "costed",
    "installed",
    "resolve_costed",
    "taps_of_scales",
]

COST_ONLY: dict[str, Method] = {}
# The package of each method that needs one beyond the harness's own.
_PACKAGES: dict[str, str] = {}
# The settings of each network that was compiled here.
_COMPILED: WeakKeyDictionary[nn.Module, Mapping[str, Any]] = WeakKeyDictionary()
_SELVARAJU = "Selvaraju et al. 2017"


def cost_only(
    name: str,
    title: str,
    group: Group,
    citation: str,
    parameters: Mapping[str, Any],
    *,
    package: str | None = None,
) -> Callable[[Prepare], Prepare]:
    """Register a method; `package` is the module that must be installed for it."""

    def register(prepare: Prepare) -> Prepare:
        COST_ONLY[name] = Method(name, title, group, citation, dict(parameters), prepare, passes=1)
        if package is not None:
            _PACKAGES[name] = package
        return prepare

    return register


def installed(name: str) -> bool:
    """Return True if the package of a method is installed."""
    return name not in _PACKAGES or find_spec(_PACKAGES[name]) is not None


def costed() -> dict[str, Method]:
    """Return every method whose cost can be measured here, by name; the oracle has none."""
    return {
        name: entry
        for name, entry in {**METHODS, **COST_ONLY}.items()
        if not entry.needs_object_mask and installed(name)
    }


def resolve_costed(names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the methods of a list of names and `SETS`; of None, all that are installed.

    Raises:
        ValueError: an unknown method, one that needs the true object, or one whose package is
            not installed.

    >>> resolve_costed(("smoe-linear", "captum-layer-gradcam"))
    ('smoe-linear', 'captum-layer-gradcam')
    """
    known = costed()
    if names is None:
        return tuple(known)
    chosen = expanded(names, known)
    for name in chosen:
        if not installed(name):
            raise ValueError(
                f"method {name!r} needs the package {_PACKAGES[name]}, which is not installed: "
                "pip install -e '.[harness,peers]'"
            )
        if name not in known:
            raise ValueError(
                f"unknown method {name!r}: expected some of {', '.join(known)}, or a set of them: "
                f"{', '.join(SETS)}"
            )
    return chosen


@cost_only(
    "read-once",
    "Reading each activation once",
    "control",
    "the sum over channels of every scale, the least that any statistic can take",
    {"statistic": "sum"},
)
def _read_once(model: nn.Module) -> Explain:
    taps: list[Tap] = []

    def explain(batch: Batch) -> Tensor:
        if not taps:
            taps.extend(taps_of_scales(model, batch.inputs[:1], lambda tensor: tensor.sum(1)))
        _, sums = forward(model, (batch.inputs,), taps=taps)
        return sums[0]

    return explain


@cost_only(
    "with-map",
    "with_map, SMOE Scale",
    "smoe",
    PAPER,
    {"weights": "linear", "statistic": "smoe_scale", "module": "fastsal.export.with_map"},
)
def _with_map(model: nn.Module) -> Explain:
    """Return the maps of one module that runs the network; compiled if the network is."""
    modules: list[Callable[[Tensor], Any]] = []
    settings = compiler_settings(model)

    def explain(batch: Batch) -> Tensor:
        if not modules:
            module = with_map(model, batch.inputs[:1])
            modules.append(module if settings is None else torch.compile(module, **settings))
        maps: Tensor = modules[0](batch.inputs)[1]
        return maps

    return explain


def compiled_network(network: nn.Module, *, cuda_graphs: bool) -> nn.Module:
    """Return a network as `torch.compile` makes it; `compiler_settings` tells how.

    Args:
        network: the network.
        cuda_graphs: replay its kernels as CUDA graphs, the mode "reduce-overhead".
    """
    settings = {"mode": "reduce-overhead"} if cuda_graphs else {}
    compiled: nn.Module = torch.compile(network, **settings)  # type: ignore[call-overload]
    _COMPILED[compiled] = settings
    return compiled


def compiler_settings(network: nn.Module) -> Mapping[str, Any] | None:
    """Return what `torch.compile` was given for a network; None for one that is not compiled.

    >>> compiler_settings(nn.ReLU())
    """
    return _COMPILED.get(network)


def taps_of_scales(
    model: nn.Module, image: Tensor, read: Callable[[Tensor], Tensor]
) -> Iterator[Tap]:
    """Yield a tap for every scale of a network.

    Args:
        model: the network.
        image: `(1, C, H, W)`, by which the scales are found.
        read: gets the activations `(N, C, h, w)` of a scale; what it returns is kept.
    """

    def read_scale(scale: Scale, tensor: Tensor) -> Tensor:
        return read(scale.channels_first(tensor))

    for scale in find_scales(model, image):
        yield NamedLayer.of_scale(scale).tap(partial(read_scale, scale))


@cost_only(
    "captum-layer-gradcam",
    "Captum's LayerGradCam",
    "cam",
    _SELVARAJU,
    {"layer": "last scale", "size": "the layer's"},
)
def _layer_gradcam(model: nn.Module) -> Explain:
    layers: list[nn.Module] = []

    def explain(batch: Batch) -> Tensor:
        layer = _last_scale(model, batch, layers)
        attribution: Tensor = LayerGradCam(model, layer).attribute(batch.inputs, batch.target)
        return attribution.detach()[:, 0]

    return explain


@cost_only(
    "pytorch-grad-cam",
    "pytorch-grad-cam's GradCAM",
    "cam",
    _SELVARAJU,
    {"layer": "last scale", "size": "the image's"},
    package="pytorch_grad_cam",
)
def _pytorch_grad_cam(model: nn.Module) -> Explain:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    layers: list[nn.Module] = []

    def explain(batch: Batch) -> Tensor:
        targets = [ClassifierOutputTarget(label) for label in batch.target.tolist()]
        with GradCAM(model, [_last_scale(model, batch, layers)]) as extractor:
            return torch.from_numpy(extractor(batch.inputs, targets))

    return explain


@cost_only(
    "torchcam",
    "torchcam's GradCAM",
    "cam",
    _SELVARAJU,
    {"layer": "last scale", "size": "the layer's"},
    package="torchcam",
)
def _torchcam(model: nn.Module) -> Explain:
    from torchcam.methods import GradCAM

    layers: list[nn.Module] = []

    def explain(batch: Batch) -> Tensor:
        with GradCAM(model, _last_scale(model, batch, layers)) as extractor:
            scores = model(batch.inputs.clone().requires_grad_())
            cam: Tensor = extractor(batch.target.tolist(), scores)[0]
        return cam.detach()

    return explain


def _last_scale(model: nn.Module, batch: Batch, found: list[nn.Module]) -> nn.Module:
    """Return the module that ends the last scale, looked for once."""
    if not found:
        found.append(find_scales(model, batch.inputs[:1])[-1].module)
    return found[0]
