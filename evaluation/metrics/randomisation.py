"""Randomisation tests of Adebayo et al.: do maps change with a network's learned weights?"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from skimage.metrics import structural_similarity
from torch import nn

from evaluation.metrics.complexity import scaled
from evaluation.seeding import generator

__all__ = [
    "WeightGroup",
    "permuted_labels",
    "randomised_from_output",
    "rank_correlation",
    "structural_similarities",
    "weight_groups",
]

# With fewer groups, the largest child is opened; with more, neighbours are joined.
_FEWEST, _MOST = 3, 6
# Side of the Gaussian window of SSIM at its standard deviation of 1.5 pixels.
_SSIM_WINDOW = 11


@dataclass(frozen=True)
class WeightGroup:
    """Weights of a network that are randomised together.

    Args:
        name: name of the first and of the last module.
        keys: keys of the parameters and buffers in the network's `state_dict`.
    """

    name: str
    keys: tuple[str, ...]


def weight_groups(network: nn.Module) -> tuple[WeightGroup, ...]:
    """The weights of a network in groups, from its input to its output.

    A group is a child that has weights, in the order in which the network registers them. If there
    are fewer than three, the largest is replaced by its own children; if there are more than six,
    neighbours are joined, except the last. Every weight and buffer is in exactly one group; those
    that no child owns are in the first.

    Args:
        network: any module with weights.

    Returns:
        At least one group.

    Raises:
        ValueError: the network has no weights.

    >>> from collections import OrderedDict
    >>> parts = OrderedDict(body=nn.Conv2d(3, 4, 3), act=nn.ReLU(), head=nn.Linear(4, 2))
    >>> [group.name for group in weight_groups(nn.Sequential(parts))]
    ['body', 'head']
    """
    keys = list(network.state_dict())
    if not keys:
        raise ValueError(
            f"{type(network).__name__} has no weights: there is nothing to randomise; leave out "
            "the measure weights"
        )
    parts = _children(network, "")
    while len(parts) < _FEWEST:
        opened = [(len(module.state_dict()), name, module) for name, module in parts.items()]
        opened = [entry for entry in opened if _children(entry[2], entry[1])]
        if not opened:
            break
        _, largest, module = max(opened, key=lambda entry: entry[0])
        parts = {
            inner: found
            for name, outer in parts.items()
            for inner, found in (
                _children(module, largest) if name == largest else {name: outer}
            ).items()
        }
    names = list(parts) or [""]
    groups = [[name] for name in names]
    if len(names) > _MOST:
        joined = np.array_split(np.arange(len(names) - 1), _MOST - 1)
        groups = [[names[place] for place in group] for group in joined] + [names[-1:]]
    owner = {name: number for number, group in enumerate(groups) for name in group}
    owned: list[list[str]] = [[] for _ in groups]
    for key in keys:
        holders = [name for name in names if key.startswith(f"{name}.")]
        owned[owner[holders[0]] if holders else 0].append(key)
    return tuple(
        WeightGroup(_span(group) or type(network).__name__, tuple(own))
        for group, own in zip(groups, owned, strict=True)
    )


def randomised_from_output(
    network: nn.Module, untrained: nn.Module
) -> Iterator[tuple[str, nn.Module]]:
    """Put initial weights in place of learned ones, from the output towards the input.

    Cascading: randomised groups stay so. Weights and buffers are those of `untrained`, so that each
    layer is initialised by the network's own code. Deviations from the paper: by groups, not by
    layers; in the order of registration, which is that of the forward pass in most networks.

    Args:
        network: the trained network; left bit for bit as it is.
        untrained: the same network as it was before any training.

    Yields:
        The name of the group that was randomised last, and a copy of the network; the same copy
        each time, with one more group randomised.

    Raises:
        ValueError: `untrained` is another network.

    Reference:
        Adebayo et al. 2018, "Sanity Checks for Saliency Maps", section 3.1.

    >>> first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> [(name, torch.equal(drawn.weight, second.weight))
    ...  for name, drawn in randomised_from_output(first, second)]
    [('Linear', True)]
    """
    drawn = untrained.state_dict()
    own = network.state_dict()
    if {key: value.shape for key, value in own.items()} != {
        key: value.shape for key, value in drawn.items()
    }:
        raise ValueError(
            "the untrained network has other weights than the trained one: expected the same "
            "architecture"
        )
    randomised = copy.deepcopy(network)
    state = randomised.state_dict()
    for group in reversed(weight_groups(network)):
        with torch.no_grad():
            for key in group.keys:
                state[key].copy_(drawn[key])
        yield group.name, randomised


def permuted_labels(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The labels in random order, so that a network can learn no concept from them.

    Args:
        labels: ``(N,)``.
        seed: seed of the permutation.

    Returns:
        ``(N,)``, as many of each class.

    Reference:
        Adebayo et al. 2018, section 3.2 (data randomisation test).

    >>> sorted(permuted_labels(np.array([0, 1, 1, 2]), 0).tolist())
    [0, 1, 1, 2]
    """
    return generator(seed, len(labels)).permutation(np.asarray(labels))


