"""The page of networks of many families: tables and sentences made of the records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from comparisons.architectures.differences import (
    CENTRE,
    MISSING,
    MeasureName,
    Records,
    difference,
    less,
    listed,
    read_records,
)
from comparisons.architectures.measuring import EXPLAINED, Measured
from comparisons.architectures.networks import ARCHITECTURES
from comparisons.architectures.tokens.retraining import TOKENS, read_retrained
from comparisons.architectures.tokens.roar import roar
from comparisons.architectures.tokens.tensors import (
    HIERARCHIES,
    NOT_CENTRED,
    READ,
    RIVALS,
    TENSORS,
)
from comparisons.architectures.training import TEST_IMAGES, TRAIN_IMAGES
from fastsal.files import written_whole
from reports.formatting import markdown_table
from reports.measured.scores import Scored, scored
from reports.measured.table import RUN
from reports.records.estimates import Estimate
from reports.records.reading import read_run

__all__ = ["write_page"]

SMOE = "smoe-linear"
_CENTRED = "../how-to/choose-a-statistic.md#networks-without-relu"
_COMMAND = "python -m comparisons architectures"


def write_page(folder: Path, page: Path, run: Path = RUN) -> None:
    """Write the page of the records in a folder.

    Args:
        folder: Of records.jsonl, and of costs.json and photographs.json if they were measured.
        page: The Markdown file.
        run: Of the photographs, as for `reports.measured`.
    """
    records = read_records(folder / "records.jsonl")
    costs = _json(folder / "costs.json")
    parts = [
        _INTRODUCTION,
        _verdicts(records),
        _families(records, costs),
        _photographs(run, _json(folder / "photographs.json").get("ranks", ())),
        _tensors(records),
        *roar(records, read_retrained(folder / "roar.jsonl")),
        _how(records, costs),
    ]
    with written_whole(page) as partial:
        partial.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


_INTRODUCTION = """# Networks of many families

Does a map say anything on other architectures than ResNet? Small networks of each family, trained
on `shapes`, whose objects are known to the pixel; a disk at the centre never looks at the image,
and is what a map has to beat."""


def _verdicts(records: Records) -> str:
    """Return the sentences of what holds, by what the intervals tell."""
    measures: tuple[tuple[MeasureName, str], ...] = (
        ("ranking", "ranks the object's pixels higher than the centre disk does"),
        ("mass", "has more of its mass in the object than the centre disk"),
    )
    lines = []
    for method, title in ((SMOE, "SMOE Scale"), (NOT_CENTRED, "SMOE Scale without centring")):
        there = {name: several for name, several in records.items() if _has(several, method)}
        for measure, words in measures if there else ():
            found: dict[str, list[str]] = {"above": [], "below": [], "not told": []}
            for name, several in there.items():
                verdict = difference(several, method, CENTRE, measure).verdict
                found[verdict].append(ARCHITECTURES[name].title)
            lines.append(
                f"- **{title} {words} on {len(found['above'])} of {len(there)} networks**: "
                f"{listed(found['above'])}. Lower: {listed(found['below'])}. "
                f"Not told: {listed(found['not told'])}."
            )
    missing = [one.title for name, one in ARCHITECTURES.items() if name not in records]
    if missing:
        lines.append(f"- {MISSING.capitalize()}: {listed(missing)} (`{_COMMAND}`).")
    return "\n".join(lines)


def _families(records: Records, costs: Mapping[str, Any]) -> str:
    """Return the table of families."""
    head = ["family", "accuracy (trainings)", "SMOE Scale, ranking", "not centred, ranking"]
    head += ["Fast-CAM, ranking", "Grad-CAM, ranking", "SMOE Scale, mass", "not centred, mass"]
    head += ["SMOE Scale, mass less random", "Gamma scale", "time added"]
    rows = [head, ["---"] * len(head)]
    for family, one in ARCHITECTURES.items():
        several = records.get(family)
        cells = [MISSING] * (len(head) - 2)
        if several is not None:
            ranks = [rank for measured in several for rank in measured.ranks]
            cells = [
                f"{np.mean([measured.accuracy for measured in several]):.0%} ({len(several)})",
                less(several, SMOE, "ranking"),
                less(several, NOT_CENTRED, "ranking", missing=""),
                *(less(several, name, "ranking") for name in ("fastcam", "gradcam")),
                less(several, SMOE, "mass"),
                less(several, NOT_CENTRED, "mass", missing=""),
                less(several, SMOE, "mass", "random"),
                f"{np.median(ranks):.3f}" if ranks else MISSING,
            ]
        cost = costs.get(family)
        rows.append([one.title, *cells, MISSING if cost is None else _cost(cost)])
    return f"""## Families

