"""Cross-fitting: folds of the training images, and views of a subset of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evaluation.masking.views import RawBatch, View
from evaluation.seeding import generator

__all__ = ["SubsetView", "fold_of"]


def fold_of(images: int, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each image, drawn from a seed; sizes of folds differ by one image at most.

    Args:
        images: number of images.
        folds: number of folds.
        seed: seed of the draw.

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
        chosen: ``(M,)``, indices of the subset.
    """

    view: View
    chosen: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, indices: NDArray[np.integer]) -> RawBatch:
        """The raw batch of ``(B,)`` indices into the subset."""
        return self.view.read(self.chosen[indices])

    def to_inputs(self, raw: RawBatch) -> Tensor:
        """The network's inputs from a raw batch."""
        return self.view.to_inputs(raw)
