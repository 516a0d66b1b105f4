"""Inputs of an ONNX file: the image among them, and random examples of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.export.onnx_check import ExportError, smooth_images
from fastsal.export.onnx_graph.graph_file import GraphFile

# The types of inputs, by ONNX's numbers for them.
TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32,
    7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64,
}  # fmt: skip
# Channels of images: grey, grey with opacity, RGB, RGBA.
MOST_CHANNELS = 4

Dimension = int | str | None


class FileInput(NamedTuple):
    """An input of an ONNX file.

    Attributes:
        name: Its name.
        shape: Its dimensions: a number where the file fixes it, else its name or None.
        dtype: Its type.
    """

    name: str
    shape: tuple[Dimension, ...]
    dtype: torch.dtype


class Images(NamedTuple):
    """The inputs of an ONNX file, and which is the image.

    Attributes:
        inputs: The inputs.
        image: The image's place among them.
        channels_last: True if it is `(N, H, W, C)`.
    """

    inputs: tuple[FileInput, ...]
    image: int
    channels_last: bool

    @property
    def shape(self) -> tuple[Dimension, ...]:
        """(N, C, H, W) of the image; a number where the file fixes it."""
        batch, *rest = self.inputs[self.image].shape
        if self.channels_last:
            return batch, rest[2], rest[0], rest[1]
        return batch, *rest

    @property
    def dynamic_batch(self) -> bool:
        """True if the file leaves the number of images open."""
        return not isinstance(self.shape[0], int)

    @property
    def dynamic_size(self) -> bool:
        """True if the file leaves the height or the width of images open."""
        return not all(isinstance(side, int) for side in self.shape[2:])

    def channels_first(self, tensor: Tensor) -> Tensor:
        """Return a rank-4 input as `(N, C, H, W)`."""
        return tensor.permute(0, 3, 1, 2) if self.channels_last else tensor

    def example(self, count: int, side: int, seed: int = 0, wider: int = 0) -> dict[str, Tensor]:
        """Return random inputs by their names.

        Args:
            count: The number of images, where the file leaves it open.
            side: Their height and width, where it leaves that open.
            seed: The seed.
            wider: Pixels by which the width is larger, where it is open.
        """
        generator = torch.Generator("cpu").manual_seed(seed)
        open_sides = {2: side, 3: side + wider}
        wanted = [count, 3, side, side + wider]
        of_image = [
            one if isinstance(one, int) else open_sides.get(index, wanted[index])
            for index, one in enumerate(self.shape)
        ]
        made = {}
        for index, one in enumerate(self.inputs):
            if index == self.image:
                values = smooth_images(of_image, generator)
                if self.channels_last:
                    values = values.permute(0, 2, 3, 1).contiguous()
            else:
                shape = [
                    size if isinstance(size, int) else (of_image[0] if place == 0 else 1)
                    for place, size in enumerate(one.shape)
                ]
                if one.dtype.is_floating_point or len(shape) == 4:
                    values = torch.rand(
                        shape, generator=generator, device="cpu", dtype=torch.float32
                    )
                else:
                    values = torch.ones(shape, device="cpu", dtype=torch.float32)
            if not one.dtype.is_floating_point and len(one.shape) == 4:
                values = values * 255
            made[one.name] = values.to(one.dtype)
        return made


def images_of(file: GraphFile) -> Images:
    """Return a file's inputs; the image is the first with four dimensions.

    Raises:
        ExportError: If none has, or an input is of a type that no example can be made of.
    """
    inputs = []
    for value in file.inputs:
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") or tensor.elem_type not in TYPES:
            raise ExportError(
                f"input {value.name!r} of {file.path} is no tensor of numbers, of which random "
                "examples could be made; the file cannot be looked into"
            )
        shape = tuple(_dimension(one) for one in tensor.shape.dim)
        inputs.append(FileInput(value.name, shape, TYPES[tensor.elem_type]))
    for index, one in enumerate(inputs):
        if len(one.shape) == 4:
            return Images(tuple(inputs), index, _channels_last(one.shape))
    listed = ", ".join(f"{one.name} {_written(one.shape)}" for one in inputs)
    raise ExportError(
        f"{file.path} has no image among its inputs, expected one of shape (N, C, H, W) or "
        f"(N, H, W, C): {listed or 'it has none'}. The map of a network for volumes or signals is "
        "exported with the network in PyTorch, by fastsal.export.with_map and write_onnx"
    )


def _dimension(one: Any) -> Dimension:
    if one.HasField("dim_value") and one.dim_value > 0:
        return int(one.dim_value)
    return str(one.dim_param) or None


def _channels_last(shape: Sequence[Dimension]) -> bool:
    first, last = (isinstance(one, int) and one <= MOST_CHANNELS for one in (shape[1], shape[3]))
    return last and not first


def _written(shape: Sequence[Dimension]) -> str:
    return "(" + ", ".join("?" if one is None else str(one) for one in shape) + ")"
