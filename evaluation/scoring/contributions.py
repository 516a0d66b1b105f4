"""Contributions of test images to scores, for resampling over images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["area_contributions", "information_contributions"]

Correct = NDArray[np.bool_]


def area_contributions(
    *, kar: Correct | None = None, roar: Correct | None = None
) -> NDArray[np.float64]:
    """Each image's contribution to KAR, ROAR or SUM: its correct predictions, minus for ROAR.

    Args:
        kar: ``(P, S, N)``, correctness at P kept fractions, S seeds, N images; None to leave KAR
            out.
        roar: likewise at the removed fractions.

    Returns:
        ``(S, N)``, whose mean over N is the score of a seed.

    Raises:
        ValueError: neither `kar` nor `roar`.

    Reference:
        arXiv 1911.11293, Table 2.

    >>> area_contributions(kar=np.array([[[True, False]], [[True, True]]])).tolist()
    [[2.0, 1.0]]
    """
    if kar is None and roar is None:
        raise ValueError("no correctness given; expected kar, roar or both")
    # A difference of scores is the difference of contributions: Eq 8 needs no function of its own.
    up = 0.0 if kar is None else kar.sum(axis=0, dtype=np.float64)
    down = 0.0 if roar is None else roar.sum(axis=0, dtype=np.float64)
    parts: NDArray[np.float64] = np.asarray(up - down)
    return parts


def information_contributions(
    *, kar: Correct, roar: Correct, random_kar: Correct, random_roar: Correct
) -> NDArray[np.float64]:
    """Each image's contribution to the information score, to first order in the accuracies.

    ``I + sum_a dI/da (c_a - a)`` over all accuracies ``a`` of a seed, ``c_a`` being 1 if the image
    is classified correctly. Deviation from Eq 9: none for the score of a seed; resampling of images
    changes its linear part alone, since an accuracy of thousands of images changes little.

    Args:
        kar: ``(P, S, N)``, correctness at P fractions, S seeds, N images.
        roar: likewise.
        random_kar: the random control's, in the same order.
        random_roar: likewise.

    Returns:
        ``(S, N)``, whose mean over N is the score of a seed, in nats.

    Raises:
        ValueError: an accuracy of 0, at which the score or its slope is infinite.

    Reference:
        arXiv 1911.11293, Eq 9.

    >>> half, quarter = np.array([[[True, False] * 2]]), np.array([[[True] + [False] * 3]])
    >>> given = dict(kar=half, roar=quarter, random_kar=quarter, random_roar=half)
    >>> round(float(information_contributions(**given).mean()), 4)
    0.3466
    """
    kappa, rho, z_kar, z_roar = (a.mean(axis=2) for a in (kar, roar, random_kar, random_roar))
    if min(a.min() for a in (kappa, rho, z_kar, z_roar)) == 0:
        raise ValueError("an accuracy is 0: the information score has no slope there")
    score = (rho * np.log(z_roar / rho) + z_kar * np.log(kappa / z_kar)).sum(axis=0)
    slopes = (
        (kar, kappa, z_kar / kappa),
        (roar, rho, np.log(z_roar / rho) - 1),
        (random_kar, z_kar, np.log(kappa / z_kar) - 1),
        (random_roar, z_roar, rho / z_roar),
    )
    parts: NDArray[np.float64] = score[:, None] + sum(
        np.einsum("psn,ps->sn", right - accuracy[:, :, None], slope)
        for right, accuracy, slope in slopes
    )
    return parts
