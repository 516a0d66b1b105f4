"""F-Fidelity: drops of a fine-tuned network as a bounded share of pixels goes at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.masking.levels import pixels_at
from evaluation.metrics.passes import Forward
from evaluation.metrics.perturbation import PerturbFunction
from evaluation.seeding import generator

__all__ = ["Drops", "FidelityOptions", "bounded_removals", "fidelity"]

# Told apart from other draws for the same image.
_STREAM = 2410


@dataclass(frozen=True)
class FidelityOptions:
    r"""The shares of F-Fidelity.

    Args:
        sizes: shares of the pixels, \(s\), that are taken as the explanation in turn.
        alpha: share of the explanation, or of the rest, that is removed at most.
        beta: share of all pixels that is removed at most.
        draws: random removals for each size, whose drops are averaged.

    Raises:
        ValueError: a share outside (0, 1), or no draw.

    >>> FidelityOptions().draws
    5
    """

    sizes: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    alpha: float = 0.5
    beta: float = 0.1
    draws: int = 5

    def __post_init__(self) -> None:
        """Refuse shares that remove nothing, and no draw at all."""
        for share in (*self.sizes, self.alpha, self.beta):
            if not 0 < share < 1:
                raise ValueError(f"share {share:g} of F-Fidelity: expected more than 0, below 1")
        if not self.sizes or self.draws < 1:
            raise ValueError("F-Fidelity without a size or a draw: expected at least one of each")

    @property
    def passes(self) -> int:
        """Forward passes of an image: whole, and with both parts removed from."""
        return 1 + 2 * len(self.sizes) * self.draws


@dataclass(frozen=True)
class Drops:
    """Mean drops of each image, ``(N,)`` each.

    Args:
        probability: of the explained class's probability.
        accuracy: of being right, 1 to 0; None without true classes.
    """

    probability: NDArray[np.float64]
    accuracy: NDArray[np.float64] | None


def bounded_removals(
    ranked: NDArray[np.int64],
    indices: NDArray[np.integer],
    options: FidelityOptions,
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Random removals from the most salient pixels, and from the others, one draw after another.

    Draws depend on the image and the number of the draw alone, and choose ranks: all methods lose
    the same ranks of an image.

    Args:
        ranked: ``(N, P)``, the pixels of each image, the most salient first.
        indices: ``(N,)``, index of each image in its split.
        options: the shares.

    Yields:
        Kept pixels ``(N, P)``: some of the explanation removed, and some of the rest.

    >>> ranked = np.array([[3, 2, 1, 0]])
    >>> options = FidelityOptions(sizes=(0.5,), alpha=0.5, beta=0.5, draws=1)
    >>> (salient, rest), = bounded_removals(ranked, np.array([0]), options)
    >>> (~salient[0, 2:]).sum(), (~salient[0, :2]).sum(), (~rest[0, :2]).sum()
    (np.int64(1), np.int64(0), np.int64(1))
    """
    pixels = ranked.shape[1]
    for draw in range(options.draws):
        # (N, P) keys, one a rank; the least keys of a part are its random choice.
        keys = np.stack([generator(_STREAM, draw, int(i)).random(pixels) for i in indices])
        for size in options.sizes:
            cut = pixels_at(size, pixels)
            yield (
                _without(ranked[:, :cut], keys[:, :cut], _bounded(size, pixels, options), pixels),
                _without(
                    ranked[:, cut:], keys[:, cut:], _bounded(1 - size, pixels, options), pixels
                ),
            )


