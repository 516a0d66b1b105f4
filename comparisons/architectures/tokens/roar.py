"""The tables of ROAR of tensors of tokens, and the sentences of what they tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from comparisons.architectures.differences import CENTRE, MISSING, Records, less, listed, paired
from comparisons.architectures.measuring import Measured
from comparisons.architectures.networks import ARCHITECTURES
from comparisons.architectures.tokens.retraining import RETRAINED, UNMASKED, Retrained
from comparisons.architectures.tokens.tensors import READ, RIVALS, ROLLOUT, TENSORS
from reports.formatting import markdown_table

__all__ = ["roar"]


def roar(records: Records, trainings: Sequence[Retrained]) -> list[str]:
    """Return for each network and fraction the table of trainings without salient pixels."""
    parts = []
    places = {(one.network, one.fraction) for one in trainings if one.method != UNMASKED}
    for name, fraction in sorted(places):
        among = [one for one in trainings if (one.network, one.fraction) == (name, fraction)]
        right = {
            method: {one.seed: one.correct for one in among if one.method == method}
            for method in RETRAINED
        }
        parts.append(_table(name, fraction, right, records.get(name)))
    if not parts:
        return []
    whole = [
        f"{ARCHITECTURES[one.network].title} {one.correct.mean():.1%} (seed {one.seed})"
        for one in trainings
        if one.method == UNMASKED
    ]
    return [
        f"""## Which tensor: remove and retrain

ROAR: the network is trained again, from scratch, on images without the pixels that a map ranks
highest (their mean is put there), and tested on such images; the lower its accuracy, the more the
map had found. Maps explain the network of seed 0, for the class that it predicts. *Less centre* is
the accuracy less that after removing the disk, of the same test images, with 95 % intervals
{_of_seeds(trainings)}, not corrected for their number. *Mass*, of the images of the last table, is
the share of the map in the object, less the disk's. Accuracy on whole images: {listed(whole)};
by chance it is an eighth.""",
        *parts,
    ]


def _of_seeds(trainings: Sequence[Retrained]) -> str:
    """Return in words over what the intervals of ROAR are."""
    if len({one.seed for one in trainings}) > 1:
        return "over trainings and images"
    return "over images (of one training each)"


def _table(
    name: str,
    fraction: float,
    right: Mapping[str, Mapping[int, Any]],
    measured: Sequence[Measured] | None,
) -> str:
    """Return the table of a network and a fraction, and what is told from the centre disk."""
    head = ["map", "accuracy", "less centre", "less random", "mass, less centre"]
    rows, verdicts = [head, ["---"] * len(head)], {}
    for method, own in right.items():
        if method in ("values depths", ROLLOUT) and not own and name != "vit":
            continue
        title = _title(method)
        if not own:
            rows.append([title, *[MISSING] * (len(head) - 1)])
            continue
        accuracy = f"{np.mean([each.mean() for each in own.values()]):.1%}"
        others = []
        for other in (CENTRE, "random"):
            seeds = sorted(own.keys() & right[other].keys())
            if method == other or not seeds:
                others.append("" if method == other else MISSING)
                continue
            found = paired(np.stack([own[seed] - right[other][seed] for seed in seeds]), seeds)
            others.append(str(found))
            if other == CENTRE:
                verdicts[title] = found.verdict
        mass = "" if method == CENTRE else MISSING
        if measured is not None and method != CENTRE:
            mass = less(measured, method, "mass")
        rows.append([title, accuracy, *others, mass])
    told = "; ".join(
        f"{words}: {listed([title for title, verdict in verdicts.items() if verdict == wanted])}"
        for wanted, words in (
            ("below", "lower accuracy than after removing the disk, which is better"),
            ("above", "higher"),
            ("not told", "not told"),
        )
    )
    return f"""### {ARCHITECTURES[name].title}, {100 * fraction:g} % of the pixels removed

{told[0].upper()}{told[1:]}.

{markdown_table(rows)}"""


def _title(method: str) -> str:
    """Return the title of a method of ROAR.

    >>> _title("block depths"), _title("centre")
    ('SMOE Scale (output of the block)', 'centre disk')
    """
    tensor, _, read = method.rpartition(" ")
    if read in READ:
        return f"SMOE Scale ({TENSORS[tensor]})"
    return {CENTRE: "centre disk"}.get(method, RIVALS.get(method, method))
