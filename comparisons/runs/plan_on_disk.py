"""``plan.json``: the plan of a run in its folder, or in an archive of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparisons.plans.layers import LayersPlan
from comparisons.plans.plan import Plan
from comparisons.runs.session import RunError
from evaluation.storage.sealed import Unfit, read_sealed, sealed
from evaluation.storage.writing import write_atomically

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
        """Read the plan of a folder, or return None if there is none.

        Raises:
            evaluation.storage.sealed.Unfit: the file is not what was stored.
        """
        path = folder / PLAN
        if not path.exists():
            return None
        content = read_sealed(path)
        if not isinstance(content.get("plan"), dict):
            raise Unfit(path, "has no options: expected them by name under 'plan'")
        return cls(folder, content)

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
        """The options of a run of kind ``"run"`` or ``"layers"``.

        Raises:
            evaluation.storage.sealed.Unfit: a plan from before hashes whose options make none.
            ValueError: an option that this version does not know.
        """
        options = self.content["plan"]
        try:
            return (Plan if self.kind == "run" else LayersPlan).from_json(options)
        except (KeyError, TypeError, AttributeError) as error:
            raise Unfit(
                self.folder / PLAN, f"has options that make no plan ({error}): expected all by name"
            ) from error

    def conflicts(self, plan: Plan | LayersPlan) -> list[str]:
        """Return the options that keep a plan of the same kind from sharing the folder."""
        mine = self.plan
        if isinstance(mine, Plan) and isinstance(plan, Plan):
            return mine.conflicts(plan)
        if isinstance(mine, LayersPlan) and isinstance(plan, LayersPlan):
            return mine.conflicts(plan)
        return ["kind"]

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
    text = sealed(content).encode()
    write_atomically(out / PLAN, lambda file: file.write(text))
