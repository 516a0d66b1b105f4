"""Planes: what a picture shows of a volume or a signal, as images."""

from __future__ import annotations

import torch
from torch import Tensor

# The height in pixels of the strip that stands for a signal.
STRIP = 48
AXES = ("depth", "height", "width")


class Planes:
    """One plane of each volume of a batch, across one axis; or a strip of each signal.

    Args:
        combined: The maps `(N, D, H, W)` of volumes, `(N, H, W)` of images, `(N, T)` of signals.
        axis: The axis of volumes that the planes lie across: 0 for depth, 1, 2.
        index: The place of the planes on that axis; None takes for each volume the plane whose map
            has the largest mean.

    Raises:
        ValueError: If a volume has no such axis or plane, or the maps are of no such kind.

    >>> volume = torch.zeros(1, 4, 3, 2)
    >>> volume[0, 2] = 1.0
    >>> planes = Planes(volume)
    >>> planes.indices, planes.of(volume).shape, planes.of(volume).unique().tolist()
    ([2], torch.Size([1, 3, 2]), [1.0])
    """

    def __init__(self, combined: Tensor, axis: int = 0, index: int | None = None) -> None:
        self.axes = combined.dim() - 1
        if not 1 <= self.axes <= 3:
            raise ValueError(
                f"expected maps (N, H, W), of volumes (N, D, H, W), of signals (N, T), got "
                f"{tuple(combined.shape)}"
            )
        self.axis = axis
        self.indices: list[int] = []
        if self.axes != 3:
            if index is not None:
                raise ValueError(
                    f"index={index} chooses a plane of volumes, and these maps are "
                    f"{tuple(combined.shape)}; leave it out"
                )
            return
        if axis not in range(3):
            raise ValueError(f"axis is 0 for depth, 1 for height or 2 for width, got {axis!r}")
        length = combined.shape[1 + axis]
        if index is None:
            others = [1 + other for other in range(3) if other != axis]
            self.indices = combined.detach().float().mean(others).argmax(1).tolist()
        elif not -length <= index < length:
            raise ValueError(
                f"index={index} is no plane across the {AXES[axis]} of {length}; expected 0 to "
                f"{length - 1}"
            )
        else:
            self.indices = [index % length] * len(combined)

    def of(self, tensor: Tensor) -> Tensor:
        """Return the planes of maps or inputs as images `(..., H, W)`; of images they are all.

        Args:
            tensor: `(N, ..., D, H, W)`, `(N, ..., H, W)` or `(N, ..., T)`.
        """
        if self.axes == 1:
            return tensor.unsqueeze(-2).expand(*tensor.shape[:-1], STRIP, tensor.shape[-1])
        if self.axes == 2:
            return tensor
        dimension = self.axis - 3
        planes = [one.select(dimension, at) for one, at in zip(tensor, self.indices, strict=True)]
        return torch.stack(planes)


def stretched_rgb(images: Tensor) -> Tensor:
    """Return images `(N, C, H, W)` as RGB `(N, 3, H, W)`, each stretched to [0, 1].

    Images without three channels are the grey mean of their channels.

    Example:
        >>> stretched_rgb(torch.tensor([[[[-2.0, 0.0, 2.0]]]]))[0, :, 0].tolist()
        [[0.0, 0.5, 1.0], [0.0, 0.5, 1.0], [0.0, 0.5, 1.0]]
    """
    images = images.float()
    if images.shape[1] != 3:
        images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(torch.finfo(images.dtype).tiny)
