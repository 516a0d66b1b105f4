"""The page of networks of many families: tables and sentences made of the records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from comparisons.architectures.measuring import EXPLAINED, Measured
from comparisons.architectures.networks import ARCHITECTURES
from comparisons.architectures.tensors import TENSORS
from comparisons.architectures.training import TEST_IMAGES, TRAIN_IMAGES
from evaluation.scoring.intervals import CrossedBootstrap, symmetric_interval
from fastsal.files import written_whole

__all__ = ["Difference", "difference", "read_records", "write_page"]

MeasureName = Literal["mass", "ranking"]
CENTRE, SMOE = "centre", "smoe-linear"
_RESAMPLES = 4000
_OF_TOKENS = ("vit", "mixer", "swin")
_MISSING = "not measured"
_NOT_THERE = ""


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences over images and seeds, with its 95 % interval.

    Attributes:
        value: The mean.
        low: The interval's lower end.
        high: The interval's upper end.
    """

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> Literal["above", "below", "not told"]:
        """The sign of the difference, if the interval tells it."""
        return "above" if self.low > 0 else "below" if self.high < 0 else "not told"

    def __str__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def read_records(path: Path) -> dict[str, list[Measured]]:
    """Return the measurements in a file of JSON lines, by network in the order of the table."""
    lines = path.read_text(encoding="utf-8").splitlines()
    every = [Measured.read(line) for line in lines]
    found = {name: [one for one in every if one.network == name] for name in ARCHITECTURES}
    return {name: several for name, several in found.items() if several}


def difference(
    records: Sequence[Measured], first: str, second: str, measure: MeasureName
) -> Difference:
    """Return a method's mean less another's, over the images and the seeds of one network.

    The interval is that of `CrossedBootstrap`; of one seed it is Student's over the images, and
    says nothing of other trainings.

    Args:
        records: Of one network, one for each seed.
        first: A method.
        second: The method that is taken off.
        measure: "mass" or "ranking".
    """
    values = np.asarray(
        [
            np.subtract(getattr(one, measure)[first], getattr(one, measure)[second])
            for one in records
        ]
    )
    return paired(values, [one.seed for one in records])


def paired(values: np.ndarray[Any, Any], seeds: Sequence[int]) -> Difference:
    """Return the mean of differences `(seeds, images)` with its interval."""
    mean = float(values.mean())
    if len(seeds) == 1:
        half = float(stats.sem(values[0]) * stats.t.ppf(0.975, values.shape[1] - 1))
        return Difference(mean, mean - half, mean + half)
    bootstrap = CrossedBootstrap(values.shape[1], resamples=_RESAMPLES)
    low, high = symmetric_interval(mean, bootstrap.deviations(values[None], list(seeds))[0])
    return Difference(mean, low, high)


def write_page(folder: Path, page: Path) -> None:
    """Write the page of the records in a folder.

    Args:
        folder: Of records.jsonl, and of costs.json and photographs.json if they were measured.
        page: The Markdown file.
    """
    records = read_records(folder / "records.jsonl")
    parts = [
        _INTRODUCTION,
        _verdicts(records),
        _families(records, _json(folder / "costs.json")),
        _photographs(_json(folder / "photographs.json")),
        _tensors(records),
        _how(records, _json(folder / "costs.json")),
    ]
    with written_whole(page) as partial:
        partial.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


_INTRODUCTION = """# Networks of many families

Does a map say anything on other architectures than ResNet? Small networks of each family, trained
on `shapes`, whose objects are known to the pixel; a disk at the centre never looks at the image,
and is what a map has to beat."""


def _verdicts(records: dict[str, list[Measured]]) -> str:
    """Return the sentences of what holds, by what the intervals tell."""
    lines = []
    for measure, words in (
        ("ranking", "ranks the object's pixels higher than the centre disk does"),
        ("mass", "has more of its mass in the object than the centre disk"),
    ):
        found: dict[str, list[str]] = {"above": [], "not told": [], "below": []}
        for name, several in records.items():
            verdict = difference(several, SMOE, CENTRE, measure).verdict  # type: ignore[arg-type]
            found[verdict].append(ARCHITECTURES[name].title)
        lines.append(
            f"- **SMOE Scale {words} on {len(found['above'])} of {len(records)} networks**"
            f"{_listed(found['above'])}; worse{_listed(found['below'])}; not told"
            f"{_listed(found['not told'])}."
        )
    return "\n".join(lines)


def _listed(names: Sequence[str]) -> str:
    return f": {', '.join(names)}" if names else ": none"


def _families(records: dict[str, list[Measured]], costs: dict[str, Any]) -> str:
    """Return the table of families."""
    head = ["family", "accuracy", "SMOE Scale - centre, ranking", "Fast-CAM - centre, ranking"]
    head += ["Grad-CAM - centre, ranking", "SMOE Scale - centre, mass", "SMOE Scale - random, mass"]
    head += ["Gamma scale, rank correlation", "time added"]
    rows = [head, ["---"] * len(head)]
    for name, several in records.items():
        ranks = np.median([rank for one in several for rank in one.ranks])
        cost = costs.get(name)
        rows.append(
            [
                ARCHITECTURES[name].title,
                f"{np.mean([one.accuracy for one in several]):.0%}",
                *(
                    str(difference(several, method, CENTRE, "ranking"))
                    for method in (SMOE, "fastcam", "gradcam")
                ),
                str(difference(several, SMOE, CENTRE, "mass")),
                str(difference(several, SMOE, "random", "mass")),
                f"{ranks:.3f}",
                _MISSING if cost is None else _cost(cost),
            ]
        )
    text = """## Families

*Ranking* is the probability that a pixel of the object is more salient than one beside it (the area
under the ROC curve): half for a random map. *Mass* is the share of the map that lies in the object.
Differences are of the same images, with 95 % intervals over seeds and images, not corrected for
their number; one that holds 0 is not told. The last column is the time that the map adds to one
forward pass of the network in its published size.

"""
    return text + _markdown(rows)