*Ranking* is the probability that a pixel of the object is more salient than one beside it (the area
under the ROC curve; half for a random map), less that of the centre disk. *Mass* is the share of
the map that lies in the object, less that of the disk, or of a random map. Differences are of the
same images, with 95 % intervals{_of_what(records)}, not corrected for their number; one that holds
0 is not told. *Not centred* is SMOE Scale of scales that no activation function made, such as
residual streams, as they are: [SMOE Scale centres those]({_CENTRED}).
*Gamma scale* is the median rank correlation of SMOE Scale's map to that of the Gamma scale
statistic. The last column is the time that the map adds to one forward pass of the network in its
published size.

{markdown_table(rows)}"""


def _has(records: Sequence[Measured], method: str) -> bool:
    return all(method in one.ranking for one in records)


def _of_what(records: Records) -> str:
    """Return in words over what intervals are."""
    counts = {len(several) for several in records.values()}
    if 1 not in counts:
        return " over trainings and images"
    if len(counts) > 1:
        return " over images, and over trainings where there are several"
    return " over images (of one training each: they say nothing of other trainings)"


def _cost(cost: Mapping[str, Any]) -> str:
    low, high = cost["low"], cost["high"]
    return f"`{cost['network']}` {cost['median']:.0f} % ({low:.0f} to {high:.0f})"


def _photographs(run: Path, ranks: Sequence[float]) -> str:
    """Return the table of the photographs of a run, and the correlation to the Gamma scale."""
    found = next((one for one in scored(read_run(run)) if one.score.key == "area"), None)
    if found is None:
        missing = "insertion less deletion of two methods or more"
        return f"## Photographs\n\nEfficientNet-Lite0 on photographs: {missing} {MISSING}."
    head = ["method", "insertion less deletion", "less the centre disk's", "less a random map's"]
    rows = [head, ["---"] * len(head)]
    for name, values in found.methods.items():
        others = (_beyond(found, name, other) for other in (CENTRE, "random"))
        rows.append([f"`{name}`", _interval(values.estimate), *others])
    images = {len(one.images) for one in found.methods.values()}
    median = f"{np.median(ranks):.4f} ({len(ranks)} photographs)" if ranks else MISSING
    return f"""## Photographs

EfficientNet-Lite0, trained on ImageNet, on {" to ".join(f"{one:,}" for one in sorted(images))}
photographs of ten of its classes at 224x224: the area under the probability of the predicted class
as the least salient pixels are removed first, less that as the most salient are. Intervals are
Student's over the photographs, in pairs for differences, not corrected for their number; the
network is one. [Every measure of that
run](photographs.md).

{markdown_table(rows)}

Median rank correlation of SMOE Scale to the Gamma scale: {median}."""


def _beyond(found: Scored, name: str, other: str) -> str:
    """Return the difference of a method's score to that of another one."""
    if name == other:
        return ""
    own, its = found.methods[name], found.methods.get(other)
    if its is None:
        return MISSING
    return _interval(own.less(its).estimate, "+")


def _interval(estimate: Estimate, sign: str = "") -> str:
    mean = format(estimate.mean, f"{sign}.3f")
    if estimate.interval is None:
        return mean
    low, high = (format(end, f"{sign}.3f") for end in estimate.interval)
    return f"{mean} ({low} to {high})"


