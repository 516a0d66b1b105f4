"""Localisation: agreement of a map with the true object's pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from evaluation.masking.levels import tie_orders

__all__ = ["mass_in_object", "object_ranking", "peaks", "pointing_game"]


def peaks(
    saliency: NDArray[np.floating], indices: NDArray[np.integer], *, seed: int = 0
) -> NDArray[np.int64]:
    """The most salient pixel of each map; one of them at random if there are ties.

    The order of ties is that of the masks, so that a constant map points anywhere, not at the
    top left.

    Args:
        saliency: ``(N, H, W)``, finite.
        indices: ``(N,)``, index of each map's image in its split.
        seed: seed of the order of ties.

    Returns:
        ``(N,)`` flat indices, row by row.

    >>> peaks(np.array([[[0.1, 0.9], [0.5, 0.2]]]), np.array([0])).tolist()
    [1]
    """
    flat = saliency.reshape(len(saliency), -1)
    orders = tie_orders(flat.shape[1], indices, seed)
    places = np.take_along_axis(flat, orders, axis=1).argmax(1)
    found: NDArray[np.int64] = np.take_along_axis(orders, places[:, None], axis=1)[:, 0]
    return found


def pointing_game(peaks: NDArray[np.integer], objects: NDArray[np.bool_]) -> float:
    """Share of images whose most salient pixel lies in the object.

    Args:
        peaks: ``(N,)``, flat index of the most salient pixel, row by row.
        objects: ``(N, H, W)``, true where the object is.

    Returns:
        The share, in [0, 1]; a random map's is the object's share of the image.

    Reference:
        Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop", section 4.1;
        deviation: no tolerance around the object, whose pixels are known exactly.

    >>> pointing_game(np.array([0, 3]), np.array([[[True, False]] * 2] * 2))
    0.5
    """
    flat = np.asarray(objects).reshape(len(objects), -1)
    return float(flat[np.arange(len(flat)), peaks].mean())


def mass_in_object(
    saliency: NDArray[np.floating], objects: NDArray[np.bool_]
) -> NDArray[np.float64]:
    r"""Share of each map's mass that lies in the object.

    $$m = \frac{\sum_{i \in O} (s_i - \min s)}{\sum_i (s_i - \min s)}$$

    Deviation from the paper: the map's least value is taken off first, since a map may be negative
    or start anywhere. A constant map has its mass everywhere: the object's share of the image.
    Unlike a ranking, the number changes with a monotonic transform of the map.

    Args:
        saliency: `(N, H, W)`, `s`, finite.
        objects: `(N, H, W)`, `O`, true where the object is.

    Returns:
        `(N,)` shares, in [0, 1].

    Reference:
        Wang et al. 2020, Score-CAM, section 4.3 (energy-based pointing game).

    >>> mass_in_object(np.array([[[3.0, 0.0], [1.0, 0.0]]]), np.array([[[True, False]] * 2]))
    array([1.])
    >>> mass_in_object(np.ones((1, 2, 2)), np.array([[[True, False], [False, False]]])).tolist()
    [0.25]
    """
    flat = saliency.reshape(len(saliency), -1).astype(np.float64)
    mass = flat - flat.min(1, keepdims=True)
    total = mass.sum(1, keepdims=True)
    mass = np.where(total > 0, mass, 1.0)
    inside = np.asarray(objects).reshape(len(objects), -1)
    share: NDArray[np.float64] = (mass * inside).sum(1) / mass.sum(1)
    return share


def object_ranking(
    saliency: NDArray[np.floating], objects: NDArray[np.bool_]
) -> NDArray[np.float64]:
    r"""Probability that a pixel of the object outranks one beside it: the area under the ROC curve.

    $$a = \frac{1}{|O| (P - |O|)} \Big(\sum_{i \in O} r_i - \frac{|O| (|O| + 1)}{2}\Big)$$

    with `r` the ranks of the `P` pixels, the least salient first; ties have their mean rank. It
    does not change with a monotonic transform of the map, and is 1/2 for a constant one.

    Args:
        saliency: `(N, H, W)`, finite.
        objects: `(N, H, W)`, `O`, true where the object is; some pixels and not all.

    Returns:
        `(N,)`, in [0, 1].

    Raises:
        ValueError: an image without pixels of the object, or of nothing else.

    Reference:
        Hanley & McNeil 1982, "The meaning and use of the area under a receiver operating
        characteristic (ROC) curve".

    >>> saliency, objects = np.array([[[3.0, 0.0], [1.0, 2.0]]]), np.array([[[True, False]] * 2])
    >>> object_ranking(saliency, objects).tolist()
    [0.75]
    """
    ranks = rankdata(saliency.reshape(len(saliency), -1), axis=1)
    inside = np.asarray(objects).reshape(len(objects), -1)
    own = inside.sum(1)
    beside = inside.shape[1] - own
    if not (own.all() and beside.all()):
        raise ValueError(
            f"objects of {own.tolist()} pixels of {inside.shape[1]}: expected at least one pixel "
            "of each object, and one beside it"
        )
    above: NDArray[np.float64] = (ranks * inside).sum(1) - own * (own + 1) / 2
    shares: NDArray[np.float64] = above / (own * beside)
    return shares
