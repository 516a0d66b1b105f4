"""Plan files: a plan with its estimated cost as one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from comparisons.plans.plan import Plan, PlanError
from evaluation.masking.variants import Variant
from evaluation.storage.store import write_atomically
from evaluation.training.retraining import Recipe
from fastsal.files import short_hash

__all__ = ["KIND", "VERSION", "PlanFile", "read_plan_file", "write_plan_file"]

KIND = "fastsal comparison plan"
VERSION = 1
# Options that every file of this version has; later ones may be missing.
_NEEDED = ("data", "model", "methods", "modes", "fractions", "seeds", "mask_only", "recipe")
# Entries of the cost that a run repeats.
_CITED = ("trainings", "device_seconds", "stored_bytes", "staged_bytes", "finished", "device")
_MAKE = "make one with `python -m comparisons plan --out FILE`"


@dataclass(frozen=True)
class PlanFile:
    """A plan that was read from a file.

    Args:
        plan: the options.
        name: of the file, without its folders.
        hash: SHA-256 of its content, 16 hex digits.
        cost: the estimated cost, as in the file.
        throughput: behind the cost, as in the file.
    """

    plan: Plan
    name: str
    hash: str
    cost: Mapping[str, Any]
    throughput: Mapping[str, Any]

    @property
    def citation(self) -> dict[str, Any]:
        """The file's name, hash and cost, as in a run's ``plan.json``."""
        said = {name: self.cost[name] for name in _CITED if name in self.cost}
        return {"file": self.name, "sha256": self.hash, "said": said}


def write_plan_file(path: Path, content: Mapping[str, Any]) -> None:
    """Write a plan file whole; the same content gives the same bytes.

    Args:
        path: the file.
        content: ``plan`` and what belongs to it; JSON without NaN and infinity.
    """
    whole = {"kind": KIND, "version": VERSION, **content}
    text = json.dumps(whole, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_plan_file(path: Path) -> PlanFile:
    """Read a file of `write_plan_file`.

    Raises:
        PlanError: the file is missing, no JSON, or of another kind or version, or its options are
            unknown or make no plan; the message says which and what to do.
    """
    try:
        content = path.read_bytes()
        read = json.loads(content)
    except OSError as error:
        raise PlanError(f"plan file {path}: {error.strerror}; {_MAKE}") from error
    except ValueError as error:
        raise PlanError(f"plan file {path} is no JSON ({error}); {_MAKE}") from error
    if not isinstance(read, dict) or read.get("kind") != KIND:
        raise PlanError(f"{path} is no plan file: it has no kind {KIND!r}; {_MAKE}")
    if read.get("version") != VERSION:
        raise PlanError(
            f"plan file {path} is of version {read.get('version')!r}, and this code reads "
            f"{VERSION}: make it anew with `python -m comparisons plan`"
        )
    try:
        plan = _plan(read.get("plan"))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise PlanError(f"plan file {path}: {error}") from error
    said = (read.get(name) for name in ("cost", "throughput"))
    cost, throughput = (part if isinstance(part, dict) else {} for part in said)
    return PlanFile(plan, path.name, short_hash(content), cost, throughput)


def _plan(options: object) -> Plan:
    """The plan of a file, after a check that its fields are known and complete."""
    _check_fields("plan", options, Plan)
    if not isinstance(options, dict):  # for mypy: _check_fields has raised
        raise TypeError("no plan")
    missing = [name for name in _NEEDED if name not in options]
    if missing:
        raise ValueError(f"plan lacks {', '.join(missing)}")
    _check_fields("recipe", options["recipe"], Recipe)
    for track in options.get("variants", ()):
        _check_fields("variants", track, Variant)
    return Plan.from_json(options)


def _check_fields(what: str, found: object, expected: type[Any]) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{what} is {found!r}: expected its options by name")
    names = [entry.name for entry in fields(expected)]
    unknown = [name for name in found if name not in names]
    if unknown:
        raise ValueError(
            f"{what} has {', '.join(map(repr, unknown))}, which this version does not know: "
            f"expected {', '.join(names)}"
        )
