"""SMOE Scale as a Captum attribution class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, overload

import torch
from captum.attr._utils.attribution import InternalAttribution
from captum.log import log_usage
from torch import Tensor

from fastsal.arguments.batches import joined_outputs
from fastsal.arguments.detections import is_every_detection
from fastsal.arguments.image_lists import one_by_one
from fastsal.arguments.inputs import Images, Inputs, image_of, without_row
from fastsal.arguments.targets import TargetError
from fastsal.attribution.base import NamedAttribution
from fastsal.attribution.passes import read_batch
from fastsal.attribution.reader_factory import ReaderFactory
from fastsal.attribution.settings import Settings
from fastsal.kernels.constants import EPSILON
from fastsal.maps.normalization import NormalizeOver
from fastsal.maps.prior import Weights
from fastsal.maps.resize import as_attributions
from fastsal.maps.result import Maps
from fastsal.maps.several_images import one_at_a_time
from fastsal.networks.layers import Layer
from fastsal.networks.scales import Scale
from fastsal.statistics.registry import Statistic, StatisticFunction


class SMOEScale(NamedAttribution, InternalAttribution):  # type: ignore[misc]
    r"""SMOE Scale: a saliency map from the activations of one forward pass, without gradients.

    $$S = \sum_k w_k\, U\big(\gamma(\phi(T_k))\big) \Big/ \sum_k w_k$$

    with `T_k` the activations that end scale k, `phi` the statistic, `gamma` the normalisation of
    each map, `U` bilinear upsampling to the input's size, and `w` the weights. The map does not
    depend on a class. Deviations from the paper: none on its networks, whose scales end in a ReLU.
    Of a scale that no activation function made (`Scale.linear`) `T_k` is less each channel's mean
    over the image, which the paper has not. It has images alone: of volumes `(N, C, D, H, W)` `U`
    is trilinear here, of signals `(N, C, T)` linear, and a scale is an octave of any axis.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", Eq 1 to 3,
        https://arxiv.org/abs/1911.11293

    Args:
        model (torch.nn.Module or Callable): The network, or any callable that runs it; a callable
            needs `layers`. A module runs in evaluation mode and is restored afterwards; a callable
            runs unchanged.
        layers (str, torch.nn.Module, Scale or a sequence of them, optional): The layers to read,
            shallowest first. If a module runs more than once, its last call is read. "late" reads
            all scales but the first two, which hold most of the activations: the map
            shows where objects are rather than their edges. Default: None, which finds all
            scales at the first call by `find_scales`.
        device_ids (list[int], optional): The order of devices, if `model` splits batches over
            several. Default: None.
        weights (str, Path or sequence of float): "linear" (1, 2, 3, ...), "equal", "prior", one
            number for each layer, or a ".json" file of weights measured on this network, whose
            layers must be those that are read. "prior" are the paper's weights, measured on
            ResNet-50's five scales; for fewer scales the last of them are taken, which is this
            library's extrapolation. Default: "linear".
        statistic (str, Statistic or Callable): A registered statistic, or a function from
            activations `(N, C, h, w)` after the ReLU to `(N, h, w)`. A statistic that is defined
            before the ReLU gets the input of the activation function that made the layer's tensor.
            Default: "smoe_scale".
        normalize (str): "gaussian" (normal CDF), "gamma" (Gamma CDF), "minmax" or "none".
            Default: "gaussian".
        normalize_over (str): "image" normalises each map by itself. "batch" normalises a scale's
            maps of one batch together, so that they can be compared: a value that is higher in one
            image than in another stays higher, and an image's map depends on the rest of its
            batch. Default: "image".
        max_batch (int, optional): The number of images that go through the network at once, to
            save memory; the maps are the same. Default: None, which takes all.
        tile (sequence of int, optional): (height, width) in pixels of the tiles in which a larger
            image goes through the network, to save memory; (depth, height, width) for volumes,
            (length,) for signals; multiples of the network's coarsest stride. Each scale's map is
            normalised over the whole image. Default: None, which takes the whole image.
        overlap (int or sequence of int, optional): The number of pixels beside a tile that the
            network sees too, rounded up to its stride; one for all sides, or one for each. From
            half the receptive field of the last layer upwards the map is the same as without tiles.
            Below, seams are small, since distant pixels count little. A network that pools over the
            whole image on the way (squeeze and excitation) pools over a tile instead. Default:
            None, which is 128, and a quarter of the tile's sides for volumes.
        blend (str, optional): What joins tiles: "none" takes each tile's own pixels; "linear" and
            "gaussian" average where tiles overlap, with weights that fall from the middle of a tile
            outwards, as nnU-Net does. Default: None, which is "gaussian" for volumes, "none" for
            images and signals.
        epsilon (float): Added to each activation, so that zeros have a logarithm; for statistics
            that have one. The authors' code adds 1e-7. Default: 1e-6, the paper's.

    Raises:
        ValueError: If a name is unknown, a layer is missing, or the weights do not fit.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        ...     torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
        ...     torch.nn.Linear(128, 10),
        ... )
        >>> smoe = SMOEScale(net)
        >>> smoe.attribute(torch.rand(2, 3, 8, 8), target=1).shape
        torch.Size([2, 3, 8, 8])
        >>> smoe
        SMOEScale(Sequential, scales ['1', '4'], statistic='smoe_scale', weights='linear')
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
        tile: Sequence[int] | None = None,
        overlap: int | Sequence[int] | None = None,
        blend: str | None = None,
        epsilon: float = EPSILON,
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
            blend=blend,
            epsilon=epsilon,
        )
        self._readers = ReaderFactory(model, layers, settings)

    def _facts(self) -> list[str]:
        return [self._readers.described(), *self.settings.described()]

    @property
    def settings(self) -> Settings:
        """The checked settings; assign `dataclasses.replace(settings, ...)` to change one."""
        return self._readers.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._readers = self._readers.with_settings(settings)

    def _check_alone(self, alone: bool) -> None:
        """Raise if images that go through the network alone are to be normalised together.

        Args:
            alone: True if they go through it alone.

        Raises:
            ValueError: If they are.
        """
        if alone and self.settings.normalize_over == "batch":
            raise ValueError(
                "normalize_over='batch' takes the images of one batch together, and those of a "
                "list, or of Detections, go through the network one by one; give a batch "
                "(N, C, H, W), or take normalize_over='image'"
            )

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Images,
        target: Any = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        *,
        expand_channels: bool = True,
    ) -> Images:
        """Return the combined map of every image.

        Args:
            inputs (Tensor, tuple[Tensor, ...] or list[Tensor]): `(N, C, H, W)`, volumes
                `(N, C, D, H, W)` or signals `(N, C, T)`; or a tuple of the model's inputs, whose
                first 4-D one (without one, the first 5-D or 3-D one) has the size to which the maps
                are combined. A list has one image `(C, H, W)` after the other, of any sizes; each
                goes through the network alone.
            target (int, tuple, Tensor, list or Callable, optional): A class in any of Captum's
                forms, or a callable of the output. It is checked against the model's output and
                does not change the map. Default: None.
            additional_forward_args (Any, optional): Further arguments of the model: one, or a
                tuple. Default: None.
            attribute_to_layer_input (bool): Reads the layers' inputs in place of their outputs.
                Default: False.
            expand_channels (bool): Repeats the map over the input's channels; False gives one, as
                `(N, 1, H, W)`. Default: True.

        Returns:
            A tensor of the input's shape, in [0, 1] under "gaussian" and "minmax", float32 or the
            input's type if that is finer; a tuple for a tuple, a list for a list. An input that is
            no image batch gives an empty tensor, with a warning.

        Raises:
            ValueError: If the target does not fit the output, the layers give no image-shaped
                tensors or values that are not finite, or the weights do not fit the scales.
        """
        if is_every_detection(target):
            raise TargetError(
                "the map of SMOE Scale is that of the image, and not of one of its detections; "
                "give Detections as target of FastCAM or a class activation map"
            )
        self._check_alone(one_at_a_time(inputs))
        several = self._one_at_a_time(
            self.attribute,
            inputs,
            target,
            additional_forward_args,
            attribute_to_layer_input=attribute_to_layer_input,
            expand_channels=expand_channels,
        )
        if several is not None:
            return several
        max_batch = self.settings.max_batch
        with torch.no_grad():
            calls = self._calls(inputs, target, additional_forward_args, max_batch)
            with self._readers.cached(calls, attribute_to_layer_input) as reader:
                maps, _ = read_batch(calls, reader)
                combined = reader.combined(maps, reader.channels if expand_channels else 1)
            return as_attributions(inputs, combined, expand_channels)

    @overload
    def maps(
        self,
        inputs: Inputs,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
    ) -> Maps: ...

    @overload
    def maps(
        self,
        inputs: list[Tensor],
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
    ) -> list[Maps]: ...

    def maps(
        self,
        inputs: Images,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
    ) -> Maps | list[Maps]:
        """Return the map of every scale, their combination and the model's output.

        Args:
            inputs (Tensor, tuple[Tensor, ...] or list[Tensor]): As for `attribute`.
            additional_forward_args (Any, optional): As for `attribute`. Default: None.
            attribute_to_layer_input (bool): As for `attribute`. Default: False.

        Returns:
            The `Maps` of one forward pass; of a list of images one for each. If the layers are not
            known yet, the first call makes one more pass, which finds them.

        Raises:
            ValueError: As for `attribute`.

        Example:
            >>> _ = torch.manual_seed(0)
            >>> net = torch.nn.Sequential(
            ...     torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
            ...     torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.ReLU(),
            ... )
            >>> maps = SMOEScale(net).maps(torch.rand(2, 3, 8, 8))
            >>> [scale.name for scale in maps.scales], maps.stacked.shape
            (['1', '4'], torch.Size([2, 2, 8, 8]))
        """
        if isinstance(inputs, list):
            self._check_alone(True)
            return [
                self.maps(one.inputs, one.additional_forward_args, attribute_to_layer_input)
                for one in one_by_one(inputs, None, additional_forward_args)
            ]
        max_batch = self.settings.max_batch
        with torch.no_grad():
            calls = self._calls(inputs, None, additional_forward_args, max_batch)
            reader = self._readers.for_call(calls[0], attribute_to_layer_input)
            maps, outputs = read_batch(calls, reader)
            output = joined_outputs(outputs) if outputs else None
            image = image_of(calls[0].inputs)
            combined = without_row(reader.combined(maps), image)
            per_scale = tuple(without_row(of_scale, image) for of_scale in maps)
            return Maps(reader.scales, per_scale, combined, output)


def readers_of(attributor: SMOEScale) -> ReaderFactory:
    """Return the readers of an attributor, for modules that run the forward pass themselves.

    Fast-CAM, `fastsal.watch` and the harness read an attributor's scales in passes of their own.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> reader = readers_of(SMOEScale(net, net[1])).for_image(torch.rand(1, 3, 8, 8))
        >>> [tap.name for tap in reader.taps]
        ['1']
    """
    return attributor._readers
