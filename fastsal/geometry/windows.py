"""Windows: the centres of convolutions and pooling along each dimension of their input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.geometry.sampling import sampled

# The order of the arguments after the input.
_CONV = ("weight", "bias", "stride", "padding", "dilation")
_TRANSPOSED = ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_GENERAL = ("weight", "bias", "stride", "padding", "dilation", "transposed")
_DEFORMED = (
    "weight", "offset", "mask", "bias", "stride", "stride_w", "padding", "padding_w", "dilation",
)  # fmt: skip
_POOL = ("kernel_size", "stride", "padding", "dilation")
_AVERAGE = ("kernel_size", "stride", "padding")
_NORM = ("norm_type", "kernel_size", "stride")


class Windows(NamedTuple):
    """The windows of one operation along one dimension.

    Attributes:
        kernel: Their length, in elements.
        stride: The elements from one to the next.
        padding: The elements before the input.
        dilation: The elements from one of a window's elements to the next.
        transposed: True for a transposed convolution.
    """

    kernel: int
    stride: int
    padding: int
    dilation: int
    transposed: bool = False

    def centres(self, count: int) -> Tensor:
        """Return the index in the input of each of `count` windows' centres.

        >>> Windows(3, 2, 1, 1).centres(3).tolist()
        [0.0, 2.0, 4.0]
        """
        index = torch.arange(count, dtype=torch.float32, device="cpu")
        middle = self.dilation * (self.kernel - 1) / 2
        if self.transposed:
            return (index + self.padding - middle) / self.stride
        return index * self.stride - self.padding + middle


def windows_of(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], shape: Sequence[int]
) -> list[Windows] | None:
    """Return the windows of a convolution or pooling along each of its dimensions.

    Args:
        name: The function's name.
        args: Its arguments.
        kwargs: Its keyword arguments.
        shape: The shape of the result.

    Returns:
        One for each of the last dimensions; None for adaptive pooling and others whose windows
        cover the input evenly.
    """
    order: tuple[str, ...]
    if "conv" in name:
        transposed = "transpose" in name
        order = _TRANSPOSED if transposed else _CONV
        if name == "convolution":
            order = _GENERAL
        elif "deform" in name:
            # torchvision's own operation has the weight first, and its sizes one by one.
            order = _DEFORMED if len(args) > 8 else ("offset", "weight", *_CONV[1:])
        given = dict(zip(order, args[1:], strict=False)) | dict(kwargs)
        kernel: Sequence[int] = given["weight"].shape[2:]
        transposed = transposed or bool(given.get("transposed", False))
    elif "adaptive" in name or "fractional" in name or "unpool" in name:
        return None
    else:
        order = _NORM if "lp_pool" in name else _AVERAGE if "avg" in name else _POOL
        given = dict(zip(order, args[1:], strict=False)) | dict(kwargs)
        dimensions = next((int(letter) for letter in name if letter.isdecimal()), len(shape) - 2)
        kernel = _each(given["kernel_size"], dimensions)
        transposed = False
        if given.get("stride") in (None, (), []):
            given["stride"] = kernel
    count = len(kernel)
    strides, dilations = (
        _each(given.get("stride", 1), count),
        _each(given.get("dilation", 1), count),
    )
    padding = given.get("padding", 0)
    if padding == "valid":
        paddings = [0] * count
    elif padding == "same":
        paddings = [
            dilation * (length - 1) // 2 for length, dilation in zip(kernel, dilations, strict=True)
        ]
    else:
        paddings = _each(padding, count)
    return [
        Windows(*each, transposed)
        for each in zip(kernel, strides, paddings, dilations, strict=True)
    ]


def windowed(
    field: Tensor, windows: Sequence[Windows] | None, before: Sequence[int], after: Sequence[int]
) -> Tensor:
    """Return the field of windows: that of their input at their centres.

    Args:
        field: The field of the input.
        windows: The windows along each of the last dimensions; None covers the input evenly.
        before: The shape of the input.
        after: The shape of the result.
    """
    dimensions = len(after) - 2 if windows is None else len(windows)
    for index in range(-dimensions, 0):
        count, length = after[index], before[index]
        if windows is None:
            # The first and the last element of each of adaptive pooling's windows.
            place = torch.arange(count, dtype=torch.long, device="cpu")
            first, last = place * length // count, -(-(place + 1) * length // count) - 1
            at = (first + last) / 2
        else:
            at = windows[index].centres(count)
        field = sampled(field, field.dim() + index, at.to(field.device))
    return field


def _each(value: Any, count: int) -> list[int]:
    """Return one number for each dimension."""
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values
