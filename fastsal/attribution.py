"""SMOE Scale as a Captum attribution class."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from captum.attr._utils.attribution import InternalAttribution
from captum.log import log_usage
from torch import Tensor, nn

from fastsal import capture, untouched
from fastsal.combine import Weights, combine, layer_weights, upsample
from fastsal.inputs import Inputs, as_attributions, as_tuple, image_of
from fastsal.layers import Layer, NamedLayer, describe_layer, name_layers
from fastsal.normalize import NormalizeOver, get_normalization, over_batch
from fastsal.preactivation import PreActivations
from fastsal.prior import Prior, loaded
from fastsal.scales import Scale, find_scales
from fastsal.statistics import Statistic, StatisticFunction, get_statistic
from fastsal.targets import check_target


@dataclass(frozen=True, eq=False)
class Maps:
    """The saliency maps of a batch, all from one forward pass.

    Attributes:
        scales: Where each map was read, the shallowest first; R of them.
        per_scale: For each scale its normalised map `(N, h, w)`, at the layer's own size.
        combined: `(N, H, W)`, their weighted average at the input's size.
        logits: The model's output as it was.
    """

    scales: tuple[Scale, ...]
    per_scale: tuple[Tensor, ...]
    combined: Tensor
    logits: Any

    @cached_property
    def stacked(self) -> Tensor:
        """The maps of all scales `(N, R, H, W)`, upsampled to the input's size."""
        size = self.combined.shape[1:]
        return torch.cat([upsample(scale_map, size) for scale_map in self.per_scale], 1)


