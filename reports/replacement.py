"""The paper's sentence on Guided Backprop, put to the test with the networks of a run.

"By replacing Guided Backprop with our method accuracy should increase": a class activation map
times SMOE Scale (Fast-CAM) against the same map times Guided Backprop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evaluation.scores import t_interval
from reports.reading import Method, Run
from reports.tables import Estimate, Sums, seed_sums, sums

__all__ = ["SCORES", "Replacement", "paired_gain", "replacements", "verdict"]

# Each score of a difference, and the modes it sums over.
SCORES: dict[str, tuple[str, ...]] = {"KAR": ("kar",), "ROAR": ("roar",), "SUM": ("kar", "roar")}

_NOTHING = Sums(None, None, None)


@dataclass(frozen=True)
class Replacement:
    """One class activation map alone, times Guided Backprop, and as Fast-CAM.

    Args:
        cam: name of the map.
        methods: the three as the run has them; ``"alone"`` may be missing.
        sums: of each.
        gain: Fast-CAM less the product with Guided Backprop, by score, paired by seed; None where
            no seed has both.
    """

    cam: str
    methods: Mapping[str, Method]
    sums: Mapping[str, Sums]
    gain: Mapping[str, Estimate | None]


def replacements(run: Run) -> list[Replacement]:
    """Every class activation map that the run has both times Guided Backprop and as Fast-CAM."""
    by_cam: dict[str, dict[str, Method]] = {}
    for method in run.methods.values():
        cam = method.parameters.get("cam")
        if cam is not None:
            by_cam.setdefault(cam, {})[_role(method)] = method
    measured = sums(run.records, run.fractions)
    return [
        Replacement(
            cam=cam,
            methods=methods,
            sums={role: measured.get(method.name, _NOTHING) for role, method in methods.items()},
            gain={
                score: paired_gain(run, methods["fast"].name, methods["guided"].name, modes)
                for score, modes in SCORES.items()
            },
        )
        for cam, methods in by_cam.items()
        if {"guided", "fast"} <= methods.keys()
    ]


def verdict(gain: Estimate | None) -> str:
    """What a difference says of the sentence.

    >>> verdict(Estimate(0.2, (0.1, 0.3), (0, 1), ())), verdict(Estimate(-0.2, None, (0,), ()))
    ('held', 'fails; one seed')
    """
    if gain is None:
        return "not measured"
    said = "held" if gain.mean > 0 else "fails"
    if gain.interval is None:
        return f"{said}; one seed"
    low, high = gain.interval
    return said if low > 0 or high < 0 else f"{said}; the interval holds 0"


def _role(method: Method) -> str:
    if "weights" in method.parameters:
        return "fast"
    return "guided" if "times" in method.parameters else "alone"


def paired_gain(run: Run, first: str, second: str, modes: tuple[str, ...]) -> Estimate | None:
    """A score of the first method less that of the second, over the seeds that have both.

    Args:
        run: the run.
        first: name of a method.
        second: of the one it is held against.
        modes: that the score sums over, ``"kar"`` up and ``"roar"`` down.
    """
    rows = run.records[(run.records["metric"] == "accuracy") & run.records["layer"].isna()]
    own, other = (
        seed_sums(rows[rows["method"] == name], run.fractions, modes) for name in (first, second)
    )
    paired = {seed: (own[seed], other[seed]) for seed in own if seed in other}
    if not paired:
        return None
    values = [mine[0] - theirs[0] for mine, theirs in paired.values()]
    cells = tuple(cell for mine, theirs in paired.values() for cell in (*mine[1], *theirs[1]))
    return Estimate(sum(values) / len(values), t_interval(values), tuple(paired), cells)
