"""The images of a split as a network is given them: normalised, masked, in any order."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.masking.imputation import noisy_linear
from evaluation.masking.levels import LevelArray, Masking

__all__ = ["InputView", "RawBatch", "View", "on_device"]

# Images whose fill is made at once; any number gives the same.
_FILLED_TOGETHER = 256


# What a view keeps of some images, such as their pixels and their levels.
RawBatch = tuple[Tensor, ...]


class View(ABC):
    """What a network is trained on: the images of one split, in any order.

    It gives images in two steps, so that the first, which waits for memory and disk, can be
    done ahead, and the second where the network is.
    """

    @abstractmethod
    def __len__(self) -> int:
        """How many images."""

    @abstractmethod
    def read(self, indices: NDArray[np.integer]) -> RawBatch:
        """``(B,)`` indices to what is kept of these images, as small as it is kept."""

    @abstractmethod
    def to_inputs(self, raw: RawBatch) -> Tensor:
        """What `read` gave, which may be changed, to what the network takes, on its device."""

    def __call__(self, indices: NDArray[np.integer], device: str | torch.device = "cpu") -> Tensor:
        """``(B,)`` indices to what the network takes for them, on `device`."""
        return self.to_inputs(on_device(self.read(indices), device))


def on_device(raw: RawBatch, device: str | torch.device) -> RawBatch:
    """RawBatch where a network is, copied while the processor goes on where it can.

    >>> on_device((torch.zeros(1),), "cpu")
    (tensor([0.]),)
    """
    return tuple(tensor.to(device, non_blocking=True) for tensor in raw)


@dataclass(frozen=True)
class InputView(View):
    """The images of one split as a network sees them: normalised, masked, in any order.

    Removed pixels become the training set's channel mean, which is 0 after
    normalisation. Without a masking nothing is removed; the path is the same.

    Args:
        images: ``(N, H, W, 3)``, 0 to 255, uint8 or filled already; may be a memory map.
        mean: the training set's channel mean, in [0, 1].
        std: the training set's channel standard deviation, in [0, 1].
        levels: ``(N, H, W)`` uint8, ``(N, H, 3 W)`` where each channel of a pixel is ranked by
            itself, or None for unmasked images.
        masking: which pixels stay; None for unmasked images.
        mask_only: show the mask itself (1 kept, -1 removed) in place of the image.

    >>> view = InputView(np.full((1, 2, 2, 3), 255, np.uint8), (0.5,) * 3, (0.25,) * 3)
    >>> view(np.array([0]))[0, 0].tolist()
    [[2.0, 2.0], [2.0, 2.0]]
    """

    images: NDArray[Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    levels: NDArray[np.uint8] | None = None
    masking: Masking | None = None
    mask_only: bool = False

    def __post_init__(self) -> None:
        """A mask needs both its levels and what to do with them."""
        if (self.levels is None) != (self.masking is None):
            raise ValueError("levels and masking belong together: give both, or neither")
        if self.mask_only and self.masking is None:
            raise ValueError("mask_only shows a mask: give levels and masking")

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: NDArray[np.integer]) -> RawBatch:
        """``(B,)`` indices to pixels ``(B, H, W, 3)`` and, of masked images, their levels."""
        if self.masking is None or self.levels is None:
            return (torch.from_numpy(self.images[indices]),)
        levels = torch.from_numpy(self.levels[indices])
        if self.mask_only:
            return (levels,)
        if self.masking.fill != "mean":
            raise ValueError(f"the fill {self.masking.fill} is made once: call filled() first")
        return torch.from_numpy(self.images[indices]), levels

    def to_inputs(self, raw: RawBatch) -> Tensor:
        """What `read` gave to ``(B, 3, H, W)`` float32 in channels-last order, where it is."""
        kept = None
        if self.masking is not None:
            kept = self._kept(raw[-1], self.masking)
        if self.mask_only and kept is not None:
            shown = (2.0 * kept.float() - 1.0).expand(-1, -1, -1, 3)
            return shown.permute(0, 3, 1, 2)
        pixels = raw[0].float()
        normalisation = torch.tensor(self.mean), torch.tensor(self.std)
        mean, std = on_device(normalisation, pixels.device)
        pixels.sub_(255.0 * mean).div_(255.0 * std)
        if kept is not None:
            pixels.mul_(kept)
        return pixels.permute(0, 3, 1, 2)

    def kept(self, indices: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which pixels stay, ``(B, H, W, 1)``, or which elements, ``(B, H, W, 3)``.

        Raises:
            ValueError: nothing is masked.
        """
        if self.levels is None or self.masking is None:
            raise ValueError("nothing is masked: give levels and masking")
        return self._kept(self.levels[indices], self.masking)

    def filled(self, first_index: int, folder: Path | None = None) -> InputView:
        """The same view with removed pixels filled as its masking says, once for all epochs.

        Args:
            first_index: number of the first image, which seeds what is fixed for an image.
            folder: on whose disk the filled images lie while the view is in use, in a file without
                a name: it is gone with the view, however the process ends. None for the system's
                temporary folder.

        Returns:
            A view of images that hold their fill; this view itself where the fill is the mean,
            or where only masks are shown.

        Raises:
            OSError: the disk is full.
        """
        if not self._needs_fill():
            return self
        with tempfile.TemporaryFile(dir=folder) as file:
            for start in range(0, len(self), _FILLED_TOGETHER):
                indices = np.arange(start, min(start + _FILLED_TOGETHER, len(self)))
                file.write(self._filled_images(indices, first_index).data)
            file.flush()
            # The map keeps the file open for itself.
            images = np.memmap(file, np.float16, "r", shape=self.images.shape)
        return InputView(images, self.mean, self.std)

    def filled_as_read(self, first_index: int) -> View:
        """What `filled` gives, for one pass over the images: each is filled when it is asked for.

        Args:
            first_index: number of the first image, which seeds what is fixed for an image.
        """
        return _FilledAsRead(self, first_index) if self._needs_fill() else self

    def _needs_fill(self) -> bool:
        return self.masking is not None and self.masking.fill != "mean" and not self.mask_only

    def _filled_images(self, indices: NDArray[np.integer], first_index: int) -> NDArray[np.float16]:
        """``(B, H, W, 3)``, 0 to 255, with the fill in place of what is removed."""
        # Half precision holds every 8-bit value exactly; a fill is noisier than its rounding.
        return noisy_linear(self.images[indices], self.kept(indices), first_index + indices).astype(
            np.float16
        )

    def _kept(self, levels: LevelArray, masking: Masking) -> LevelArray:
        """``(B, H, W, 1)`` booleans, or a channel each."""
        return masking.kept(levels).reshape(len(levels), *self.images.shape[1:3], -1)


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
