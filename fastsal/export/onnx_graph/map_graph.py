"""The graph of the map alone: from the tensors of scales and the image's size to the maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.export.layers import form_of
from fastsal.export.model import ModelWithMap
from fastsal.export.onnx import exported_program
from fastsal.export.onnx_check import ExportError
from fastsal.export.onnx_graph.examples import Images
from fastsal.export.onnx_graph.opsets import in_opset
from fastsal.export.onnx_nodes import keep_slices, remove_metadata, write_constants_as_nodes
from fastsal.export.recording import Recording
from fastsal.networks.scales import Scale
from fastsal.statistics.registry import Statistic

IMAGE = "image"


@dataclass(frozen=True)
class MapOf:
    """The map that is made of scales.

    Attributes:
        scales: The scales, the shallowest first; R of them.
        operations: The function that made the tensor of each, in PyTorch's words.
        dtypes: The type of each.
        weights: R weights of the maps.
        statistic: The statistic.
        lovi: Makes the LOVI picture too.
    """

    scales: tuple[Scale, ...]
    operations: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    weights: tuple[float, ...]
    statistic: Statistic
    lovi: bool


class MapOfScales(nn.Module):
    """A module from the image and the tensors of R scales to the maps.

    It is a `ModelWithMap` around a network that does nothing but hand out its inputs as scales.

    Args:
        of: The map.
        size: (H, W) of the image.
        channels_last: True if the image is `(N, H, W, C)`.

    Example:
        >>> from fastsal.statistics import get_statistic
        >>> scale = Scale("relu", nn.Identity(), 0, (1, 4, 2, 2), (4, 4), signed=False)
        >>> smoe = get_statistic("smoe_scale")
        >>> of = MapOf((scale,), ("relu",), (torch.float32,), (1.0,), smoe, False)
        >>> made = MapOfScales(of, (8, 8), False)(torch.zeros(1, 3, 8, 8), torch.rand(1, 4, 2, 2))
        >>> [tuple(one.shape) for one in made]
        [(1, 8, 8), (1, 2, 2)]
    """

    def __init__(self, of: MapOf, size: tuple[int, int], channels_last: bool) -> None:
        super().__init__()
        handing = _Handing(len(of.scales))
        scales = [
            replace(scale, name=f"layers.{index}", module=layer, call=None)
            for index, (scale, layer) in enumerate(zip(of.scales, handing.layers, strict=True))
        ]
        recordings = [
            Recording(scale, form_of(of.statistic, scale, operation))
            for scale, operation in zip(scales, of.operations, strict=True)
        ]
        image = torch.empty((1, 1, *size), device="meta", dtype=torch.float32)
        self.mapped = ModelWithMap(handing, scales, recordings, of.weights, of.lovi, None, image)
        self.channels_last = channels_last
        self.training = False

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the map `(N, H, W)`, each scale's `(N, h, w)`, and the LOVI picture if wanted.

        Args:
            inputs: The image, and the tensor of each scale.
        """
        image, *tensors = inputs
        if self.channels_last:
            image = image.permute(0, 3, 1, 2)
        _, combined, per_scale, *lovi = self.mapped(image, *tensors)
        return combined, *per_scale, *lovi


class _Handing(nn.Module):
    """A network whose layers are given their tensors."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Identity() for _ in range(count))

    def forward(self, _: Tensor, *tensors: Tensor) -> tuple[()]:
        for layer, tensor in zip(self.layers, tensors, strict=True):
            layer(tensor)
        return ()


def map_model(of: MapOf, images: Images, image: Tensor, opset: int) -> Any:
    """Return the map as an ONNX model of its own, an `onnx.ModelProto`.

    Its inputs are "image", of which the size alone is read, and "tensor_1" to "tensor_R"; its
    outputs "map", "scale_1" to "scale_R", and "lovi" if wanted. Dimensions that the file leaves
    open are open.

    Args:
        of: The map.
        images: The inputs of the file.
        image: The file's image, as an example.
        opset: The version of ONNX's operators that it is written in.

    Raises:
        ExportError: If it cannot be written so, or is for one size of images, which are open.
    """
    if images.dynamic_size:
        _check_open_size(of)
    shape = images.channels_first(image).shape
    module = MapOfScales(of, (shape[2], shape[3]), images.channels_last)
    tensors, axes = [image], [_axes_of_image(images)]
    for index, (scale, dtype) in enumerate(zip(of.scales, of.dtypes, strict=True), 1):
        tensors.append(torch.rand(scale.shape, device="cpu", dtype=torch.float32).to(dtype))
        axes.append(_axes_of_scale(scale, images, index))
    if images.dynamic_batch:
        # The exporter takes a batch of one for a constant size.
        tensors = [
            torch.cat([tensor, tensor], next(d for d, name in own.items() if name == "batch"))
            for tensor, own in zip(tensors, axes, strict=True)
        ]
    names = [IMAGE, *(f"tensor_{index}" for index in range(1, len(tensors)))]
    outputs = module.mapped.outputs
    model = exported_program(module, tuple(tensors), axes, names, outputs, None).model_proto
    remove_metadata(model)
    model = in_opset(model, opset)
    # All nodes are the map's, and have no prefix yet.
    keep_slices(model.graph, "")
    write_constants_as_nodes(model.graph, "")
    return model


def _check_open_size(of: MapOf) -> None:
    """Refuse scales of which the map can be made for one size of images alone.

    Raises:
        ExportError: If there is one.
    """
    for scale in of.scales:
        if scale.layout.tokens is None and scale.placement is None:
            continue
        why = (
            "has its locations in one dimension"
            if scale.placement is None
            else "lies in a part of the image alone, or elsewhere than its pixels"
        )
        raise ExportError(
            f"tensor {scale.name!r} {why}, so that its map is for one size of images, which the "
            "file leaves open: fix the input's size first (python -m "
            "onnxruntime.tools.make_dynamic_shape_fixed), or give layers without it"
        )


def _axes_of_image(images: Images) -> dict[int, str]:
    axes = {0: "batch"} if images.dynamic_batch else {}
    rows, columns = (1, 2) if images.channels_last else (2, 3)
    for dimension, name, side in ((rows, "height", 2), (columns, "width", 3)):
        if not isinstance(images.shape[side], int):
            axes[dimension] = name
    return axes


def _axes_of_scale(scale: Scale, images: Images, index: int) -> dict[int, str]:
    """Return the open dimensions of a scale's tensor; of tokens, the number of images alone."""
    batch, _, rows, columns = scale.layout.order
    axes = {batch: "batch"} if images.dynamic_batch else {}
    if scale.layout.tokens is None:
        if not isinstance(images.shape[2], int):
            axes[rows] = f"height_{index}"
        if not isinstance(images.shape[3], int):
            axes[columns] = f"width_{index}"
    return axes
