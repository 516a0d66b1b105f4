"""Bootstrap intervals of scores over seeds and test images, paired across methods.

`scipy.stats.bootstrap` resamples one axis, or several samples independently; a score here depends
on two crossed samples, since every seed is tested on the same images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["RESAMPLES", "CrossedBootstrap", "symmetric_interval"]

RESAMPLES = 10_000

# Resamples whose image weights are in memory together: 500 of 4,000 images are 8 MB.
_BLOCK = 500


class CrossedBootstrap:
    """Hierarchical paired bootstrap of scores over seeds and test images.

    A score is the mean of ``x[s, n]``, the contribution of image ``n`` at seed ``s``. One resample
    moves it by

    ``sum_s g_s (x_s - m) / sqrt(S (S - 1)) * sqrt((S - 1) / chi2_(S-1)) + l mean_n (w_n - 1) x_n``

    with ``x_s`` and ``x_n`` the means of a seed and of an image, ``m`` of all.

    Images: ``w_n`` counts the draws of an image with replacement. Seeds: two to five drawn with
    replacement give only a handful of different samples, so each gets a normal weight ``g_s``
    instead, and their sum Student's scale: with no spread over images the interval *is* Student's.
    Weights and draws are the same for every method, which pairs them. The interaction of image and
    seed is part of both terms; ``l`` takes it out of the second, so that it counts once:
    ``l^2 = max(0, 1 - V_e / V_n)``, the share of the variance of ``x_n`` that seeds agree on.

    Deviation from a plain bootstrap of two crossed samples (Owen 2007): normal weights for the
    seeds, and the interaction counted once instead of three times.

    Args:
        images: number of test images.
        resamples: number of resamples.
        seed: seed of the random numbers; the same seed gives the same resamples.

    Raises:
        ValueError: fewer than two images, or no resample.

    Reference:
        Owen 2007, "The pigeonhole bootstrap"; Davison and Hinkley 1997, section 3.8.

    >>> scores = np.array([[[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]]])
    >>> CrossedBootstrap(4, resamples=3).deviations(scores, (0, 1)).shape
    (1, 3)
    """

    def __init__(self, images: int, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        if images < 2 or resamples < 1:
            raise ValueError(
                f"{images} images and {resamples} resamples; expected at least 2 and 1"
            )
        self.images, self.resamples, self.seed = images, resamples, seed

    def deviations(
        self, contributions: NDArray[np.floating], seeds: Sequence[int]
    ) -> NDArray[np.float64]:
        """The deviation of each score in each resample.

        Args:
            contributions: ``(K, S, N)``, contribution of each image to each of K scores at each
                seed; the mean over N is the score of a seed.
            seeds: the S seeds; the same one moves all scores the same way.

        Returns:
            ``(K, resamples)``, around 0.

        Raises:
            ValueError: shapes that do not match, or one seed, whose spread is unknown.
        """
        values = np.asarray(contributions, dtype=np.float64)
        if values.ndim != 3 or values.shape[1:] != (len(seeds), self.images):
            raise ValueError(
                f"contributions of shape {values.shape}; expected (scores, {len(seeds)} seeds, "
                f"{self.images} images)"
            )
        if len(seeds) < 2:
            raise ValueError("one seed has no spread; expected at least 2 seeds")
        of_seed, of_image = values.mean(axis=2), values.mean(axis=1)
        mean = of_seed.mean(axis=1)
        by_image = (of_image - mean[:, None]) * self._shared(values, of_seed, of_image)[:, None]
        moved = self._seed_part(of_seed - mean[:, None], seeds)
        thin = by_image.T.astype(np.float32) / np.float32(self.images)
        start = 0
        for counts in self._image_counts():
            moved[:, start : start + len(counts)] += (counts @ thin).T
            start += len(counts)
        return moved

    def _shared(
        self,
        values: NDArray[np.float64],
        of_seed: NDArray[np.float64],
        of_image: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """The factor ``l`` of each score."""
        seeds, images = values.shape[1:]
        mean = of_seed.mean(axis=1)
        rest = values - of_seed[:, :, None] - of_image[:, None, :] + mean[:, None, None]
        interaction = (rest**2).sum(axis=(1, 2)) / ((seeds - 1) * (images - 1) * seeds)
        spread = of_image.var(axis=1, ddof=1)
        share = np.divide(interaction, spread, out=np.ones_like(spread), where=spread > 0)
        kept: NDArray[np.float64] = np.sqrt(np.clip(1 - share, 0, None))
        return kept

    def _seed_part(self, off: NDArray[np.float64], seeds: Sequence[int]) -> NDArray[np.float64]:
        free = len(seeds) - 1
        weights = np.stack(
            [
                np.random.default_rng([self.seed, 1, s]).standard_normal(self.resamples)
                for s in seeds
            ]
        )
        chi2 = np.random.default_rng([self.seed, 2, free]).chisquare(free, self.resamples)
        moved: NDArray[np.float64] = off @ weights / np.sqrt(len(seeds) * chi2)
        return moved

    def _image_counts(self) -> Iterator[NDArray[np.float32]]:
        """The counts of each image in each resample, ``(up to _BLOCK, N)`` at a time."""
        draws = np.random.default_rng([self.seed, 0])
        for start in range(0, self.resamples, _BLOCK):
            rows = min(_BLOCK, self.resamples - start)
            drawn = draws.integers(self.images, size=(rows, self.images))
            drawn += np.arange(rows)[:, None] * self.images
            counts = np.bincount(drawn.ravel(), minlength=rows * self.images)
            yield counts.reshape(rows, self.images).astype(np.float32)


def symmetric_interval(
    value: float, deviations: NDArray[np.floating], confidence: float = 0.95
) -> tuple[float, float]:
    """Symmetric interval around a value that holds a share of its resamples.

    Args:
        value: the score.
        deviations: ``(resamples,)``, deviation of the score in each resample.
        confidence: in (0, 1).

    Returns:
        The two ends of the interval.

    >>> symmetric_interval(1.0, np.array([-0.2, 0.1, 0.2, -0.1]), confidence=0.5)
    (0.85, 1.15)
    """
    half = float(np.quantile(np.abs(deviations), confidence))
    return value - half, value + half