def rank_correlation(
    first: NDArray[np.floating], second: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Spearman's rank correlation of two maps of each image.

    1 means that the change to the network did not change the order of the pixels at all, 0 that no
    correlation is left. A map that does not depend on the changed weights keeps a high value,
    whatever its worth: one of the image alone (an edge filter, a fixed disk) stays at 1, and one of
    activations without class weights does not change when the classifier is randomised. A high
    value means that the map cannot explain what those weights learned; it does not mean that the
    map is wrong about the network's activations. Deviation from the paper: none; signs are as the
    method gives them. Ties have their mean rank. A constant map has no order: 1 if both are
    constant, 0 if one is.

    Args:
        first: ``(N, H, W)``, before.
        second: ``(N, H, W)``, after.

    Returns:
        ``(N,)``, in [-1, 1].

    Reference:
        Adebayo et al. 2018, section 3.3.

    >>> before = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> rank_correlation(before, np.exp(before)), rank_correlation(before, -before)
    (array([1.]), array([-1.]))
    """
    centred = []
    for maps in (first, second):
        ranks = rankdata(maps.reshape(len(maps), -1), axis=1)
        centred.append(ranks - ranks.mean(1, keepdims=True))
    before, after = centred
    spread = np.sqrt((before**2).sum(1) * (after**2).sum(1))
    constant = (before == 0).all(1) & (after == 0).all(1)
    together = (before * after).sum(1)
    correlation: NDArray[np.float64] = np.divide(
        together, spread, out=constant.astype(np.float64), where=spread > 0
    )
    return correlation


def structural_similarities(
    first: NDArray[np.floating], second: NDArray[np.floating]
) -> NDArray[np.float64]:
    """SSIM of two maps of each image, each scaled to [0, 1] by its least and largest value.

    Unlike ranks, it depends on the strength and the shape of the salient region. For the meaning of
    a high value see `rank_correlation`. Computed by scikit-image with the constants
    and the Gaussian window of the paper; a constant map is 0 everywhere.

    Args:
        first: ``(N, H, W)``, before; at least 11x11.
        second: ``(N, H, W)``, after.

    Returns:
        ``(N,)``, at most 1, which is equality.

    Raises:
        ValueError: maps smaller than the window.

    Reference:
        Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural
        Similarity", section III; Adebayo et al. 2018, section 3.3.

    >>> maps = np.random.default_rng(0).random((1, 16, 16))
    >>> structural_similarities(maps, 3 * maps + 1).round(6).tolist()
    [1.0]
    """
    if min(first.shape[1:]) < _SSIM_WINDOW:
        raise ValueError(
            f"maps of {'x'.join(map(str, first.shape[1:]))}: SSIM needs at least "
            f"{'x'.join([str(_SSIM_WINDOW)] * (first.ndim - 1))}; leave out the measures weights "
            "and labels"
        )
    return np.array(
        [
            structural_similarity(  # type: ignore[no-untyped-call]
                before, after, data_range=1.0, gaussian_weights=True, use_sample_covariance=False
            )
            for before, after in zip(scaled(first), scaled(second), strict=True)
        ]
    )


def _children(module: nn.Module, prefix: str) -> dict[str, nn.Module]:
    """Children with weights or buffers by their name in the whole network."""
    return {
        f"{prefix}.{name}" if prefix else name: child
        for name, child in module.named_children()
        if child.state_dict()
    }


def _span(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
