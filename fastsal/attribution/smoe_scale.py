"""SMOE Scale as a Captum attribution class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from captum.attr._utils.attribution import InternalAttribution
from captum.log import log_usage

from fastsal.arguments.batches import joined_outputs
from fastsal.arguments.inputs import Inputs, as_attributions
from fastsal.attribution.base import NamedAttribution
from fastsal.attribution.passes import read_batch
from fastsal.attribution.reader_factory import ReaderFactory
from fastsal.attribution.settings import Settings
from fastsal.maps.combination import Weights
from fastsal.maps.normalization import NormalizeOver
from fastsal.maps.result import Maps
from fastsal.networks.layers import Layer
from fastsal.networks.scales import Scale
from fastsal.statistics.registry import Statistic, StatisticFunction


class SMOEScale(NamedAttribution, InternalAttribution):  # type: ignore[misc]
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
        max_batch: How many images go through the network at once, for its memory; the maps are the
            same. None for all.
        tile: (height, width) in pixels of what goes through the network at once of a larger image,
            for its memory; multiples of the network's coarsest stride. Each scale's map is
            normalised over the whole image. None for the image.
        overlap: How many pixels beside a tile the network sees too, rounded up to its stride. From
            half the receptive field of the last layer on the map is the same; below, seams are
            small, since what is far away counts little. A network that pools over the whole image
            on the way (squeeze and excitation) pools over a tile instead.

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

    _field_name: ClassVar[str | None] = "SMOE Scale"

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
        max_batch: int | None = None,
        tile: tuple[int, int] | None = None,
        overlap: int = 128,
    ) -> None:
        InternalAttribution.__init__(self, model, layers, device_ids)
        settings = Settings.checked(
            weights=weights,
            statistic=statistic,
            normalize=normalize,
            normalize_over=normalize_over,
            max_batch=max_batch,
            tile=tile,
            overlap=overlap,
        )
        self._readers = ReaderFactory(model, layers, settings)

    @property
    def settings(self) -> Settings:
        """The checked settings; assign `dataclasses.replace(settings, ...)` to change one."""
        return self._readers.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._readers = self._readers.with_settings(settings)

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
        max_batch = self.settings.max_batch
        with torch.no_grad():
            calls = self._calls(inputs, target, additional_forward_args, max_batch)
            with self._readers.cached(calls, attribute_to_layer_input) as reader:
                maps, _ = read_batch(calls, reader)
                combined = reader.combined(maps, reader.channels if expand_channels else 1)
            return as_attributions(inputs, combined, expand_channels)

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
        max_batch = self.settings.max_batch
        with torch.no_grad():
            calls = self._calls(inputs, None, additional_forward_args, max_batch)
            reader = self._readers.for_call(calls[0], attribute_to_layer_input)
            maps, outputs = read_batch(calls, reader)
            output = joined_outputs(outputs) if outputs else None
            return Maps(reader.scales, tuple(maps), reader.combined(maps), output)


def readers_of(attributor: SMOEScale) -> ReaderFactory:
    """Return the readers of an attributor, for modules that run the forward pass themselves.

    Fast-CAM, `fastsal.watch` and the comparisons read an attributor's scales during passes of
    their own.

    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> reader = readers_of(SMOEScale(net, net[1])).for_image(torch.rand(1, 3, 8, 8))
    >>> [tap.name for tap in reader.taps]
    ['1']
    """
    return attributor._readers
