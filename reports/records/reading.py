"""Reading of a run from its folder or archive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.storage.archive import ArchiveError, RunArchive, open_run
from evaluation.storage.sealed import Unfit, read_sealed
from reports.records.frames import records_frame
from reports.records.run import GROUPS, Method, Run

__all__ = ["read_run"]


def read_run(path: Path) -> Run:
    """Read a finished or partly finished run.

    Args:
        path: the run's folder, or an archive of it.

    Raises:
        FileNotFoundError: `path` holds neither a plan nor a finished cell.
        ValueError: a file of the run is not what was stored, or the archive is damaged.
    """
    files = open_run(path)
    plan_path = path / "plan.json"
    try:
        plan = read_sealed(plan_path) if plan_path.exists() else {}
    except Unfit as unfit:
        if isinstance(files, RunArchive):
            raise ArchiveError(f"{unfit.fault}; copy the archive again") from unfit
        raise
    results = files.results()
    records = records_frame(results)
    dataset, model = _subject(records)
    return Run(
        files=files,
        options=plan.get("plan", {}),
        command=plan.get("command", ""),
        methods=_methods(plan, records),
        results=results,
        all_records=records,
        dataset=dataset,
        model=model,
        kind=plan.get("kind", "run"),
        layers=tuple(plan.get("layers", ())),
        log_base=plan.get("log_base"),
        plan_file=plan.get("plan_file", {}),
    )


def _subject(records: pd.DataFrame) -> tuple[str | None, str | None]:
    """The image set and network of most records."""
    pairs = Counter(zip(records["dataset"], records["model"], strict=True))
    return pairs.most_common(1)[0][0] if pairs else (None, None)


def _methods(plan: Mapping[str, Any], records: pd.DataFrame) -> dict[str, Method]:
    described: Mapping[str, Mapping[str, Any]] = plan.get("methods", {})
    listed = plan.get("plan", {}).get("methods", ())
    names = dict.fromkeys([*(name for name in listed if name in described), *described])
    names |= dict.fromkeys(name for name in records["method"].tolist() if name != "none")
    found = []
    for name in names:
        about = described.get(name, {})
        group = about.get("group", "other")
        found.append(
            Method(
                name=name,
                title=about.get("title", name),
                citation=about.get("citation", ""),
                parameters=about.get("parameters", {}),
                group=group if group in GROUPS else "other",
            )
        )
    order = list(GROUPS)
    return {m.name: m for m in sorted(found, key=lambda method: order.index(method.group))}
