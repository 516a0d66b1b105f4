"""Tables of added times by batch, one for each form and device, as Markdown of a page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from reports.costs.added_times import FORMS, SMOE, SUMS, Added, Place, added_times
from reports.costs.table import digits, interval
from reports.formatting import markdown_table
from reports.marks import Marks

__all__ = ["BATCH_MARKS", "tables_by_batch"]

BATCH_MARKS = Marks(
    "<!-- added times by batch: python -m reports.costs --batches -->",
    "<!-- end of the added times -->",
    "the added times by batch",
)
_FIRST = (SMOE, "smoe-late", "with-map", "fastcam", SUMS)
_PROFILED = FORMS[:3]
_NOT_MEASURED = "not measured"


def tables_by_batch(run: Path) -> str:
    """Added times of a profile in percent of the network alone, a column for each batch.

    Args:
        run: as for `reports.costs.added_times.added_times`.

    Returns:
        A heading and a table for each form, device and number of threads.
    """
    records = pd.read_parquet(run / "records.parquet")
    found = {
        (place, method): added
        for (place, method), added in added_times(records, run).items()
        if place.form in _PROFILED
    }
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    titles = {name: facts["title"] for name, facts in plan["methods"].items()}
    processors = records.loc[records["device"] == "cpu", "hardware"].dropna().unique()
    settings = dict.fromkeys(replace(place, network="", batch=0) for place, _ in found)
    order = sorted(
        settings, key=lambda one: (one.device != "cpu", _PROFILED.index(one.form), -one.threads)
    )
    parts = []
    for setting in order:
        own = {
            (place, method): added
            for (place, method), added in found.items()
            if replace(place, network="", batch=0) == setting
        }
        parts.append(f"**{_heading(setting, ' or '.join(processors))}**\n\n{_table(own, titles)}")
    return "\n\n".join(parts)


def _heading(setting: Place, processors: str) -> str:
    precision = "" if setting.precision == "float32" else f", {setting.precision}"
    if setting.device != "cpu":
        return f"{setting.form}, {setting.device}{precision}"
    threads = f"{setting.threads} thread{'s' if setting.threads > 1 else ''}"
    return f"{setting.form}, {threads} of {processors}{precision}"


def _table(found: Mapping[tuple[Place, str], Added], titles: Mapping[str, str]) -> str:
    batches = sorted({place.batch for place, _ in found})
    networks = list(dict.fromkeys(place.network for place, _ in found))
    lines = [["network", "map", *(f"batch {batch}" for batch in batches)]]
    lines.append(["---"] * len(lines[0]))
    for network in networks:
        by_batch = {
            (place.batch, method): added
            for (place, method), added in found.items()
            if place.network == network
        }
        methods = _methods(method for _, method in by_batch)
        # In the rounds of the first map: those of another one have their own.
        alone: dict[int, float] = {}
        for method in methods:
            for batch in batches:
                if (batch, method) in by_batch:
                    alone.setdefault(batch, by_batch[batch, method].alone_ms)
        lines.append(
            [
                network,
                "*the network alone*",
                *(
                    f"{digits(alone[batch])} ms" if batch in alone else _NOT_MEASURED
                    for batch in batches
                ),
            ]
        )
        for method in methods:
            cells = (by_batch.get((batch, method)) for batch in batches)
            lines.append(
                [network, titles[method], *(interval(one) or _NOT_MEASURED for one in cells)]
            )
    return markdown_table(lines)


def _methods(names: Iterable[str]) -> list[str]:
    """The methods of a network: those of fastsal and the floor first, then by name."""
    unique = set(names)
    return [*(one for one in _FIRST if one in unique), *sorted(unique - set(_FIRST))]
