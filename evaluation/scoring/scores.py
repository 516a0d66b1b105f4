"""The paper's scores from accuracies over fractions, layers and seeds, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

__all__ = [
    "combined_score",
    "difference_score",
    "information_score",
    "kar_score",
    "rescaled_accuracy",
    "roar_score",
    "t_interval",
]


def kar_score(accuracies: Iterable[float]) -> float:
    """KAR score: the sum of the accuracies over the kept fractions; higher is better.

    Args:
        accuracies: one accuracy a fraction, in [0, 1].

    Returns:
        The sum.

    Raises:
        ValueError: no accuracy, or one beyond [0, 1] (a percentage, for example).

    Reference:
        arXiv 1911.11293, Table 2 and Table 5.

    >>> round(kar_score([0.6763, 0.7145, 0.7202, 0.7285, 0.7346]), 2)
    3.57
    """
    return float(_accuracies(accuracies, "kar").sum())


def roar_score(accuracies: Iterable[float]) -> float:
    """ROAR score: minus the sum of the accuracies over the removed fractions; higher is better.

    Args:
        accuracies: one accuracy a fraction, in [0, 1].

    Returns:
        Minus the sum.

    Raises:
        ValueError: no accuracy, or one beyond [0, 1].

    Reference:
        arXiv 1911.11293, Table 2 and Table 5.

    >>> round(roar_score([0.7294, 0.7222, 0.7097, 0.7072, 0.6675]), 2)
    -3.54
    """
    return -float(_accuracies(accuracies, "roar").sum())


def combined_score(*, kar: Iterable[float], roar: Iterable[float]) -> float:
    """SUM of Table 2: KAR score plus ROAR score.

    Args:
        kar: KAR accuracies over fractions, in [0, 1].
        roar: ROAR accuracies over the same fractions, in [0, 1].

    Returns:
        The sum; 0 for the random control, which is its own dual.

    Raises:
        ValueError: as `kar_score`.

    Reference:
        arXiv 1911.11293, Table 2.

    >>> combined_score(kar=[0.75, 0.5], roar=[0.5, 0.25])
    0.5
    """
    return kar_score(kar) + roar_score(roar)


def difference_score(
    *,
    kar: Sequence[float],
    roar: Sequence[float],
    random_kar: Sequence[float],
    random_roar: Sequence[float],
) -> float:
    """Difference score ``D = sum_p (z_p - rho_p) + sum_q (kappa_q - z_q)``.

    ``rho`` is the ROAR accuracy, ``kappa`` the KAR accuracy, ``z`` that of the random control at
    the same fraction or layer.

    Args:
        kar: ``kappa``, one accuracy a fraction or layer, in [0, 1].
        roar: ``rho``, likewise.
        random_kar: the random control's, in the order of `kar`.
        random_roar: the random control's, in the order of `roar`.

    Returns:
        The score; 0 for the random control itself, higher is better.

    Raises:
        ValueError: different lengths, no accuracy, or one beyond [0, 1].

    Reference:
        arXiv 1911.11293, Eq 8.

    >>> round(difference_score(kar=[0.6], roar=[0.4], random_kar=[0.5], random_roar=[0.7]), 3)
    0.4
    """
    kappa, z_kar = _pair(kar, random_kar, "kar")
    rho, z_roar = _pair(roar, random_roar, "roar")
    return float((z_roar - rho).sum() + (kappa - z_kar).sum())


def information_score(
    *,
    kar: Sequence[float],
    roar: Sequence[float],
    random_kar: Sequence[float],
    random_roar: Sequence[float],
    log_base: float | None = None,
) -> float:
    """Information score ``I = sum_p rho_p log(z_p / rho_p) + sum_q z_q log(kappa_q / z_q)``.

    Symbols as in `difference_score`. Deviation from the paper: the logarithm is natural unless
    `log_base` is given. Eq 9 prints log2, but only the natural one gives the paper's Table 1.

    Args:
        kar: ``kappa``, one accuracy a fraction or layer, in [0, 1].
        roar: ``rho``, likewise.
        random_kar: the random control's, in the order of `kar`.
        random_roar: the random control's, in the order of `roar`.
        log_base: base of the logarithm; None for e.

    Returns:
        The score, in nats for the default base; 0 for the random control itself.

    Raises:
        ValueError: different lengths, no accuracy, one beyond [0, 1], an accuracy of 0 that makes
            the score infinite, or a base that has no logarithm.

    Reference:
        arXiv 1911.11293, Eq 9.

    >>> scores = dict(kar=[0.5], roar=[0.25], random_kar=[0.25], random_roar=[0.5])
    >>> round(information_score(**scores), 4), information_score(**scores, log_base=2)
    (0.3466, 0.5)
    """
    kappa, z_kar = _pair(kar, random_kar, "kar")
    rho, z_roar = _pair(roar, random_roar, "roar")
    if log_base is not None and not (log_base > 0 and log_base != 1):
        raise ValueError(f"log_base is {log_base}; expected a positive number other than 1")
    # rel_entr(x, y) is x log(x / y), with its limit 0 at x = 0.
    score = -float(special.rel_entr(rho, z_roar).sum() + special.rel_entr(z_kar, kappa).sum())
    if math.isinf(score):
        raise ValueError(
            "information_score is infinite: an accuracy in kar or random_roar is 0, and its "
            "counterpart is not; use difference_score"
        )
    return score if log_base is None else score / math.log(log_base)


def rescaled_accuracy(accuracy: float, unmasked: float, chance: float) -> float:
    """Accuracy on a scale from chance to unmasked: ``(acc - chance) / (acc_0 - chance)``.

    Args:
        accuracy: after masking and retraining, in [0, 1].
        unmasked: ``acc_0``, retrained on unmasked images, in [0, 1].
        chance: 1 / number of classes.

    Returns:
        1 if masking cost no accuracy, 0 at chance; beyond [0, 1] if the accuracies are.

    Raises:
        ValueError: `unmasked` is not above `chance`, so that there is no scale.

    >>> rescaled_accuracy(0.5, unmasked=0.75, chance=0.25)
    0.5
    """
    if not unmasked > chance:
        raise ValueError(
            f"the unmasked accuracy {unmasked} is not above chance, {chance}: train longer"
        )
    return (accuracy - chance) / (unmasked - chance)


def t_interval(values: Iterable[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's t-interval for the mean over seeds.

    Args:
        values: one value a seed.
        confidence: in (0, 1).

    Returns:
        The two ends of the interval, or None for a single seed, whose spread is unknown.

    Raises:
        ValueError: no value, one that is not finite, or a confidence beyond (0, 1).

    >>> [round(end, 3) for end in t_interval([0.5, 0.52, 0.54])]
    [0.47, 0.57]
    """
    sample = np.asarray(list(values), dtype=np.float64)
    if sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"t_interval of {sample.tolist()}; expected one finite value a seed")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a share in (0, 1)")
    if sample.size == 1:
        return None
    # Not stats.t.interval, which is NaN without any spread.
    half = stats.t.ppf((1 + confidence) / 2, sample.size - 1) * stats.sem(sample)
    return float(sample.mean() - half), float(sample.mean() + half)


def _accuracies(accuracies: Iterable[float], name: str) -> NDArray[np.float64]:
    values = np.asarray(list(accuracies), dtype=np.float64)
    if values.size == 0:
        raise ValueError(f"{name} holds no accuracy; expected one a fraction")
    wrong = values[~((values >= 0) & (values <= 1))]
    if wrong.size:
        raise ValueError(f"{name} holds {wrong[0]:g}; expected accuracies in [0, 1]")
    return values


def _pair(
    measured: Sequence[float], random: Sequence[float], name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = _accuracies(measured, name), _accuracies(random, f"random_{name}")
    if first.size != second.size:
        raise ValueError(
            f"{name} has {first.size} accuracies and random_{name} {second.size}; expected one of "
            "each a fraction or layer, in the same order"
        )
    return first, second
