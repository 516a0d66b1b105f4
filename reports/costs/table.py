"""The README's table of costs: Markdown of the recorded added times, and its place in a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd

from reports.analysis.cost_claims import judged
from reports.costs.added_times import SMOE, SUMS, Added, Place, added_times
from reports.costs.form_goals import WITH_MAP, form_rows
from reports.formatting import markdown_table
from reports.marks import Marks

__all__ = ["MARKS", "RUN", "digits", "interval", "table"]

RUN = Path(__file__).parents[1] / "runs" / "profile"
MARKS = Marks(
    "<!-- table of costs: python -m reports.costs -->",
    "<!-- end of the table -->",
    "the table of costs",
)
# The paper's bound on the added time, in percent.
_PAPER = 1.0
_COLUMNS = {SMOE: "SMOE Scale", WITH_MAP: "`with_map`", "fastcam": "Fast-CAM"}
_PEERS = {"captum-layer-gradcam": "LayerGradCam", "guided-gradcam": "GuidedGradCam"}
_TWO_THREADS = Place("PyTorch", "resnet50", "cpu", "float32", 2, 1)
_NETWORKS = ("resnet50", "mobilenet_v3_large", "efficientnet_lite0")
_ENGINES = ("onnxruntime", "OpenVINO")


def _places(found: Mapping[tuple[Place, str], Added]) -> Iterator[Place]:
    """The rows of the table: those of places that were measured are shown."""
    yield _TWO_THREADS
    yield replace(_TWO_THREADS, batch=8)
    yield replace(_TWO_THREADS, network="mobilenet_v3_large")
    for network, batch in product(_NETWORKS, (1, 8)):
        yield replace(_TWO_THREADS, form="torch.compile", network=network, batch=batch)
    for engine in _ENGINES:
        for network in _NETWORKS:
            yield replace(_TWO_THREADS, form=engine, network=network, threads=1)
    gpus = dict.fromkeys(place.device for place, _ in found if place.device != "cpu")
    for device in gpus:
        for form in ("PyTorch", "CUDA graphs"):
            for batch in (1, 64):
                yield Place(form, "resnet50", device, "float32", 0, batch)


def table(run: Path) -> str:
    """The table of costs of a profile and of the engines measured beside it, as Markdown.

    Args:
        run: as for `reports.costs.added_times.added_times`.
    """
    found = added_times(pd.read_parquet(run / "records.parquet"), run)
    places = [
        place for place in _places(found) if any((place, method) in found for method in _COLUMNS)
    ]
    columns = {
        method: title
        for method, title in _COLUMNS.items()
        if any((place, method) in found for place in places)
    }
    head = ["where", "network alone", "sum", *columns.values(), "Captum's", "missed"]
    lines = [head, ["---"] * len(head)]
    for place in places:
        own = {method: found[place, method] for method in columns if (place, method) in found}
        peers = [
            f"{title} {digits(found[place, method].percent.median)}"
            for method, title in _PEERS.items()
            if (place, method) in found
        ]
        lines.append(
            [
                place.title,
                f"{digits(next(iter(own.values())).alone_ms)} ms",
                interval(found.get((place, SUMS))),
                *(interval(own.get(method)) for method in columns),
                ", ".join(peers),
                ", ".join(_missed(place, found)),
            ]
        )
    return markdown_table(lines)


def _missed(place: Place, found: Mapping[tuple[Place, str], Added]) -> Iterator[str]:
    """The bounds that a map at a place is told to miss."""
    smoe = found.get((place, SMOE)) if place.form == "PyTorch" else None
    if smoe is not None and judged(smoe.percent, _PAPER, at_most=True).words == "not met":
        yield "the paper's 1 %"
    for row in form_rows(found):
        if row.place == place and row.limit is not None and row.verdict.words == "not met":
            whose = "" if row.goal.method == SMOE else f" for {_COLUMNS[row.goal.method]}"
            yield f"our {row.limit.median:.2g} %{whose}"


def interval(added: Added | None) -> str:
    """The added percent of a place with its interval; nothing if it was not measured."""
    if added is None:
        return ""
    found = added.percent
    return f"{digits(found.median)} ({digits(found.low)} to {digits(found.high)})"


def digits(value: float) -> str:
    """Two digits, and whole numbers from 10 on.

    >>> digits(3.912), digits(0.048), digits(11.98), digits(-1.3)
    ('3.9', '0.0', '12', '-1.3')
    """
    return f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.1f}"
