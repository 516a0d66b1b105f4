"""In-domain single deletion: attribution of patches against the drops as each goes alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.masking.patches import patch_of_pixels
from evaluation.metrics.passes import Forward
from evaluation.metrics.randomisation import rank_correlation

__all__ = ["deletion_drops", "patch_sums", "single_deletion_score"]


def deletion_drops(
    network: Forward, inputs: Tensor, target: Tensor, grid: int
) -> NDArray[np.float64]:
    """Drop of the explained class's logit as each patch of each image goes alone.

    Args:
        network: in evaluation mode, or a function that runs it.
        inputs: ``(N, C, H, W)``, normalised: a patch goes to 0, the channel mean.
        target: ``(N,)``, the explained class.
        grid: rows, and columns, of patches.

    Returns:
        ``(N, grid * grid)``, row by row.

    Raises:
        ValueError: images smaller than the grid.

    >>> network = lambda x: x.flatten(1)[:, :2]
    >>> deletion_drops(network, torch.ones(1, 1, 2, 2), torch.tensor([1]), 2).tolist()
    [[0.0, 1.0, 0.0, 0.0]]
    """
    size = inputs.shape[2], inputs.shape[3]
    patches = torch.from_numpy(patch_of_pixels((size[0], size[1]), grid)).to(inputs.device)
    drops = np.empty((len(inputs), grid * grid))
    with torch.inference_mode():
        whole = _logits(network, inputs, target)
        for patch in range(grid * grid):
            drops[:, patch] = whole - _logits(network, inputs * (patches != patch), target)
    return drops


def patch_sums(maps: NDArray[np.floating], grid: int) -> NDArray[np.float64]:
    """Sum of each map in each patch.

    Args:
        maps: ``(N, H, W)``.
        grid: rows, and columns, of patches.

    Returns:
        ``(N, grid * grid)``, row by row.

    >>> patch_sums(np.array([[[1.0, 2.0], [3.0, 4.0]]]), 1).tolist()
    [[10.0]]
    """
    patches = patch_of_pixels((maps.shape[1], maps.shape[2]), grid).ravel()
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    sums: NDArray[np.float64] = np.stack(
        [flat[:, patches == patch].sum(1) for patch in range(grid * grid)], axis=1
    )
    return sums


def single_deletion_score(
    maps: NDArray[np.floating], drops: NDArray[np.float64]
) -> NDArray[np.float64]:
    r"""IDSDS of each map: rank correlation of its patches with what their deletion costs.

    $$\mathrm{IDSDS}(x) = \rho\bigl((\textstyle\sum_{i \in P_j} a_i)_j,\;
      (f(x) - f(x_{\setminus P_j}))_j\bigr)$$

    \(f\) is the explained class's logit of a network fine-tuned on images of which half lack one
    patch, so that a single deletion is among what it knows; \(a\) is the map of that network;
    \(P_j\) are the patches; \(\rho\) is Spearman's correlation. Signed maps keep their
    signs. Ties have their mean rank; a map that is the
    same in every patch tells nothing and scores 0 (the authors' script drops such images).
    Deviation from the paper: the class is the one that the network before fine-tuning predicts,
    not the true one, as for all measures here.

    Args:
        maps: ``(N, H, W)``.
        drops: ``(N, grid * grid)``, of `deletion_drops`.

    Returns:
        ``(N,)``, in [-1, 1]; the mean over images is the score.

    Reference:
        Hesse, Schaub-Meyer and Roth 2024 (arXiv 2407.11910), section 4.

    >>> maps = np.array([[[4.0, 3.0], [2.0, 1.0]]])
    >>> single_deletion_score(maps, np.array([[9.0, 5.0, 1.0, 0.0]])).tolist()
    [1.0]
    """
    grid = round(drops.shape[1] ** 0.5)
    sums = patch_sums(maps, grid)
    told = (np.ptp(sums, axis=1) > 0) & (np.ptp(drops, axis=1) > 0)
    # As maps with a row each; the correlation of two constants, 1 there, tells nothing here.
    score: NDArray[np.float64] = rank_correlation(sums[:, None], drops[:, None]) * told
    return score


def _logits(network: Forward, inputs: Tensor, target: Tensor) -> NDArray[np.float64]:
    output = network(inputs).float().gather(1, target[:, None])[:, 0]
    logits: NDArray[np.float64] = output.double().cpu().numpy()
    return logits
