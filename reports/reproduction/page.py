"""The page of claims, and its rows as a table."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.hardware import source_commit
from evaluation.storage.writing import write_atomically
from fastsal import __version__
from reports.formatting import digits
from reports.pages.provenance import origin_of
from reports.pages.rendering import rendered
from reports.records.reading import read_run
from reports.records.run import Run
from reports.reproduction import counted, others, printed, profiled, retrained
from reports.reproduction.claims import SECTIONS, Claim

__all__ = ["RUNS", "build", "claims_of", "committed_runs", "figure", "frame_of"]

# Recorded runs, each in a folder of its own; the page of claims has one there too.
RUNS = Path(__file__).parents[1] / "runs"
# Modules that fill the registry of sections when they are imported.
_SOURCES = (counted, profiled, retrained, printed, others)
_ORDER = (
    "Operations (Table 6)",
    "Added work, counted",
    "Added work and memory, profiled",
    "Memory (section 4.1)",
    "Order of locations (A.1)",
    "Inside the network (Tables 1 and 4)",
    "On the input (Table 5)",
    "Fast-CAM in the place of Guided Backprop (section 4.2)",
    "The paper's tables against each other",
    "Figures of other groups",
)


def committed_runs() -> list[Path]:
    """The archives of recorded runs, sorted by name."""
    return sorted(path.parent for path in RUNS.glob("*/plan.json"))


def claims_of(runs: Sequence[Run]) -> dict[str, list[Claim]]:
    """All claims by the title of their section.

    Args:
        runs: finished or not, of any kind.
    """
    titles = sorted(SECTIONS, key=lambda title: _ORDER.index(title) if title in _ORDER else 99)
    return {title: list(SECTIONS[title](runs)) for title in titles}


def build(paths: Sequence[Path], out: Path) -> Path:
    """Write ``report.html``, ``records.csv`` and ``records.parquet``.

    Args:
        paths: folders of runs or of archives; a figure that none has reads "not measured".
        out: folder of the files.

    Returns:
        The page.

    Raises:
        FileNotFoundError: a path is no run.
    """
    runs = [read_run(path) for path in paths]
    sections = claims_of(runs)
    frame = frame_of(sections)
    verdicts = frame["verdict"].value_counts().to_dict()
    html = rendered(
        "reproduction.html.j2",
        {
            "sections": sections,
            "shown": shown,
            "figure": figure,
            "digits": digits,
            "held": verdicts.get("held", 0),
            "fails": verdicts.get("fails", 0),
            "untold": verdicts.get("not told", 0),
            "missing": verdicts.get("not measured", 0),
            "beside": verdicts.get("other weights", 0),
            "commands": _numbered(claim.command for own in sections.values() for claim in own),
            "environment": list(_environment().items()),
            "date": datetime.now(timezone.utc).date().isoformat(),
            "commit": source_commit(),
            "origins": [_named(run) for run in runs],
        },
    )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "records.csv", lambda file: frame.to_csv(file, index=False))
    write_atomically(out / "records.parquet", lambda file: frame.to_parquet(file, index=False))
    write_atomically(out / "report.html", lambda file: file.write(html.encode()))
    return out / "report.html"


def frame_of(sections: dict[str, list[Claim]]) -> pd.DataFrame:
    """Claims as a data frame, one a row; `ours` and `ratio` are NaN if nothing was measured."""
    rows: list[dict[str, Any]] = [
        {
            "section": title,
            "place": claim.place,
            "statement": claim.statement,
            "claimed": claim.claimed,
            "rule": claim.rule,
            "bound": float(claim.bound),
            "paper": claim.paper,
            "ours": claim.ours,
            "unit": claim.unit,
            "ratio": claim.ratio,
            "verdict": claim.verdict,
            "measured_on": claim.measured_on,
            "note": claim.note,
            "command": claim.command,
            "cells": " ".join(claim.cells),
            "version": __version__,
        }
        for title, claims in sections.items()
        for claim in claims
    ]
    numbers = dict.fromkeys(("paper", "ours", "ratio"), "float64")
    frame: pd.DataFrame = pd.DataFrame(rows).astype(numbers)
    return frame


def shown(claim: Claim) -> str:
    """Our figure of a claim in words; that of a ratio whose divisor may be 0 is not told.

    >>> common = ("here", "so", "4 times", "at least", 4.0)
    >>> shown(Claim(*common, ours=5.0, unit="times")), shown(Claim(*common, ours=None))
    ('5 times', 'not measured')
    >>> shown(Claim(*common, ours=None, unbounded=True))
    'not told'
    """
    return claim.verdict if claim.ours is None else figure(claim.ours, claim.unit)


def figure(value: float, unit: str) -> str:
    """A figure with its unit in words.

    >>> figure(9249093, "operations"), figure(2, "of 9"), figure(0.3, "%"), figure(50176, "B")
    ('9,249,093', '2 of 9', '0.3 %', '50.2 kB')
    """
    if unit == "operations":
        return f"{value:,.0f}"
    if unit.startswith("of "):
        return f"{value:g} {unit}"
    if unit == "B":
        return f"{value / 1000:.1f} kB"
    if unit in ("rank correlation", "share"):
        return f"{value:.4f}"
    if unit in ("%", "times"):
        return f"{digits(value)} {unit}"
    return "0" if value == 0 else f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def _numbered(commands: Iterable[str]) -> dict[str, str]:
    """Each command once, with the number that rows refer to."""
    return {command: str(index) for index, command in enumerate(dict.fromkeys(commands), 1)}


def _named(run: Run) -> dict[str, str]:
    """The origin of a run, under the name of its folder if its command names none."""
    found = origin_of(run)
    return {**found, "name": found["name"] or run.files.root.resolve().name}


def _environment() -> dict[str, str]:
    packages = ("torch", "torchvision", "captum", "numpy", "scipy")
    return {
        "fastsal": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
