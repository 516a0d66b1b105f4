"""Views: batches of a split's images as network inputs, normalised and masked."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.masking.imputation import noisy_linear
from evaluation.masking.levels import LevelArray, Masking
from evaluation.storage.checked_arrays import CheckedArray, ChunkHashes

__all__ = ["InputView", "RawBatch", "View", "on_device"]

# Images that are filled at once; the number changes no result.
_FILLED_TOGETHER = 256


# Some images as they are stored, such as their pixels and their levels.
RawBatch = tuple[Tensor, ...]


class View(ABC):
    """The images of one split as network inputs, by index.

    Batches come in two steps: `read`, which waits for memory and disk and can be prefetched, and
    `to_inputs`, on the network's device.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, indices: NDArray[np.integer]) -> RawBatch:
        """The raw batch of ``(B,)`` indices, as small as it is stored."""

    @abstractmethod
    def to_inputs(self, raw: RawBatch) -> Tensor:
        """The network's inputs from a raw batch, on its device; the raw batch may be changed."""

    def __call__(self, indices: NDArray[np.integer], device: str | torch.device = "cpu") -> Tensor:
        """The network's inputs of ``(B,)`` indices, on `device`."""
        return self.to_inputs(on_device(self.read(indices), device))


def on_device(raw: RawBatch, device: str | torch.device) -> RawBatch:
    """Copy a raw batch to a device, asynchronously if possible.

    >>> on_device((torch.zeros(1),), "cpu")
    (tensor([0.]),)
    """
    return tuple(tensor.to(device, non_blocking=True) for tensor in raw)