def _cost(cost: dict[str, Any]) -> str:
    low, high = cost["low"], cost["high"]
    return f"`{cost['network']}` {cost['median']:.0f} % ({low:.0f} to {high:.0f})"


def _photographs(found: dict[str, Any]) -> str:
    """Return the table of photographs."""
    title = "## Photographs\n\n"
    if not found:
        command = "python -m comparisons architectures --photographs imagenet:PATH"
        return f"{title}EfficientNet-Lite0 on ImageNet's photographs: {_MISSING} (`{command}`)."
    values = {name: np.asarray(one)[None] for name, one in found["difference"].items()}
    rows = [["method", "insertion less deletion", "less the centre disk's"], ["---"] * 3]
    for name, one in values.items():
        own = one - values[CENTRE]
        rows.append(
            [
                f"`{name}`",
                str(paired(one, [0])).lstrip("+"),
                _NOT_THERE if name == CENTRE else str(paired(own, [0])),
            ]
        )
    median = np.median(found["ranks"])
    return f"""{title}EfficientNet-Lite0, trained on ImageNet, on {len(found["ranks"])} photographs
of ten of its classes at 224x224: the area under the probability of the predicted class as the least
salient tenths of the pixels are removed first, less that as the most salient are, filled by the
mean. Intervals are Student's over the photographs; the network is one.

{_markdown(rows)}

Median rank correlation of SMOE Scale to the Gamma scale: {median:.4f}."""


def _tensors(records: dict[str, list[Measured]]) -> str:
    """Return the table of tensors of tokens."""
    there = [name for name in _OF_TOKENS if name in records]
    if not there:
        return ""
    head = ["tensor", "blocks", *(ARCHITECTURES[name].title for name in there)]
    rows = [head, ["---"] * len(head)]
    for tensor, title in TENSORS.items():
        for read, blocks in (("depths", "evenly spaced"), ("last", "the last")):
            key = f"{tensor} {read}"
            cells = [
                str(difference(records[name], key, CENTRE, "ranking"))
                if key in records[name][0].ranking
                else _NOT_THERE
                for name in there
            ]
            rows.append([title, blocks, *cells])
    for key, title in (
        ("rollout", "attention rollout"),
        ("gradcam", "Grad-CAM"),
        ("fastcam", "Fast-CAM"),
        ("random", "random"),
    ):
        cells = [
            str(difference(records[name], key, CENTRE, "ranking"))
            if key in records[name][0].ranking
            else _NOT_THERE
            for name in there
        ]
        rows.append([title, _NOT_THERE, *cells])
    return f"""## Tokens: which tensor

SMOE Scale of the tensors of a block, and rivals: ranking less that of the centre disk. Of ViT and
MLP-Mixer four blocks at evenly spaced depths are read, or the last; of Swin the last block of each
stage, or of the last stage. {_chosen(records, there)}

{_markdown(rows)}"""


def _chosen(records: dict[str, list[Measured]], there: Sequence[str]) -> str:
    """Return the sentence of the tensor that is best over the networks of one resolution."""
    plain = [name for name in there if name != "swin"]
    common = [
        key
        for key in (f"{tensor} {read}" for tensor in TENSORS for read in ("depths", "last"))
        if all(key in records[name][0].ranking for name in plain)
    ]
    means = {
        key: np.mean([difference(records[name], key, CENTRE, "ranking").value for name in plain])
        for key in common
    }
    best = max(means, key=lambda key: means[key])
    told = [
        ARCHITECTURES[name].title
        for name in plain
        if difference(records[name], best, CENTRE, "ranking").verdict == "above"
    ]
    tensor, _, read = best.rpartition(" ")
    where = "at evenly spaced depths" if read == "depths" else "of the last block"
    return (
        f"Of the tensors that both networks of one resolution have, the {TENSORS[tensor]}, "
        f"{where}, is best on average; it is told above the centre disk on{_listed(told)}."
    )


def _how(records: dict[str, list[Measured]], costs: dict[str, Any]) -> str:
    seeds = {len(several) for several in records.values()}
    trainings = " to ".join(str(one) for one in sorted({min(seeds), max(seeds)}))
    facts = next(iter(costs.values()), None)
    machine = ""
    if facts is not None:
        versions = ", ".join(f"{name} {facts[name]}" for name in ("torch", "torchvision", "timm"))
        machine = f"""

Times: {facts["processor"]}, one thread, one image, {facts["rounds"]} paired rounds, processor time;
{versions}."""
    return f"""## How it was measured

`python -m comparisons architectures` trains, measures and writes this page; its records are in
`reports/runs/architectures/`. Each network is trained {trainings} time(s) on {TRAIN_IMAGES:,}
images of 32x32 (accuracy on {TEST_IMAGES:,} others, the first {EXPLAINED} of which are explained,
for the predicted class). `comparisons/architectures/networks.py` has the networks and
recipes.{machine}"""


def _markdown(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found
