"""``plan.json``: the plan of a run in its folder, or in an archive of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparisons.plans.layers import LayersPlan
from comparisons.plans.plan import Plan
from comparisons.runs.session import RunError
from evaluation.storage.store import write_atomically

__all__ = ["PLAN", "PlanOnDisk", "keep_plan", "kind_of"]

PLAN = "plan.json"


@dataclass(frozen=True)
class PlanOnDisk:
    """The content of a ``plan.json``.

    Args:
        folder: its folder, of a run or of an archive.
        content: the whole file.
    """

    folder: Path
    content: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> PlanOnDisk | None:
        """Read the plan of a folder, or return None if there is none."""
        path = folder / PLAN
        return cls(folder, json.loads(path.read_text())) if path.exists() else None

    @classmethod
    def of_kind(cls, out: Path, kind: str) -> PlanOnDisk | None:
        """Read the plan of a run's folder, or return None for a new folder.

        Args:
            out: the run's folder.
            kind: of the run that asks: ``"run"``, ``"layers"`` or ``"profile"``.

        Raises:
            RunError: the folder holds a run of another kind.
        """
        found = cls.read(out)
        if found is not None and found.kind != kind:
            raise RunError(
                f"{out} holds what `python -m comparisons {found.kind}` made: give another --out"
            )
        return found

    @property
    def kind(self) -> str:
        """The command that made the run: ``"run"``, ``"layers"`` or ``"profile"``."""
        kind: str = self.content.get("kind", "run")
        return kind

    @property
    def plan(self) -> Plan | LayersPlan:
        """The options of a run of kind ``"run"`` or ``"layers"``."""
        options = self.content["plan"]
        return (Plan if self.kind == "run" else LayersPlan).from_json(options)

    def conflicts(self, plan: Plan | LayersPlan) -> list[str]:
        """Return the options that keep a plan of the same kind from sharing the folder."""
        options = self.content["plan"]
        if isinstance(plan, Plan):
            return Plan.from_json(options).conflicts(plan)
        return LayersPlan.from_json(options).conflicts(plan)

    def refuse_another(self, plan: Plan | LayersPlan) -> None:
        """Refuse to continue the run with another plan.

        Raises:
            RunError: an option that every cell depends on has changed.
        """
        changed = self.conflicts(plan)
        if changed:
            raise RunError(
                f"{self.folder} holds a run with another {', '.join(changed)}: give another "
                "--out, or the same options to continue it"
            )


def kind_of(plan: Plan | LayersPlan) -> str:
    """Return the kind of run that a plan is for.

    >>> kind_of(LayersPlan("shapes", "resnet9", ("mean",)))
    'layers'
    """
    return "run" if isinstance(plan, Plan) else "layers"


def keep_plan(out: Path, content: Mapping[str, Any]) -> None:
    """Write ``plan.json`` of a run.

    Args:
        out: the run's folder.
        content: the whole file.
    """
    text = json.dumps(content, indent=1).encode()
    write_atomically(out / PLAN, lambda file: file.write(text))
