"""A model and its map as one module, for torch.export, torch.compile, torch.jit and ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastsal.arguments.copies import copied
from fastsal.arguments.inputs import (
    EXPECTED,
    SIGNAL,
    VOLUME,
    Inputs,
    as_tuple,
    grid_of,
    image_of,
    without_row,
)
from fastsal.arguments.logits import logits_of
from fastsal.cam.linear_head import LinearHead, find_linear_head
from fastsal.export.graph_forms import GraphForm, Reading, gaussian, upsampled, weighted
from fastsal.export.layers import Layers, recordings_of
from fastsal.export.one_size import OneSize, check_places
from fastsal.export.operators import combined_maps
from fastsal.export.recording import Recorder, Recording, recording_copy, refusing
from fastsal.images.colour import lovi_colours
from fastsal.kernels.constants import EPSILON
from fastsal.maps.prior import Weights, layer_weights
from fastsal.networks.scales import Scale
from fastsal.statistics.registry import Statistic, StatisticFunction, get_statistic, with_epsilon

__all__ = ["ModelWithMap", "with_fast_cam", "with_map"]


class ModelWithMap(nn.Module):
    r"""A model that returns its saliency map beside its output.

    `with_map` and `with_fast_cam` make it. It calls a copy of the model, whose layers hand their
    tensors to the statistic; the parameters and buffers are the model's own. It can be copied,
    pickled and saved.

    Args:
        model (torch.nn.Module): The model; it is not changed.
        scales (sequence of Scale): The scales, the shallowest first; R of them.
        recordings (sequence of Recording): One for each scale, which gives its statistic; with a
            head, one more for the activations `(N, C, h, w)` of the class activation map.
        weights (sequence of float): R weights of the maps.
        lovi (bool): Returns the LOVI picture too.
        head (LinearHead, optional): The linear layer whose weights make the class activation map;
            None for SMOE Scale alone.
        image (torch.Tensor): An example of the images, volumes or signals that have the map.

    Attributes:
        model (torch.nn.Module): The copy of the model.
        scales (tuple of Scale): The scales.
        outputs (tuple of str): The names of the outputs after the model's own: "map", "scale_1" to
            "scale_R", and "lovi" if it is returned.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", Eq 1 to 7.

    Example:
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        ...     nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(),
        ... ).eval()
        >>> module = with_map(net, torch.rand(1, 3, 8, 8), lovi=True)
        >>> isinstance(module, ModelWithMap), module.outputs
        (True, ('map', 'scale_1', 'scale_2', 'lovi'))
    """

    def __init__(
        self,
        model: nn.Module,
        scales: Sequence[Scale],
        recordings: Sequence[Recording],
        weights: Sequence[float],
        lovi: bool,
        head: LinearHead | None,
        image: Tensor,
    ) -> None:
        super().__init__()
        self.recorder = Recorder(recordings, {})
        check_places(scales)
        self.dimensions = image.dim()
        if lovi and self.dimensions == VOLUME:
            raise ValueError(
                "lovi=True gives a picture of images, and these are volumes; leave it out, and "
                "colour slices of the scales' maps by fastsal.lovi"
            )
        self.one_size = OneSize(scales, grid_of(image))
        self.statistic = cast(GraphForm, recordings[0].read)
        self.moved = any(scale.placement is not None for scale in scales)
        self.model = recording_copy(model, self.recorder)
        self.scales = tuple(scales)
        total = math.fsum(weights)
        self.shares = tuple(weight / total for weight in weights)
        self.lovi = lovi
        self.head = head
        per_scale = tuple(f"scale_{index}" for index in range(1, len(scales) + 1))
        self.outputs = ("map", *per_scale, *(("lovi",) if lovi else ()))
        self.training = False

    def _laid(self, index: int, maps: Tensor, image: Tensor, one_size: bool) -> Tensor:
        """Return maps `(N, h, w)` of a scale as `(N, H, W)` on the image."""
        if one_size or self.scales[index].placement is not None:
            return self.one_size.laid(index, maps)
        return upsampled(maps, image)

    def _by_kernels(
        self, readings: Sequence[Any], size: tuple[int, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """Return the combined map and that of every scale, by kernels; None where none can run."""
        by_kernel = all(isinstance(one, Tensor) for one in readings)
        if not by_kernel or self.moved or self.lovi:
            return None
        maps = combined_maps(readings, self.shares, size)
        return None if maps is None else (maps[0], tuple(maps[1:]))

    def forward(self, *inputs: Tensor) -> tuple[Any, ...]:
        """Return the model's output, the map and the map of every scale.

        Args:
            inputs (torch.Tensor): The model's inputs; the first with as many dimensions as the
                example's images, volumes or signals has the map.

        Returns:
            A tuple of the model's output; the map `(N, H, W)`; a tuple of each scale's map
            `(N, h, w)`; and, with `lovi`, the LOVI picture `(N, 3, H, W)`. Maps and picture are
            float32 and in [0, 1]. Of volumes maps are `(N, D, H, W)`; of signals `(N, T)`, and
            their picture is `(N, 3, 1, T)`.

        Raises:
            ValueError: If no input is an image batch.
        """
        # No `next` with a default: torch 2.6's compiler cannot trace it.
        images = [one for one in inputs if one.dim() == self.dimensions]
        if not images:
            shapes = [tuple(one.shape) for one in inputs]
            raise ValueError(
                f"expected {EXPECTED} of {self.dimensions} dimensions as in the example, got "
                f"inputs of shape {shapes}"
            )
        image = images[0]
        self.recorder.begin()
        output = self.model(*inputs)
        recorded = self.recorder.end()
        size, laid_for = grid_of(image), self.one_size.size
        if self.moved and size != laid_for:
            raise ValueError(
                f"this map is laid for images of {'x'.join(map(str, laid_for))}, since the network "
                f"moves, crops or pads them inside; got {tuple(image.shape)}. Make another module "
                "with an example of that size"
            )
        readings = recorded[: len(self.scales)]
        laid: list[Tensor] = []
        combined, per_scale = self._by_kernels(readings, size) or (None, ())
        one_size = combined is None and self.one_size.fits(image, readings)
        if combined is None:
            per_scale = tuple(
                self.one_size.gaussian(_of_all(readings, self.statistic))
                if one_size
                else [gaussian(_of_one(reading, self.statistic)) for reading in readings]
            )
            if one_size and not self.lovi:
                combined = self.one_size.combined(per_scale, self.shares)
            else:
                laid = [
                    self._laid(index, one, image, one_size) for index, one in enumerate(per_scale)
                ]
                combined = weighted(laid, self.shares)
        if self.head is not None:
            cam = self.head.class_activation_map(recorded[-1], logits_of(output), self.model)
            combined = combined * self._laid(len(self.scales) - 1, cam, image, one_size)
        lovi = (lovi_colours(torch.stack(laid, 1)),) if self.lovi else ()
        if self.dimensions == SIGNAL:
            combined = without_row(combined, image)
            per_scale = tuple([without_row(one, image) for one in per_scale])
        return output, combined, per_scale, *lovi


def with_map(
    model: nn.Module,
    example: Inputs,
    *,
    layers: Layers | None = None,
    weights: Weights = "linear",
    statistic: str | Statistic | StatisticFunction = "smoe_scale",
    lovi: bool = False,
    epsilon: float = EPSILON,
) -> ModelWithMap:
    r"""Return a module that computes a model's output and its SMOE Scale map.

    The map is that of `SMOEScale` with the normal CDF (Eq 1 to 3). The module calls a copy of the
    model in evaluation mode. **The copy has the model's own parameters and buffers**: training or
    loading one changes the other, and `to` and `half` change both. It has the model's own hooks
    too. A layer that is read hands its tensor, as these hooks leave it, to the statistic at the
    call that the scale names; the tracers follow. The model itself is not changed, and the example
    is not written to.

    The alternative, a graph of torch.fx or torch.export with the statistic inserted, was not
    taken. The copy still runs the model's Python code, and so takes other sizes than the example's,
    modules that are called several times, a ReLU that is reused in place or is a function,
    in-place writes after a scale, and any device. Tracing the module traces the map with it.

    Args:
        model (torch.nn.Module): The network; one that is compiled, or wrapped for several devices,
            gives the module inside.
        example (torch.Tensor or tuple of torch.Tensor): Example inputs of the model, with an image
            batch `(N, C, H, W)`, or volumes `(N, C, D, H, W)`, or signals `(N, C, T)`; the first,
            if there are several, has the map. One forward pass of them finds the scales.
        layers (str, torch.nn.Module, Scale or list of these, optional): The layers to read, the
            shallowest first, or "late", as for `SMOEScale`. Default: None, which finds them as
            `fastsal.find_scales` does.
        weights (str, path or sequence of float): The weight of every scale, as for `SMOEScale`.
            Default: "linear", which is 1, 2, 3, ...
        statistic (str, Statistic or Callable): A statistic that is defined after the ReLU, as for
            `SMOEScale`. Default: "smoe_scale".
        lovi (bool): Returns the LOVI picture too. Default: False.
        epsilon (float): As for `SMOEScale`. Default: 1e-6.

    Returns:
        A `ModelWithMap`, which takes the model's inputs as positional tensors.

    Raises:
        ValueError: If no scales are found, a layer cannot be read in a copy, the statistic is
            defined before the ReLU, or the weights do not fit.
        TypeError: If the model is no `torch.nn.Module`.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", Eq 1 to 7.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        ...     nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ...     nn.Linear(8, 5),
        ... ).eval()
        >>> mapped = with_map(net, torch.rand(1, 3, 8, 8))
        >>> output, saliency, per_scale = mapped(torch.rand(2, 3, 12, 8))
        >>> output.shape, saliency.shape, [tuple(one.shape) for one in per_scale]
        (torch.Size([2, 5]), torch.Size([2, 12, 8]), [(2, 12, 8), (2, 6, 4)])
    """
    chosen = with_epsilon(get_statistic(statistic), epsilon)
    root, scales, recordings = recordings_of(model, example, layers, chosen)
    shares = layer_weights(weights, len(scales), [scale.name for scale in scales])
    return _checked(
        ModelWithMap(root, scales, recordings, shares, lovi, None, _image(example)), root, example
    )


def with_fast_cam(
    model: nn.Module,
    example: Inputs,
    *,
    target: int | None = None,
    layers: Layers | None = None,
    weights: Weights = "linear",
    statistic: str | Statistic | StatisticFunction = "smoe_scale",
    lovi: bool = False,
    epsilon: float = EPSILON,
) -> ModelWithMap:
    r"""Return a module that computes a model's output and its Fast-CAM map, without gradients.

    $$F = S \cdot U\big(L / \max L\big), \qquad
      L = \mathrm{ReLU}\Big(\sum_k W_{ck} A_k\Big)$$

    with `S` the SMOE Scale map, `U` bilinear upsampling, `A` the last scale's activations and `W`
    the weights of the linear layer for class `c`. If only global average pooling and this layer
    follow the scale, the gradient of the class's score with respect to `A_k` is `W_ck / P` at each
    of the P locations. This is Grad-CAM's weight up to a constant factor, which the division by the
    maximum cancels. The gradient is checked on the example. The map is that of `FastCAM`.

    Args:
        model (torch.nn.Module): The network, which ends in global average pooling and a linear
            layer.
        example (torch.Tensor or tuple of torch.Tensor): As for `with_map`.
        target (int, optional): The explained class. Default: None, the predicted class of each
            image.
        layers (str, torch.nn.Module, Scale or list of these, optional): As for `with_map`; the last
            one makes the class activation map. Default: None.
        weights (str, path or sequence of float): As for `with_map`. Default: "linear".
        statistic (str, Statistic or Callable): As for `with_map`. Default: "smoe_scale".
        lovi (bool): As for `with_map`. Default: False.
        epsilon (float): As for `SMOEScale`. Default: 1e-6.

    Returns:
        A `ModelWithMap`, whose map is Fast-CAM; the map is 0 for an image of which no location
        raises the class's score.

    Raises:
        ValueError: As for `with_map`; if other layers follow the last scale, with a list of them;
            or if there is no such class.
        TypeError: As for `with_map`.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", section 4.2.

    Example:
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        ...     nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ...     nn.Linear(8, 5),
        ... ).eval()
        >>> with_fast_cam(net, torch.rand(1, 3, 8, 8), target=3)(torch.rand(2, 3, 8, 8))[1].shape
        torch.Size([2, 8, 8])
    """
    chosen = with_epsilon(get_statistic(statistic), epsilon)
    root, scales, recordings = recordings_of(model, example, layers, chosen)
    shares = layer_weights(weights, len(scales), [scale.name for scale in scales])
    last = scales[-1].of_class or scales[-1]
    head = find_linear_head(root, copied(as_tuple(example)), last, target)
    recordings.append(Recording(last, torch.relu if last.functional_relu else _copied))
    return _checked(
        ModelWithMap(root, scales, recordings, shares, lovi, head, _image(example)), root, example
    )


def _of_one(reading: Reading | Tensor, form: GraphForm) -> Tensor:
    """Return the statistic of one scale, `(N, h, w)`, which a kernel may have made."""
    if isinstance(reading, Tensor):
        return reading
    return form.of_sums(reading.sums).reshape(-1, *reading.size)


def _of_all(readings: Sequence[Reading], form: GraphForm) -> Tensor:
    """Return the statistic of all scales one after the other, `(N, 1, P)`."""
    return form.of_sums(torch.cat([reading.sums for reading in readings], 2))


def _image(example: Inputs) -> Tensor:
    return image_of(as_tuple(example))


def _copied(tensor: Tensor) -> Tensor:
    # The network may write to the tensor in place before the map is made.
    return tensor.clone()


def _checked(module: ModelWithMap, model: nn.Module, example: Inputs) -> ModelWithMap:
    """Return the module after one forward pass, which raises if the model's own layers run."""
    with torch.no_grad(), refusing(model):
        module(*copied(as_tuple(example)))
    return module
