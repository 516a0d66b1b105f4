"""The layers that are read, given as names, modules or scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastsal.geometry.following import Following
from fastsal.geometry.placement import stretch_of
from fastsal.keeping.parts import uncompiled
from fastsal.networks import state
from fastsal.networks.hooks import Tap
from fastsal.networks.scales import Scale

Layer = str | nn.Module
# Stands for the scales after the first `EARLY`; a module of this name is given in a list.
LATE = "late"
EARLY = 2
NOT_FOLLOWED = "it is not known where in the image its locations lie"


class NamedLayer(NamedTuple):
    """A layer of a network.

    Attributes:
        name: The module's name, for messages.
        module: The module.
        scale: The layer's scale, where it is known.
    """

    name: str
    module: nn.Module
    scale: Scale | None

    @classmethod
    def of_scale(cls, scale: Scale) -> NamedLayer:
        """Return the layer of a scale."""
        return cls(scale.name, scale.module, scale)

    @property
    def of_class(self) -> NamedLayer:
        """The layer that a class activation map reads where this one is the last scale."""
        scale = None if self.scale is None else self.scale.of_class
        return self if scale is None else NamedLayer.of_scale(scale)

    def tap(
        self,
        read: Callable[[Tensor], Tensor],
        *,
        layer_input: bool = False,
        replace: Callable[[Tensor], Tensor] | None = None,
        modes: tuple[TorchFunctionMode, ...] = (),
    ) -> Tap:
        """Return a tap on the layer, at the call and the side that its scale names.

        Args:
            read: As for `Tap`.
            layer_input: Reads the layer's input in place of its output.
            replace: As for `Tap`.
            modes: As for `Tap`.
        """
        scale = self.scale
        call = None if scale is None else scale.call
        layer_input = layer_input or (scale is not None and scale.layer_input)
        functions = 0 if scale is None or layer_input else scale.functions
        return Tap(self.name, self.module, read, call, layer_input, replace, modes, functions)


def name_layers(
    model: Callable[..., Any], layers: Layer | Scale | Sequence[Layer | Scale]
) -> tuple[NamedLayer, ...]:
    """Return the layers that are given in any mix of forms.

    Args:
        model: The network, or a function that runs it.
        layers: One layer or several: names, modules, or scales from `find_scales`.

    Raises:
        ValueError: If a name is not in the network, or there are no layers.
        TypeError: If a layer is neither name, module nor scale.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> [name for name, _, _ in name_layers(net, ["0", net[1]])]
    ['0', '1']
    """
    single = isinstance(layers, (str, Scale)) or (
        isinstance(layers, nn.Module) and not isinstance(layers, nn.ModuleList)
    )
    given: list[Any] = [layers] if single else list(layers)  # type: ignore[arg-type]
    if not given:
        raise ValueError("no layers given; give at least one, or None to have them found")
    root = state.root_module(model)
    modules = {} if root is None else dict(root.named_modules())
    names = {module: name for name, module in modules.items()}
    resolved: list[NamedLayer] = []
    for layer in given:
        if isinstance(layer, Scale):
            resolved.append(NamedLayer.of_scale(layer))
        elif isinstance(layer, str):
            if layer not in modules:
                raise ValueError(
                    f"the model has no layer named {layer!r}; its layers are "
                    f"{', '.join(name for name in modules if name) or 'not known'}"
                )
            resolved.append(NamedLayer(layer, modules[layer], None))
        elif isinstance(layer, nn.Module):
            module = uncompiled(layer)
            resolved.append(NamedLayer(names.get(module, type(module).__name__), module, None))
        else:
            raise TypeError(f"a layer is a module, its name or a Scale, got {layer!r}")
    return tuple(resolved)


def are_found(layers: Layer | Scale | Sequence[Layer | Scale] | None) -> bool:
    """Return True if layers stand for scales that are found: None for all, "late" for late ones.

    >>> are_found(None), are_found("late"), are_found(["late"]), are_found("layer4")
    (True, True, False, False)
    """
    return layers is None or (isinstance(layers, str) and layers == LATE)


def of_found(
    scales: Sequence[Scale], layers: Layer | Scale | Sequence[Layer | Scale] | None
) -> tuple[Scale, ...]:
    """Return those of a network's scales that layers stand for.

    Args:
        scales: All scales of the network, the shallowest first.
        layers: None for all of them, "late" for those after the first two.

    Raises:
        LayerError: If there are no late scales.
    """
    if layers is None:
        return tuple(scales)
    if len(scales) <= EARLY:
        names = ", ".join(repr(scale.name) for scale in scales)
        raise state.LayerError(
            f"layers={LATE!r} reads the scales after the first {EARLY}, and this network has "
            f"{len(scales)} ({names}); expected {EARLY + 1} or more: give layers=None to read all, "
            "or names of layers"
        )
    return tuple(scales[EARLY:])


def name_layer(model: Callable[..., Any], layer: Layer | Scale) -> NamedLayer:
    """Return the one layer of a class activation map.

    Args:
        model: The network, or a function that runs it.
        layer: A name, a module or a `Scale`.

    Raises:
        ValueError: If there is not one layer.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> name_layer(net, net[1])[0]
    '1'
    """
    named = name_layers(model, layer)
    if len(named) != 1:
        raise ValueError(f"expected one layer for the CAM, got {len(named)}")
    return named[0]


def scale_of(
    layer: NamedLayer, tensor: Tensor, size: tuple[int, ...], following: Following | None
) -> Scale:
    """Return the scale of a layer that was given, as `place_of` does.

    Raises:
        ValueError: If the tensor has no locations.
    """
    scale = place_of(layer, tensor, size, following)
    if scale is None:
        raise ValueError(
            f"layer {layer.name!r} gives a tensor of shape {tuple(tensor.shape)}, expected "
            f"{expected_on(size)}; choose another layer"
        )
    return scale


def expected_on(size: tuple[int, ...]) -> str:
    """Return the shapes of a layer's tensor that lie on an image's grid, for messages.

    Args:
        size: (H, W) of the image; (D, H, W) of volumes, (1, T) of signals.

    >>> expected_on((1, 500))
    '(N, C, t) or (N, t, C) on the grid of the signal of 500'
    """
    if len(size) == 3:
        by = "x".join(map(str, size))
        return f"(N, C, d, h, w) or (N, d, h, w, C) on the grid of the {by} volume"
    if size[0] == 1:
        return f"(N, C, t) or (N, t, C) on the grid of the signal of {size[1]}"
    return f"(N, C, h, w), (N, h, w, C) or (N, h w, C) on the grid of the {size[0]}x{size[1]} image"


def place_of(
    layer: NamedLayer, tensor: Tensor, size: tuple[int, ...], following: Following | None
) -> Scale | None:
    """Return the scale of a layer that was given, from its tensor in a pass.

    Args:
        layer: The layer; of a scale that it has, the call and the function are kept.
        tensor: The layer's tensor.
        size: (H, W) of the image; (D, H, W) of volumes, (1, T) of signals.
        following: Has followed the pass; None, or a tensor that it does not know, counts as
            `(N, C, h, w)`, stretched over the image; as `stretch_of` does.

    Returns:
        The scale; None for a tensor without locations.
    """
    place = None if following is None else following.located(tensor)
    if place is None and layer.scale is not None and layer.scale.shape[1:] == tensor.shape[1:]:
        return layer.scale
    if place is None:
        place = stretch_of(tensor.shape, size)
        if place is not None and following is not None:
            place = place._replace(doubt=NOT_FOLLOWED)
    if place is None:
        return None
    known = layer.scale
    return Scale(
        name=layer.name,
        module=layer.module,
        call=None if known is None else known.call,
        shape=tuple(tensor.shape),
        strides=place.octaves,
        signed=bool(tensor.amin() < 0) if known is None else known.signed,
        layout=place.layout,
        functional_relu=known is not None and known.functional_relu,
        layer_input=known is not None and known.layer_input,
        functions=0 if known is None else known.functions,
        placement=place.placement,
        doubt=place.doubt,
        varies=place.varies,
        linear=known is not None and known.linear,
    )


def doubt_of(scales: Sequence[Scale]) -> str:
    """Return a message of scales whose places in the image are not certain, "" if all are."""
    doubtful = [scale for scale in scales if scale.doubt]
    if not doubtful:
        return ""
    return (
        f"layer(s) {', '.join(scale.name for scale in doubtful)}: {doubtful[0].doubt}. Their maps "
        "are stretched over the whole image, and may lie in another place than the pixels; if the "
        "network moves its image, do that before the network, or choose layers before it"
    )


def check_each_finite(names: Sequence[str], what: str, tensors: Sequence[Tensor]) -> None:
    """Raise if values of any of several layers are not finite; a GPU is waited for once.

    Args:
        names: The layers' names.
        what: The values, as the message calls them: "activations".
        tensors: The values of each layer.

    Raises:
        ValueError: As `check_finite` does, for the first such layer.
    """
    sums = torch.stack([values.sum().to(tensors[0].device, torch.float32) for values in tensors])
    for name, total, values in zip(names, sums.tolist(), tensors, strict=True):
        if not math.isfinite(total):
            check_finite(name, what, values)


def check_finite(name: str, what: str, values: Tensor) -> None:
    """Raise if values of a layer are not all finite.

    Args:
        name: The layer's name.
        what: The values, as the message calls them: "activations".
        values: The values, or sums of them.

    Raises:
        ValueError: If they are not; the message names the layer.
    """
    # The sum is cheap, and not finite if a value is not; finite values rarely overflow it.
    if not math.isfinite(values.sum().item()) and not torch.isfinite(values).all():
        raise ValueError(
            f"layer {name!r} gives {what} that are not finite; check the input for NaN, half "
            "precision for overflow, and double precision for values above float32's, 3.4e38"
        )
