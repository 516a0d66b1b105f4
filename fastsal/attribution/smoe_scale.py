"""SMOE Scale as a Captum attribution class."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from captum.attr._utils.attribution import InternalAttribution
from captum.log import log_usage
from torch import Tensor, nn

from fastsal.arguments.batches import Part, checked_max_batch, joined_outputs, parts
from fastsal.arguments.inputs import Inputs, as_attributions, as_tuple, image_of
from fastsal.arguments.targets import check_target
from fastsal.attribution import tiles
from fastsal.attribution.planned_reader import PlannedReader
from fastsal.attribution.reader import ScaleReader, occasion
from fastsal.attribution.tiles import checked_tile
from fastsal.kernels import cpu
from fastsal.maps.combination import Weights, layer_weights
from fastsal.maps.normalization import NormalizeOver, get_normalization
from fastsal.maps.prior import Prior, loaded
from fastsal.maps.result import Maps
from fastsal.networks import hooks, state
from fastsal.networks.layers import Layer, NamedLayer, describe_layer, name_layers
from fastsal.networks.scales import Scale, find_scales
from fastsal.statistics.registry import Statistic, StatisticFunction, get_statistic

# Kinds of batches whose readers are kept for the next: the last of an epoch is often smaller.
PLANS = 4


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
        if layers is None and state.root_module(model) is None:
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
        self.max_batch = checked_max_batch(max_batch)
        self.tiling = checked_tile(tile, overlap)
        self._layers = None if layers is None else name_layers(model, layers)
        self._warned = False
        # Whether a layer that was given has negative activations, as it was first seen.
        self._signed: dict[tuple[int, bool], bool] = {}
        self._plans: list[PlannedReader] = []
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
            given = parts(as_tuple(inputs), target, additional_forward_args, self.max_batch)
            with self.reading(given, attribute_to_layer_input) as reader:
                readings, _ = self._read(given, reader)
                combined = reader.combined(readings, reader.channels if expand_channels else 1)
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
        with torch.no_grad():
            given = parts(as_tuple(inputs), None, additional_forward_args, self.max_batch)
            first = given[0]
            reader = self.reader(
                first.inputs, first.additional_forward_args, attribute_to_layer_input
            )
            readings, outputs = self._read(given, reader)
            output = joined_outputs(outputs) if outputs else None
            return Maps(reader.scales, tuple(readings), reader.combined(readings), output)

    def _read(
        self, given: Sequence[Part], reader: ScaleReader | PlannedReader
    ) -> tuple[list[Tensor], list[Any]]:
        """Return what was read of all parts and the model's output for every part."""
        outputs, readings = [], []
        for part in given:
            if (
                self.tiling is None
                or isinstance(reader, PlannedReader)
                or self.tiling.fits(reader.size)
            ):
                output, values = self._run(part, reader, part.inputs)
                outputs.append(output)
            else:
                values = tiles.read(
                    part.inputs, self.tiling, reader, partial(self._run, part, reader)
                )
            readings.append(values)
        return reader.joined(readings), outputs

    def _run(
        self, part: Part, reader: ScaleReader | PlannedReader, inputs: tuple[Tensor, ...]
    ) -> tuple[Any, list[Tensor]]:
        output, values = hooks.forward(
            self.forward_func,
            inputs,
            part.additional_forward_args,
            reader.taps,
            self.device_ids,
        )
        check_target(output, part.target, inputs[0].shape[0])
        return output, values

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
            shown = inputs if self.tiling is None else tiles.first_tile(inputs, self.tiling)
            found = find_scales(self.forward_func, shown, additional_forward_args)
            self._layers = tuple(map(NamedLayer.of_scale, found))
        return ScaleReader(self, self._layers, image, layer_input)

    @contextmanager
    def reading(
        self, given: Sequence[Part], layer_input: bool = False
    ) -> Iterator[ScaleReader | PlannedReader]:
        """Give what reads this attributor's scales of a batch, and only combines them.

        It is that of an earlier call with a batch like this one, or is kept for the next.
        """
        first = given[0]
        ordinary = partial(self.reader, first.inputs, first.additional_forward_args, layer_input)
        plan = self._planned(first.inputs, layer_input) if len(given) == 1 else None
        if plan is None:
            reader = ordinary()
            yield reader
            plan = reader.planned() if len(given) == 1 else None
        else:
            plan.begin(ordinary)
            try:
                yield plan
            finally:
                plan.end()
        if plan is not None:
            # In place, each step at once: no other thread may see a plan that is taken.
            self._plans.insert(0, plan)
            del self._plans[PLANS:]

    def _planned(self, inputs: tuple[Tensor, ...], layer_input: bool) -> PlannedReader | None:
        if not self._plans or self._layers is None or self.tiling is not None:
            return None
        if not cpu.unfollowed():
            return None
        wanted = occasion(self, self._layers, image_of(inputs), layer_input)
        for plan in tuple(self._plans):
            if plan.occasion == wanted and plan.available():
                # Off the list, so that no other thread has it.
                with suppress(ValueError):
                    self._plans.remove(plan)
                    return plan
        return None

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies have of this: all but the plans, which hold addresses."""
        return {**self.__dict__, "_plans": []}

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
