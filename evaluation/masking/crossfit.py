"""Training images in folds, so that no image is judged by a network that was trained on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evaluation.masking.views import RawBatch, View
from evaluation.seeding import generator

__all__ = ["SubsetView", "fold_of"]


def fold_of(images: int, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each image, drawn anew for each seed; folds differ by one image at most.

    Args:
        images: how many images.
        folds: how many folds.
        seed: what decides.

    Returns:
        ``(images,)``, each from 0 to folds - 1.

    Raises:
        ValueError: fewer than two folds, or fewer images than folds.

    >>> sorted(fold_of(5, 2, 0).tolist())
    [0, 0, 0, 1, 1]
    """
    if not 2 <= folds <= images:
        raise ValueError(
            f"{folds} folds of {images} images: expected 2 or more, none of them empty"
        )
    return generator(seed, folds).permutation(np.arange(images) % folds)


@dataclass(frozen=True)
class SubsetView(View):
    """Some images of a view, as a view of their own.

    Args:
        view: the images.
        chosen: ``(M,)``, which of them.
    """

    view: View
    chosen: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, indices: NDArray[np.integer]) -> RawBatch:
        """``(B,)`` indices into the chosen images to what the view keeps of them."""
        return self.view.read(self.chosen[indices])

    def to_inputs(self, raw: RawBatch) -> Tensor:
        """What `read` gave to what the network takes."""
        return self.view.to_inputs(raw)
