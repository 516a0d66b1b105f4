"""Noisy linear imputation of removed pixels (ROAD)."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solveh_banded
from scipy.sparse import coo_array, csr_array

from evaluation.masking.diffusion import SIDE, diffused
from evaluation.seeding import generator

__all__ = ["NOISE", "noisy_linear"]

# Weight of a neighbour across a corner.
_CORNER = SIDE / 2
# Pixels above which an image is filled by an iteration: from about 128x128 on it is faster.
_EXACT = 2**14
# Standard deviation of the noise, as a share of the range of an 8-bit image.
NOISE = 0.01
_RANGE = 255.0

Floats = NDArray[np.float64]


def noisy_linear(
    images: NDArray[np.uint8],
    kept: NDArray[np.bool_],
    indices: NDArray[np.integer],
    *,
    noise: float = NOISE,
    seed: int = 0,
) -> NDArray[np.float32]:
    r"""Fill removed pixels so that each is a weighted mean of its neighbours, plus noise.

    $$x_i = \frac{\sum_{j \in N(i)} w_{ij} x_j}{\sum_{j \in N(i)} w_{ij}} + \epsilon_i, \qquad
      w_{ij} = \tfrac16 \text{ across a side, } \tfrac1{12} \text{ across a corner}$$

    `N(i)` are the up to eight neighbours of a removed pixel `i`, removed ones included: one linear
    system an image, whose solution the noise is added to. Row by row its matrix is symmetric,
    positive definite and no wider than an image, so that a banded Cholesky factorisation solves it
    exactly; images of more than 2^14 pixels, for which that is slow, are filled by conjugate
    gradients to within 1 of 255. Deviation from the paper: the noise of a pixel is fixed for an
    image, whatever was removed. The noise's scale is that of the paper's released code.

    Args:
        images: `(N, H, W, C)`, 0 to 255; signals `(N, T, C)`, whose neighbours are two.
        kept: `(N, H, W)` or `(N, H, W, 1)`, true where a pixel stays; `(N, H, W, C)` where each
            channel has a mask of its own.
        indices: `(N,)`, index of each image in its set; seeds its noise.
        noise: standard deviation of the noise, as a share of 255.
        seed: seed of the noise.

    Returns:
        `(N, H, W, C)`; kept pixels are unchanged, filled ones are not clipped to 0 .. 255.

    Raises:
        ValueError: an image, or a channel of it, without a kept pixel; volumes, whose band is a
            slice wide.

    Reference:
        Rong et al. 2022, "A Consistent and Efficient Evaluation Strategy for Attribution Methods",
        section 5.

    >>> image = np.array([[[10], [0], [30]]], np.uint8)[None]
    >>> noisy_linear(image, image[..., 0] > 0, np.array([0]), noise=0)[0, 0, :, 0].round(3).tolist()
    [10.0, 20.0, 30.0]
    """
    if images.ndim == 3:
        filled_rows = noisy_linear(images[:, None], kept, indices, noise=noise, seed=seed)
        return filled_rows[:, 0]
    if images.ndim != 4:
        raise ValueError(
            f"images of shape {images.shape}: the fill noisy-linear solves a system of one image's "
            "rows, and is for images (N, H, W, C) and signals (N, T, C); take the fill mean"
        )
    n, height, width, channels = images.shape
    masks = kept.reshape(n, height * width, -1)
    filled = np.empty(images.shape, np.float32)
    for row, index in enumerate(indices.tolist()):
        pixels = images[row].reshape(-1, channels).astype(np.float64)
        if not masks[row].any(0).all():
            raise ValueError(
                f"nothing of image {index} is kept: the fill noisy-linear needs at least one pixel "
                "of it; use smaller fractions to remove, larger ones to keep, or the fill mean"
            )
        if masks.shape[2] == 1:
            solved = _solved(pixels, masks[row, :, 0], height, width)
        else:
            solved = np.concatenate(
                [
                    _solved(pixels[:, [channel]], masks[row, :, channel], height, width)
                    for channel in range(channels)
                ],
                axis=1,
            )
        grain = noise * _RANGE * generator(seed, index).standard_normal(pixels.shape)
        filled[row] = np.where(masks[row], pixels, solved + grain).reshape(height, width, channels)
    return filled


def _solved(pixels: Floats, kept: NDArray[np.bool_], height: int, width: int) -> Floats:
    """Pixels ``(H * W, C)`` with the removed ones filled, without noise."""
    removed = ~kept
    count = int(removed.sum())
    if not count:
        return pixels
    if len(kept) > _EXACT:
        planes = np.float32(pixels.T.reshape(-1, height, width))
        solved = diffused(planes, removed.reshape(height, width))
        whole: Floats = solved.reshape(len(planes), -1).T.astype(np.float64)
        return whole
    first, second, weight, adjacency, total = _grid(height, width)
    number = np.cumsum(removed) - 1
    between = removed[first] & removed[second]
    low, high = number[first[between]], number[second[between]]
    # Row d of the band holds the d-th subdiagonal.
    band = np.zeros((int((high - low).max(initial=0)) + 1, count))
    band[0] = total[removed]
    band[high - low, low] = -weight[between]
    known = (adjacency @ (pixels * kept[:, None]))[removed]
    filled: Floats = np.array(pixels)
    filled[removed] = solveh_banded(
        band, known, lower=True, overwrite_ab=True, overwrite_b=True, check_finite=False
    )
    return filled


@cache
def _grid(
    height: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, csr_array, Floats]:
    """Pairs of neighbouring pixels with their weights, each pair once, the earlier pixel first.

    Returns:
        First and second pixel and weight of each pair; the weights as a symmetric matrix; and the
        sum of each pixel's weights.
    """
    place = np.arange(height * width).reshape(height, width)
    pairs = (
        (place[:, :-1], place[:, 1:], SIDE),
        (place[:-1], place[1:], SIDE),
        (place[:-1, :-1], place[1:, 1:], _CORNER),
        (place[:-1, 1:], place[1:, :-1], _CORNER),
    )
    first = np.concatenate([before.ravel() for before, _, _ in pairs])
    second = np.concatenate([after.ravel() for _, after, _ in pairs])
    weight = np.concatenate([np.full(before.size, value) for before, _, value in pairs])
    half = coo_array((weight, (first, second)), shape=(place.size, place.size))
    adjacency = csr_array(half + half.T)
    return first, second, weight, adjacency, np.asarray(adjacency.sum(1)).ravel()