def fidelity(
    network: Forward,
    perturb: PerturbFunction,
    target: Tensor,
    labels: NDArray[np.int64] | None,
    ranked: NDArray[np.int64],
    size: Sequence[int],
    indices: NDArray[np.integer],
    options: FidelityOptions,
) -> tuple[Drops, Drops]:
    r"""F-Fidelity of maps: the two drops of a network that knows randomly removed pixels.

    $$\mathrm{FFid}^+ = \frac1{|S|} \sum_{s \in S} \mathbb{E}_{\chi^+_s}\,
      \bigl[f^r(x) - f^r(\chi^+_s(x))\bigr], \qquad
      \mathrm{FFid}^- = \frac1{|S|} \sum_{s \in S} \mathbb{E}_{\chi^-_s}\,
      \bigl[f^r(x) - f^r(\chi^-_s(x))\bigr]$$

    \(f^r\) is the network, fine-tuned on images with up to a share \(\beta\) of random pixels
    removed, once for all methods. \(\chi^+_s\) removes a random
    \(\min(\alpha s, \beta)\) of all pixels from the share \(s\) that is most salient, \(\chi^-_s\)
    a random \(\min(\alpha (1 - s), \beta)\) from the rest: never more than the network knows. A
    faithful map has a high FFid+ and an FFid- near 0. The sum over sizes is the paper's average
    over sparsities.

    \(f^r\) is the probability of the explained class, and, as in the paper, 1 where the true class
    is predicted and 0 elsewhere: its mean drop is that of the accuracy. Without \(\beta\) and
    fine-tuning the two are RFid+ and RFid- (Zheng et al. 2023), with \(\alpha = 1\) besides the
    Fid+ and Fid- of graph explanations. Deviations from the paper: pixels go one by one, with all
    their channels, to the channel mean; five sizes and five draws by default; and the number of
    pixels that fine-tuning removes is drawn between none and \(\beta\).

    Args:
        network: \(f^r\), in evaluation mode, or a function that runs it.
        perturb: from a mask of kept pixels ``(N, H, W)`` to the network's inputs.
        target: ``(N,)``, the explained class.
        labels: ``(N,)``, the true class; None to leave the accuracy out.
        ranked: ``(N, H * W)``, the pixels of each image, the most salient first.
        size: ``H`` and ``W``; of volumes three sides, of signals one.
        indices: ``(N,)``, index of each image in its split, which seeds its draws.
        options: the shares \(s\), \(\alpha\) and \(\beta\).

    Returns:
        FFid+ and FFid- of each image.

    Reference:
        Zheng et al. 2024, F-Fidelity (arXiv 2410.02970); Zheng et al. 2023 (arXiv
        2310.01820), RFid.

    >>> reads_first = lambda x: torch.stack([x[:, 0, 0, 0], -x[:, 0, 0, 0]], 1)
    >>> perturb = lambda kept: torch.from_numpy(kept)[:, None].float()
    >>> plus, minus = fidelity(reads_first, perturb, torch.tensor([0]), np.array([0]),
    ...     np.array([[0, 1, 2, 3]]), (2, 2), np.array([0]),
    ...     FidelityOptions(sizes=(0.5,), alpha=0.9, beta=0.5, draws=1))
    >>> plus.probability.round(3).tolist(), minus.probability.tolist()
    ([0.381], [0.0])
    """
    count = len(ranked)
    whole_p, whole_right = _answers(network, perturb, np.ones((count, *size), bool), target, labels)
    # FFid+ and FFid-, of the probability and of the accuracy.
    sums = np.zeros((2, 2, count))
    removals = 0
    for parts in bounded_removals(ranked, indices, options):
        removals += 1
        for part, kept in enumerate(parts):
            shown = kept.reshape(count, *size)
            probability, right = _answers(network, perturb, shown, target, labels)
            sums[part, 0] += whole_p - probability
            sums[part, 1] += whole_right - right
    plus, minus = (
        Drops(of_part[0] / removals, None if labels is None else of_part[1] / removals)
        for of_part in sums
    )
    return plus, minus


def _bounded(share: float, pixels: int, options: FidelityOptions) -> int:
    return pixels_at(min(options.alpha * share, options.beta), pixels)


def _without(
    pixels: NDArray[np.int64], keys: NDArray[np.float64], removed: int, of: int
) -> NDArray[np.bool_]:
    """All pixels but some random ones of a part, ``(N, of)``."""
    kept = np.ones((len(pixels), of), dtype=bool)
    chosen = np.argpartition(keys, removed - 1, axis=1)[:, :removed] if removed else None
    if chosen is not None:
        np.put_along_axis(kept, np.take_along_axis(pixels, chosen, axis=1), False, axis=1)
    return kept


def _answers(
    network: Callable[[Tensor], Tensor],
    perturb: PerturbFunction,
    kept: NDArray[np.bool_],
    target: Tensor,
    labels: NDArray[np.int64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    with torch.inference_mode():
        output = network(perturb(kept)).float().softmax(1)
        probability = output.gather(1, target[:, None])[:, 0].double().cpu().numpy()
        predicted = output.argmax(1).cpu().numpy()
    right = np.zeros(len(kept)) if labels is None else (predicted == labels).astype(np.float64)
    return probability, right
