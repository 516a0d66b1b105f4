"""Plan files: what is to be run, with what it was said to take, as one JSON file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from comparisons.plans.plan import Plan, PlanError
from evaluation.masking.variants import Variant
from evaluation.storage.store import write_atomically
from evaluation.training.retraining import Recipe

__all__ = ["KIND", "VERSION", "PlanFile", "read_plan_file", "write_plan_file"]

KIND = "fastsal comparison plan"
VERSION = 1
# A file of this version may lack what was added to plans since; these were there from the start.
_NEEDED = ("data", "model", "methods", "modes", "fractions", "seeds", "mask_only", "recipe")
# What a run repeats of the cost.
_CITED = ("trainings", "device_seconds", "stored_bytes", "staged_bytes", "finished", "device")
_MAKE = "make one with `python -m comparisons plan --out FILE`"


@dataclass(frozen=True)
class PlanFile:
    """A plan that was read from a file.

    Args:
        plan: the options.
        name: of the file, without its folders.
        hash: SHA-256 of its content, 16 hex digits.
        cost: what it was said to take, as the file has it.
        throughput: what that follows from, likewise.
    """

    plan: Plan
    name: str
    hash: str
    cost: Mapping[str, Any]
    throughput: Mapping[str, Any]

    @property
    def citation(self) -> dict[str, Any]:
        """As a run's ``plan.json`` names it."""
        said = {name: self.cost[name] for name in _CITED if name in self.cost}
        return {"file": self.name, "sha256": self.hash, "said": said}


def write_plan_file(path: Path, content: Mapping[str, Any]) -> None:
    """Write a plan file whole; the same content gives the same bytes.

    Args:
        path: the file.
        content: ``plan`` and whatever is said of it; JSON without NaN and infinity.
    """
    whole = {"kind": KIND, "version": VERSION, **content}
    text = json.dumps(whole, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_plan_file(path: Path) -> PlanFile:
    """Read what `write_plan_file` wrote.

    Raises:
        PlanError: no such file, no JSON, another kind or version, or options that this version
            does not know or that make no plan; says which and what to do.
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
    digest = hashlib.sha256(content).hexdigest()[:16]
    return PlanFile(plan, path.name, digest, cost, throughput)


def _plan(options: object) -> Plan:
    """The plan of a file, every field of it known and there."""
    _check_fields("plan", options, Plan)
    if not isinstance(options, dict):  # said above; here for the types
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