class SMOEScale(InternalAttribution):  # type: ignore[misc]
    r"""SMOE Scale: saliency from the activations of one forward pass, without gradients.

    $$S = \sum_k w_k\, U\big(\gamma(\phi(T_k))\big) \Big/ \sum_k w_k$$

    with `T_k` the activations that end scale k, `phi` the statistic, `gamma` the normalisation of
    each map, `U` bilinear upsampling to the input's size, and `w` the weights. The map
    does not depend on a class. Deviations from the paper: none.

    Args:
        model: The network, or any callable that runs it; then give `layers`. A module runs in
            evaluation mode and is put back as it was; a bare callable runs as it is.
        layers: The layers to read, shallowest first: names, modules or `Scale`, one or several.
            None finds them at the first call, by `find_scales`. Of a module that runs more than
            once the last call is read.
        device_ids: The order of devices, where `model` splits batches over several.
        weights: "linear" (1, 2, 3, ...), "equal", "prior", one number for each layer, or a ".json"
            file of weights measured on this network, whose layers' names must be those read.
            "prior" was measured on ResNet-50's five scales, and is the paper's as given; for fewer
            scales its last numbers are taken, which is this library's extrapolation.
        statistic: The name of a registered statistic, a `Statistic`, or a function from
            activations `(N, C, h, w)`, after the ReLU, to `(N, h, w)`. One that is defined before
            the ReLU reads what the activation function was given that made the layer's tensor.
        normalize: "gaussian" (normal CDF), "gamma" (Gamma CDF), "minmax" or "none".
        normalize_over: "image" normalises each map by itself. "batch" takes the maps of a scale in
            one batch as one, so that its images compare: what is higher in one than in another
            stays so, and an image's map depends on those beside it.

    Raises:
        ValueError: If a name is unknown, a layer is missing, or the weights do not fit.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", Eq 1 to 3.

    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
    ...     torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
    ...     torch.nn.Linear(128, 10),
    ... )
    >>> SMOEScale(net).attribute(torch.rand(2, 3, 8, 8), target=1).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        layers: Layer | Scale | Sequence[Layer | Scale] | None = None,
        device_ids: list[int] | None = None,
        *,
        weights: Weights = "linear",
        statistic: str | Statistic | StatisticFunction = "smoe_scale",
        normalize: str = "gaussian",
        normalize_over: NormalizeOver = "image",
    ) -> None:
        InternalAttribution.__init__(self, model, layers, device_ids)
        if layers is None and untouched.root_module(model) is None:
            raise ValueError(
                f"cannot find scales inside {model!r}, which is no torch.nn.Module; give the "
                "layers yourself, layers=[module, ...]"
            )
        # Read once: a file that changes or goes does not change an attributor.
        self.weights = loaded(weights)
        self.statistic = get_statistic(statistic)
        self.normalize = normalize
        self.normalization = get_normalization(normalize)
        if normalize_over not in ("image", "batch"):
            raise ValueError(f"normalize_over is 'image' or 'batch', got {normalize_over!r}")
        self.normalize_over = normalize_over
        self._layers = None if layers is None else name_layers(model, layers)
        self._warned = False
        # Whether a layer that was given has negative activations, as it was first seen.
        self._signed: dict[tuple[int, bool], bool] = {}
        # A wrong weight is known now; how many there must be, only where layers were given.
        if self._layers is not None:
            names = [name for name, _, _ in self._layers]
            layer_weights(self.weights, len(names), names)
        elif not isinstance(self.weights, Prior):
            count = 1 if isinstance(self.weights, str) else len(self.weights)
            layer_weights(self.weights, count)

    @classmethod
    def get_name(cls) -> str:
        """Return the name the field uses.

        >>> SMOEScale.get_name()
        'SMOE Scale'
        """
        return "SMOE Scale"

    def attribute_future(self) -> None:
        """Raise: there is no asynchronous form.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("attribute_future is not available for SMOE Scale")

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Inputs,
        target: Any = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        *,
        expand_channels: bool = True,
    ) -> Inputs:
        """Return the combined map of every image.

        Args:
            inputs: `(N, C, H, W)`, or a tuple of the model's inputs; the first 4-D one is the
                image to whose size the maps are combined.
            target: In any of Captum's forms, or a callable of the output. It is checked against
                the model's output and does not change the map.
            additional_forward_args: Further arguments of the model: one, or a tuple.
            attribute_to_layer_input: Reads the layers' inputs in place of their outputs.
            expand_channels: Repeats the map over the input's channels; False gives `(N, 1, H, W)`.

        Returns:
            A tensor of the input's shape, in [0, 1] under "gaussian" and "minmax", float32 or the
            input's type where that is finer; a tuple for a tuple. An input that is no image
            batch gives an empty tensor, with a warning.

        Raises:
            ValueError: If the target does not fit the output, the layers give no image-shaped
                tensors or values that are not finite, or the weights do not fit the scales.
        """
        with torch.no_grad():
            reader, readings, _ = self._read(
                inputs, target, additional_forward_args, attribute_to_layer_input
            )
            channels = reader.channels if expand_channels else 1
            return as_attributions(inputs, reader.combined(readings, channels), expand_channels)

    def maps(
        self,
        inputs: Inputs,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
    ) -> Maps:
        """Return the map of every scale, their combination and the model's output.

        Args:
            inputs: As for `attribute`.
            additional_forward_args: As for `attribute`.
            attribute_to_layer_input: As for `attribute`.

        Returns:
            The `Maps`, from one forward pass (and one more at the first call, where the scales are
            to be found).

        Raises:
            ValueError: As for `attribute`.

        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        ...     torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.ReLU(),
        ... )
        >>> maps = SMOEScale(net).maps(torch.rand(2, 3, 8, 8))
        >>> [scale.name for scale in maps.scales], maps.stacked.shape
        (['1', '4'], torch.Size([2, 2, 8, 8]))
        """
        with torch.no_grad():
            reader, readings, output = self._read(
                inputs, None, additional_forward_args, attribute_to_layer_input
            )
            return reader.maps(readings, output)

    def _read(
        self, inputs: Inputs, target: Any, additional_forward_args: object, layer_input: bool
    ) -> tuple[ScaleReader, list[Tensor], Any]:
        """Return what read the scales, what it read and the model's output."""
        tensors = as_tuple(inputs)
        reader = self.reader(tensors, additional_forward_args, layer_input)
        output, readings = capture.forward(
            self.forward_func, tensors, additional_forward_args, reader.taps, self.device_ids
        )
        check_target(output, target, tensors[0].shape[0])
        return reader, readings, output

    def reader(
        self,
        inputs: tuple[Tensor, ...],
        additional_forward_args: object = None,
        layer_input: bool = False,
    ) -> ScaleReader:
        """Return what reads this attributor's scales during one forward pass.

        At the first call the scales are found, where no layers were given.
        """
        image = image_of(inputs)
        if self._layers is None:
            found = find_scales(self.forward_func, inputs, additional_forward_args)
            self._layers = tuple((scale.name, scale.module, scale) for scale in found)
        return ScaleReader(self, self._layers, image, layer_input)

    def describe(
        self, layer: tuple[int, str, nn.Module, bool], tensor: Tensor, size: tuple[int, int]
    ) -> Scale:
        """Return the scale of a layer, by index, name, module and whether its input is read.

        Negative activations are looked for at every call, which reads them all; where the statistic
        counts them as 0 by itself, at the first alone.
        """
        index, name, module, layer_input = layer
        known = self._signed.get((index, layer_input)) if self.statistic.rectifies else None
        scale = describe_layer(name, module, tensor, size, known)
        self._signed[index, layer_input] = scale.signed
        return scale

    def warn_signed(self, names: Sequence[str]) -> None:
        """Warn of negative activations, once for this attributor."""
        if names and not self._warned:
            self._warned = True
            warnings.warn(
                f"layer(s) {', '.join(names)} give negative activations, for which "
                f"{self.statistic.name} is not defined; they count as 0, as after a ReLU",
                stacklevel=2,
            )

    def warn_rectified(self, names: Iterable[str]) -> None:
        """Warn, once for this attributor, of layers for which what came before is not known."""
        listing = ", ".join(dict.fromkeys(names))
        if listing and not self._warned:
            self._warned = True
            warnings.warn(
                f"layer(s) {listing} give no negative activations, and no activation function was "
                f"seen to make them; {self.statistic.name} is defined before the ReLU, and is "
                "taken of them as they are. Choose the activation's own layer, or the one before",
                stacklevel=2,
            )


