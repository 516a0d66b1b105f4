"""The layers that are read, given as names, modules or scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastsal.networks import state
from fastsal.networks.backbone import image_layout
from fastsal.networks.hooks import Tap
from fastsal.networks.scales import Scale

Layer = str | nn.Module


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

    def tap(
        self,
        read: Callable[[Tensor], Tensor],
        *,
        layer_input: bool = False,
        replace: Callable[[Tensor], Tensor] | None = None,
        mode: TorchFunctionMode | None = None,
    ) -> Tap:
        """Return a tap on the layer, at the call and the side that its scale names.

        Args:
            read: As for `Tap`.
            layer_input: Reads the layer's input in place of its output.
            replace: As for `Tap`.
            mode: As for `Tap`.
        """
        scale = self.scale
        call = None if scale is None else scale.call
        layer_input = layer_input or (scale is not None and scale.layer_input)
        return Tap(self.name, self.module, read, call, layer_input, replace, mode)


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
            module = state.uncompiled(layer)
            resolved.append(NamedLayer(names.get(module, type(module).__name__), module, None))
        else:
            raise TypeError(f"a layer is a module, its name or a Scale, got {layer!r}")
    return tuple(resolved)


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


def describe_layer(
    name: str,
    module: nn.Module,
    tensor: Tensor,
    size: tuple[int, int],
    signed: bool | None = None,
) -> Scale:
    """Return the scale of a layer that was given, from its tensor and the image's size.

    Args:
        name: The layer's name.
        module: The layer.
        tensor: The layer's tensor.
        size: (H, W) of the image.
        signed: True if the layer has negative values; None searches the tensor for them.

    Raises:
        ValueError: If the tensor does not lie on the image's grid.
    """
    layout = image_layout(tensor.shape, *size) if tensor.dim() == 4 else None
    if layout is None:
        raise ValueError(
            f"layer {name!r} gives a tensor of shape {tuple(tensor.shape)}, expected (N, C, h, w) "
            f"or (N, h, w, C) on the grid of the {size[0]}x{size[1]} image; choose another layer"
        )
    channels_last, octave = layout
    return Scale(
        name=name,
        module=module,
        call=None,
        shape=tuple(tensor.shape),
        stride=2 ** max(octave, 0),
        signed=bool(tensor.amin() < 0) if signed is None else signed,
        channels_last=channels_last,
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