@dataclass(frozen=True)
class InputView(View):
    """The images of one split as network inputs: normalised and masked.

    Removed pixels become the training set's channel mean, which is 0 after normalisation.
    Unmasked images take the same path.

    Args:
        images: ``(N, H, W, 3)``, 0 to 255, uint8 or filled already; may be a memory map. Volumes
            are ``(N, D, H, W, C)``, signals ``(N, T, C)``.
        mean: the training set's channel mean, in [0, 1].
        std: the training set's channel standard deviation, in [0, 1].
        levels: ``(N, H, W)`` uint8, or ``(N, H, 3 W)`` if each channel of a pixel is ranked by
            itself; as many axes as the images have; None for unmasked images.
        masking: the mask of the levels; None for unmasked images.
        mask_only: give the mask itself (1 kept, -1 removed) in place of the image.

    >>> view = InputView(np.full((1, 2, 2, 3), 255, np.uint8), (0.5,) * 3, (0.25,) * 3)
    >>> view(np.array([0]))[0, 0].tolist()
    [[2.0, 2.0], [2.0, 2.0]]
    """

    images: NDArray[Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    levels: NDArray[np.uint8] | None = None
    masking: Masking | None = None
    mask_only: bool = False

    def __post_init__(self) -> None:
        """Refuse levels without a masking, and a masking without levels."""
        if (self.levels is None) != (self.masking is None):
            raise ValueError("levels and masking belong together: give both, or neither")
        if self.mask_only and self.masking is None:
            raise ValueError("mask_only shows a mask: give levels and masking")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def stored(self) -> tuple[NDArray[Any], ...]:
        """The arrays that a raw batch is taken from: images, levels, or both.

        Raises:
            ValueError: a fill that `filled` has not made.
        """
        if self.masking is None or self.levels is None:
            return (self.images,)
        if self.mask_only:
            return (self.levels,)
        if self.masking.fill != "mean":
            raise ValueError(f"the fill {self.masking.fill} is made once: call filled() first")
        return self.images, self.levels

    def read(self, indices: NDArray[np.integer]) -> RawBatch:
        """Pixels ``(B, H, W, 3)`` of ``(B,)`` indices and, if images are masked, their levels."""
        return tuple(torch.from_numpy(array[indices]) for array in self.stored)

    def to_inputs(self, raw: RawBatch) -> Tensor:
        """Inputs ``(B, C, H, W)``, float32 in channels-last order, on the raw batch's device."""
        kept = None
        if self.masking is not None:
            kept = self._kept(raw[-1], self.masking)
        if self.mask_only and kept is not None:
            shown = (2.0 * kept.float() - 1.0).expand(*kept.shape[:-1], self.images.shape[-1])
            return shown.movedim(-1, 1)
        pixels = raw[0].float()
        pixels.sub_(_range_of(self.mean, pixels.device)).div_(_range_of(self.std, pixels.device))
        if kept is not None:
            pixels.mul_(kept)
        return pixels.movedim(-1, 1)

    def kept(self, indices: NDArray[np.integer]) -> NDArray[np.bool_]:
        """True for pixels that stay, ``(B, H, W, 1)``, or for elements, ``(B, H, W, 3)``.

        Raises:
            ValueError: unmasked images.
        """
        if self.levels is None or self.masking is None:
            raise ValueError("the images are unmasked: give levels and masking")
        return self._kept(self.levels[indices], self.masking)

    def filled(self, first_index: int, folder: Path | None = None) -> InputView:
        """A view with removed pixels filled as the masking says, once for all epochs.

        Args:
            first_index: number of the first image, which seeds each image's noise.
            folder: folder of the file of filled images. The file has no name: it is gone with the
                view, however the process ends. None for the system's temporary folder.

        Returns:
            A view of filled images, each chunk checked when it is first read; this view itself if
            the fill is the mean or only masks are shown.

        Raises:
            OSError: the disk is full.
        """
        if not self._needs_fill():
            return self
        hashes = ChunkHashes(self.images.shape[1:], "<f2")
        with tempfile.TemporaryFile(dir=folder) as file:
            for start in range(0, len(self), _FILLED_TOGETHER):
                indices = np.arange(start, min(start + _FILLED_TOGETHER, len(self)))
                images = self._filled_images(indices, first_index)
                hashes.update(images)
                file.write(images.data)
                del images  # else they would be held while the next ones are made
            file.flush()
            # The map keeps the file open for itself.
            mapped = np.memmap(file, np.float16, "r", shape=self.images.shape)
        checked = CheckedArray.of(mapped, hashes.digests(), hashes.entries, None)
        return InputView(checked, self.mean, self.std)

    def filled_as_read(self, first_index: int) -> View:
        """The view of `filled` for one pass: each image is filled when it is read.

        Args:
            first_index: number of the first image, which seeds each image's noise.
        """
        return _FilledAsRead(self, first_index) if self._needs_fill() else self

    def _needs_fill(self) -> bool:
        return self.masking is not None and self.masking.fill != "mean" and not self.mask_only

    def _filled_images(self, indices: NDArray[np.integer], first_index: int) -> NDArray[np.float16]:
        """Images ``(B, H, W, 3)``, 0 to 255, with removed pixels filled."""
        # Half precision holds every 8-bit value exactly; a fill is noisier than its rounding.
        return noisy_linear(self.images[indices], self.kept(indices), first_index + indices).astype(
            np.float16
        )

    def _kept(self, levels: LevelArray, masking: Masking) -> LevelArray:
        """Booleans ``(B, H, W, 1)``, or ``(B, H, W, 3)`` for elements."""
        return masking.kept(levels).reshape(len(levels), *self.images.shape[1:-1], -1)


@lru_cache(maxsize=16)
def _range_of(share: tuple[float, ...], device: torch.device) -> Tensor:
    """Shares of the range of an 8-bit image, on a device: brought there once, not at each step."""
    with torch.inference_mode(False):
        return (255.0 * torch.tensor(share)).to(device)


@dataclass(frozen=True)
class _FilledAsRead(View):
    view: InputView
    first_index: int

    def __len__(self) -> int:
        return len(self.view)

    def read(self, indices: NDArray[np.integer]) -> RawBatch:
        return (torch.from_numpy(self.view._filled_images(indices, self.first_index)),)

    def to_inputs(self, raw: RawBatch) -> Tensor:
        return InputView(self.view.images, self.view.mean, self.view.std).to_inputs(raw)
