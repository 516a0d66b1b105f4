"""Prior weights of the scales of a user's network, from the accuracies of a run inside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from comparisons.plans.layers import LayersPlan
from evaluation.layers.layer_arrays import RANDOM
from evaluation.masking.levels import MODES
from evaluation.scoring.scores import difference_score
from evaluation.storage.records import CellResult
from evaluation.storage.store import spec_id, write_atomically
from fastsal import __version__
from fastsal.maps.prior import FORMAT

__all__ = ["has_accuracies", "write_prior"]

_PREFERRED = "smoe_scale"


def write_prior(
    path: Path, results: Sequence[CellResult], plan: LayersPlan, layers: Sequence[str]
) -> None:
    """Write a file of weights for ``SMOEScale(weights=path)``.

    A scale's weight is its own difference score, ``(z - rho) + (kappa - z)`` of Eq 8, mean over
    the seeds; a negative one counts as 0, since there the statistic is worse than chance.

    Args:
        path: a file that ends in ``.json``.
        results: every cell of a finished run.
        plan: its options; the weights are those of SMOE Scale, or of the first statistic.
        layers: its scales.

    Raises:
        ValueError: no scale where the statistic is better than the random control.
    """
    statistic = _weighed(plan)
    found = _accuracies(results)
    scores = np.array(
        [
            [
                difference_score(
                    **{mode: [found[statistic, layer, mode, seed]] for mode in MODES},
                    **{f"random_{mode}": [found[RANDOM, layer, mode, seed]] for mode in MODES},
                )
                for layer in layers
            ]
            for seed in plan.seeds
        ]
    )
    weights = np.maximum(scores.mean(0), 0.0)
    if not weights.any():
        raise ValueError(
            f"no weights: at no scale is {statistic} better than random locations (difference "
            f"scores {', '.join(f'{score:.3f}' for score in scores.mean(0))}); train longer"
        )
    content: dict[str, Any] = {
        "format": FORMAT,
        "layers": list(layers),
        "weights": [round(float(weight), 6) for weight in weights],
        "statistic": statistic,
        "derived": "difference score (Eq 8) of each layer alone, mean over the seeds; a negative "
        "one counts as 0",
        "difference_scores": {
            str(seed): [round(float(score), 6) for score in row]
            for seed, row in zip(plan.seeds, scores, strict=True)
        },
        "model": plan.model,
        "data": plan.data,
        "run": spec_id({"cells": sorted(result.id for result in results)}),
        "versions": {"fastsal": __version__, "torch": version("torch")},
    }
    text = json.dumps(content, indent=1).encode()
    write_atomically(path, lambda file: file.write(text))


def has_accuracies(results: Sequence[CellResult], plan: LayersPlan, layers: Sequence[str]) -> bool:
    """Return True if every fine-tuning that the weights need is finished.

    Args:
        results: the finished cells of a run.
        plan: its options.
        layers: its scales.
    """
    wanted = product((_weighed(plan), RANDOM), layers, MODES, plan.seeds)
    return set(wanted) <= _accuracies(results).keys()


def _weighed(plan: LayersPlan) -> str:
    return _PREFERRED if _PREFERRED in plan.statistics else plan.statistics[0]


def _accuracies(
    results: Sequence[CellResult],
) -> dict[tuple[str, str | None, str, int | None], float]:
    return {
        (record.method, record.layer, record.mode, record.seed): record.value
        for result in results
        if result.kind == "tune"
        for record in result.records
        if record.metric == "accuracy"
    }