class ScaleReader:
    """Reads one attributor's scales during one forward pass, and combines them.

    Attributes:
        layers: What is read: name, module, and the scale where it is known.
        size: (H, W), the image's.
        channels: C, the image's.
        taps: What has to be read, for `capture.forward`.
        scales: Where each was read; known after the pass.
    """

    def __init__(
        self,
        attributor: SMOEScale,
        layers: Sequence[NamedLayer],
        image: Tensor,
        layer_input: bool,
    ) -> None:
        self.attributor = attributor
        self.layers = tuple(layers)
        self.size = (image.shape[2], image.shape[3])
        self.channels = image.shape[1]
        self.scales: dict[int, Scale] = {}
        self._before: PreActivations | None = None
        if attributor.statistic.domain == "pre_relu":
            self._before = PreActivations()
        self._rectified: list[str] = []
        # A batch on several devices is one only when they are joined.
        shared = None
        if attributor.normalize_over == "batch":
            shared = partial(over_batch, attributor.normalization)
        self.taps = [
            capture.Tap(
                name=name,
                module=module,
                read=partial(
                    self._read, (index, name, module, layer_input), None if layer_input else scale
                ),
                call=None if scale is None else scale.call,
                layer_input=layer_input or (scale is not None and scale.layer_input),
                mode=self._before,
                finish=shared,
            )
            for index, (name, module, scale) in enumerate(layers)
        ]

    def _read(
        self, layer: tuple[int, str, nn.Module, bool], scale: Scale | None, tensor: Tensor
    ) -> Tensor:
        index, name, _, _ = layer
        if scale is None:
            scale = self.attributor.describe(layer, tensor, self.size)
        self.scales[index] = scale
        if self._before is not None:
            tensor = self._before_relu(self._before, scale, tensor)
        # Fast-CAM may have gradients on by now, which the map has no part in.
        activations = scale.channels_first(tensor.detach())
        statistic = self.attributor.statistic
        rectify = statistic.domain == "post_relu" and not statistic.rectifies
        if rectify and (scale.signed or scale.functional_relu):
            activations = activations.relu()
        values = statistic(activations)
        if not _all_finite(values):
            raise ValueError(
                f"layer {name!r} gives activations that are not finite; check the input for NaN, "
                "and half precision for overflow"
            )
        if self.attributor.normalize_over == "batch":
            return values
        return self.attributor.normalization(values)

    def _before_relu(self, before: PreActivations, scale: Scale, tensor: Tensor) -> Tensor:
        """Return what the activation function was given that made a layer's tensor.

        A tensor that no activation function made is itself before the next one.
        """
        given = before.of(tensor)
        if given is not None:
            return given
        if not (scale.signed or scale.functional_relu):
            self._rectified.append(scale.name)
        return tensor

    def maps(self, readings: Sequence[Tensor], output: Any) -> Maps:
        """Return the maps from what the taps read."""
        scales = tuple(self.scales[index] for index in range(len(readings)))
        return Maps(scales, tuple(readings), self.combined(readings), output)

    def combined(self, readings: Sequence[Tensor], channels: int | None = None) -> Tensor:
        """Return the weighted average of what the taps read, as `combine` does.

        Warns where activations were negative.
        """
        scales = [self.scales[index] for index in range(len(readings))]
        if self.attributor.statistic.domain == "post_relu":
            self.attributor.warn_signed([scale.name for scale in scales if scale.signed])
        self.attributor.warn_rectified(self._rectified)
        weights = layer_weights(
            self.attributor.weights, len(scales), [scale.name for scale in scales]
        )
        return combine(readings, weights, self.size, channels)


def _all_finite(values: Tensor) -> bool:
    # A sum with a value that is not finite is not finite; the other way round is rare.
    return math.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())
