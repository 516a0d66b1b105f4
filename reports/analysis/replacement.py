"""Fast-CAM in the place of Guided Backprop, tested on the networks of a run.

The paper: "By replacing Guided Backprop with our method accuracy should increase". A class
activation map times SMOE Scale (Fast-CAM) is compared with the same map times Guided Backprop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reports.records.correctness import read_correctness, resampled
from reports.records.estimates import SCORES, Estimate, Sums
from reports.records.run import Method, Run

__all__ = ["Replacement", "gains", "replacements", "verdict"]

Pair = tuple[str, str | None]


@dataclass(frozen=True)
class Replacement:
    """One class activation map alone, times Guided Backprop, and as Fast-CAM.

    Args:
        methods: by ``"alone"`` (may be missing), ``"guided"`` and ``"fast"``.
        sums: scores of each.
        gain: Fast-CAM less the product with Guided Backprop, paired by seed and test image.
    """

    methods: Mapping[str, Method]
    sums: Mapping[str, Sums]
    gain: Sums


def replacements(run: Run) -> list[Replacement]:
    """The class activation maps that a run has both times Guided Backprop and as Fast-CAM."""
    by_cam: dict[Any, dict[str, Method]] = {}
    for method in run.methods.values():
        cam = method.parameters.get("cam")
        if cam is not None:
            # Blurred methods are compared with one another.
            blur = method.parameters.get("blur_sigma_share")
            by_cam.setdefault((cam, blur), {})[_role(method)] = method
    both = [methods for methods in by_cam.values() if {"guided", "fast"} <= methods.keys()]
    pairs = [(methods["fast"].name, methods["guided"].name) for methods in both]
    alone = [(method.name, None) for methods in both for method in methods.values()]
    found = gains(run, [*pairs, *alone])
    return [
        Replacement(
            methods=methods,
            sums={
                role: Sums(**{score: found.get((method.name, None, score)) for score in SCORES})
                for role, method in methods.items()
            },
            gain=Sums(**{score: found.get((*pair, score)) for score in SCORES}),
        )
        for methods, pair in zip(both, pairs, strict=True)
    ]


def gains(run: Run, pairs: Iterable[Pair]) -> dict[tuple[str, str | None, str], Estimate]:
    """Differences of scores in pairs of methods, over the seeds that have both.

    Args:
        run: the run.
        pairs: names of two methods; None in place of the second for the score itself.

    Returns:
        First less second, by the two names and the score. Intervals are over seeds and test images
        if the correctness on every test image was kept; one seed has none.
    """
    correctness = read_correctness(run)
    nothing = Sums(None, None, None)
    wanted = {}
    for first, second in dict.fromkeys(pairs):
        for score, modes in SCORES.items():
            if second is None:
                estimate: Estimate | None = getattr(run.sums.get(first, nothing), score)
            else:
                estimate = run.differences(second, score).get(first)
            if estimate is not None:
                contributions = correctness.area(first, modes, estimate.numbered_seeds, second)
                wanted[first, second, score] = estimate, contributions
    return resampled(correctness, wanted)


def verdict(gain: Estimate | None) -> str:
    """The verdict of a difference on the paper's sentence.

    >>> verdict(Estimate(0.2, (0.1, 0.3), (0, 1), ())), verdict(Estimate(-0.2, None, (0,), ()))
    ('held', 'not told: one seed')
    """
    if gain is None:
        return "not measured"
    if not gain.excludes_zero:
        return f"not told: {'one seed' if gain.interval is None else 'the interval holds 0'}"
    return "held" if gain.mean > 0 else "fails"


def _role(method: Method) -> str:
    if "weights" in method.parameters:
        return "fast"
    return "guided" if "times" in method.parameters else "alone"
