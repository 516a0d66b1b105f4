"""Provenance of the numbers: images, plan, machine, and the list of all records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, metadata
from itertools import pairwise
from pathlib import PurePath
from typing import Any

import pandas as pd

from evaluation.masking.variants import Variant
from evaluation.training.recipe import RECIPES, Recipe, recipe_name
from reports.formatting import duration, slug, trace
from reports.records.frames import VARIANT_COLUMNS
from reports.records.run import Run

__all__ = ["origin_of", "set_up", "traced"]


def origin_of(run: Run) -> dict[str, str]:
    """The run's name, the dates and commits of its cells, its version and the project's address.

    Args:
        run: the run.

    Returns:
        Text by ``name``, ``dates``, ``commits``, ``version`` and ``project``; empty where it is
        not known. The name is that of the folder that the run's command names.
    """
    words = run.command.split()
    named = [after for word, after in pairwise(words) if word == "--out"]
    environments = [result.environment for result in run.results]

    def recorded(key: str) -> list[str]:
        return sorted({str(found[key]) for found in environments if found.get(key)})

    dates = recorded("date")
    return {
        "name": PurePath(named[0]).name if named else "",
        "dates": dates[0] if len(set(dates)) == 1 else " to ".join(dates[:: len(dates) - 1 or 1]),
        "commits": ", ".join(recorded("commit")),
        "version": ", ".join(recorded("fastsal") or run.all_records["version"].dropna().unique()),
        "project": _project(),
    }


def _project() -> str:
    """The project's address as the installed package states it; empty if it states none."""
    try:
        stated = metadata("fastsal").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    addresses = [entry.partition(",")[2].strip() for entry in stated]
    return next((address for address in addresses if address.startswith("https://")), "")


def set_up(run: Run) -> dict[str, Any]:
    """Everything that ``set_up.html.j2`` names of images, plan, machine and finished cells."""
    data = run.data
    facts = {
        "name": data.get("name"),
        "classes": _classes([str(name) for name in data.get("classes", ())]),
        "size": " × ".join(str(side) for side in data.get("size", ())),
        "training images": data.get("train"),
        "test images": data.get("test"),
        "channel mean": ", ".join(f"{value:.4f}" for value in data.get("mean", ())),
        "channel standard deviation": ", ".join(f"{value:.4f}" for value in data.get("std", ())),
        "true objects known": "yes" if data.get("has_object_masks") else "no",
        "skipped": len(data.get("skipped", ())),
    }
    kinds = dict.fromkeys(result.kind for result in run.results)
    return {
        "about_run": origin_of(run),
        "image_facts": list(facts.items()) if data else [],
        "skipped": list(data.get("skipped", ())),
        "options": _options(run),
        "planned_cost": _planned_cost(run),
        "environment": _environment(run),
        "finished": [
            (kind, len(run.cells(kind)), sum(cell.seconds for cell in run.cells(kind)))
            for kind in kinds
        ],
    }


def _options(run: Run) -> list[tuple[str, str]]:
    """The plan's options; a named recipe is followed by its description."""
    rows = []
    for name, value in run.options.items():
        rows.append((name, _readable(value)))
        recipe = recipe_name(Recipe(**value)) if name == "recipe" else None
        if recipe is not None:
            rows.append((f"recipe {recipe}", RECIPES[recipe].about))
    return rows


def _classes(names: Sequence[str]) -> str:
    """Names of classes; the first five of more than 20.

    >>> _classes(["cat", "dog"]), _classes([str(label) for label in range(1000)])
    ('cat, dog', '0, 1, 2, 3, 4, ... (1,000 in all)')
    """
    if len(names) <= 20:
        return ", ".join(names)
    return f"{', '.join(names[:5])}, ... ({len(names):,} in all)"


def _planned_cost(run: Run) -> str:
    """The cost stated in the plan's file, and that of the finished cells; empty without a file."""
    said = run.plan_file.get("said", {})
    if "device_seconds" not in said or "trainings" not in said:
        return ""
    took = sum(result.seconds for result in run.results)
    return (
        f"It said {said['trainings']:,} trainings and {duration(said['device_seconds'])} of one "
        f"worker in all; the cells finished so far took {duration(took)}."
    )


def _environment(run: Run) -> list[tuple[str, str]]:
    """Versions and hardware, with every value that the cells recorded."""
    facts: dict[str, dict[str, None]] = {}
    for result in run.results:
        for name, value in result.environment.items():
            facts.setdefault(name, {})[_readable(value)] = None
    versions = run.all_records["version"].dropna().unique().tolist()
    own = [("fastsal", "; ".join(versions))] if versions and "fastsal" not in facts else []
    found = own + [(name, "; ".join(values)) for name, values in facts.items()]
    waited = run.all_records[run.all_records["metric"] == "data_wait_share"]["value"]
    if len(waited):
        said = f"median {100 * waited.median():.1f} %, at most {100 * waited.max():.1f} %"
        found.append(("time of a training that waited for data", said))
    return found


def _readable(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_readable(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_readable(part) for part in value) or "–"
    return "–" if value is None else str(value)


def traced(records: pd.DataFrame, first: Variant) -> list[tuple[str, list[dict[str, Any]]]]:
    """Records in groups, each with the id that the numbers made of it link to.

    Args:
        records: all records.
        first: the variant of the page's numbers; other variants are in groups of their own.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    order = ["metric", "method", "mode", "fraction", "seed"]
    for row in records.sort_values(order).to_dict("records"):
        shown = {str(key): "" if pd.isna(value) else value for key, value in row.items()}
        by_place = shown["metric"] in ("accuracy", "mask_only_accuracy")
        key = (
            trace(
                shown["metric"],
                shown["method"],
                shown["mode"],
                None if shown["fraction"] == "" else float(shown["fraction"]),
            )
            if by_place
            else trace(shown["metric"], shown["method"])
        )
        if shown["layer"]:
            key += f"-{slug(shown['layer'])}"
        other = Variant(**{name: row[name] for name in VARIANT_COLUMNS})
        shown["variant"] = "" if other == first else other.title or "as the protocol"
        if shown["variant"] and shown["mode"] != "unmasked":
            key += f"-{slug(shown['variant'])}"
        groups.setdefault(key, []).append(shown)
    return list(groups.items())