def _tensors(records: Records) -> str:
    """Return the table of tensors of tokens."""
    there = [name for name in TOKENS if name in records]
    if not there:
        return ""
    head = ["tensor", "blocks", *(ARCHITECTURES[name].title for name in there)]
    rows = [head, ["---"] * len(head)]
    for tensor, title in TENSORS.items():
        for read, blocks in READ.items():
            key = f"{tensor} {read}"
            cells = (less(records[name], key, "ranking", missing="") for name in there)
            rows.append([title, blocks, *cells])
    for key, title in RIVALS.items():
        cells = (less(records[name], key, "ranking", missing="") for name in there)
        rows.append([title, "", *cells])
    return f"""## Which tensor: tokens and layer norms

SMOE Scale of the tensors of a block, and rivals: ranking less that of the centre disk. Tensors are
centred, but for the hidden layer, which an activation function made. Of ViT and MLP-Mixer four
blocks at evenly spaced depths are read, or the last; of Swin, PVT and ConvNeXt, which have several
resolutions, the last block of each stage, or of the last stage. SMOE Scale's default is the output
of the block, evenly spaced, and of hierarchies nearly so.
{_chosen(records, there)}

{markdown_table(rows)}"""


def _chosen(records: Records, there: Sequence[str]) -> str:
    """Return the sentences of the tensor that is best: over plain networks, and of hierarchies."""
    sentences = []
    plain = [name for name in there if name not in HIERARCHIES]
    if plain:
        key, tensor = _best(records, plain)
        disk, default = (_on_each(records, plain, key, other) for other in (CENTRE, SMOE))
        sentences.append(
            f"Of the tensors that all networks of one resolution have, the {tensor} is best on "
            f"average. Against the centre disk it is {disk}; against SMOE Scale's default "
            f"{default}."
        )
    for name in HIERARCHIES:
        if name in there:
            key, tensor = _best(records, [name])
            disk, default = (_verdict(records, name, key, other) for other in (CENTRE, SMOE))
            sentences.append(
                f"The {tensor} is best of {ARCHITECTURES[name].title}'s: against the disk {disk}, "
                f"against the default {default}."
            )
    return " ".join(sentences)


def _on_each(records: Records, names: Sequence[str], key: str, other: str) -> str:
    """Return the verdict on a tensor's map beside another map with each network's title."""
    return listed(
        [f"{_verdict(records, name, key, other)} on {ARCHITECTURES[name].title}" for name in names]
    )


def _verdict(records: Records, name: str, key: str, other: str) -> str:
    """Return the verdict of a network on a tensor's map beside another map."""
    if all(one.ranking[key] == one.ranking[other] for one in records[name]):
        return "the same"
    return str(difference(records[name], key, other, "ranking").verdict)


def _best(records: Records, names: Sequence[str]) -> tuple[str, str]:
    """Return the key and the words of the tensor that is best on average."""
    common = [
        key
        for key in (f"{tensor} {read}" for tensor in TENSORS for read in READ)
        if all(key in records[name][0].ranking for name in names)
    ]
    means = {
        key: np.mean([difference(records[name], key, CENTRE, "ranking").value for name in names])
        for key in common
    }
    best = max(means, key=lambda key: means[key])
    tensor, _, read = best.rpartition(" ")
    words = READ if names[0] not in HIERARCHIES else {"depths": "every stage", "last": "the last"}
    return best, f"{TENSORS[tensor]} (blocks: {words[read]})"


def _how(records: Records, costs: Mapping[str, Any]) -> str:
    counts = sorted({len(several) for several in records.values()})
    trainings = " to ".join(str(one) for one in dict.fromkeys((counts[0], counts[-1])))
    facts = next(iter(costs.values()), None)
    machine = ""
    if facts is not None:
        versions = ", ".join(f"{name} {facts[name]}" for name in ("torch", "torchvision", "timm"))
        machine = f"""

Times: {facts["processor"]}, one thread, one image, {facts["rounds"]} paired rounds, processor time;
{versions}."""
    return f"""## How it was measured

`{_COMMAND}` trains, measures and writes this page; its records are in
`reports/runs/architectures/`. Each network is trained {trainings} time(s) on {TRAIN_IMAGES:,}
images of 32x32 (accuracy on {TEST_IMAGES:,} others, the first {EXPLAINED} of which are explained,
for the predicted class). `comparisons/architectures/networks.py` has the networks and recipes,
whose trainings are short.{machine}"""


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found
