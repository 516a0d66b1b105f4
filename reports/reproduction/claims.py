"""A claim of the paper with our figure beside it, and the registry of sections of claims.

To add claims, decorate a function from runs to claims with `section`; the page shows them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fastsal.registry import Registry
from reports.records.run import Run

__all__ = [
    "OWN_COMMAND",
    "SECTIONS",
    "Claim",
    "Claims",
    "command_of",
    "nearest",
    "of_kind",
    "section",
]

OWN_COMMAND = "python -m reports.reproduction"

Rule = Literal["equal to", "at most", "at least", "more than"]
Verdict = Literal["held", "fails", "not told", "not measured", "other weights"]
_TESTS: dict[Rule, Callable[[float, float], bool]] = {
    "equal to": lambda ours, bound: math.isclose(ours, bound, rel_tol=1e-9),
    "at most": lambda ours, bound: ours <= bound,
    "at least": lambda ours, bound: ours >= bound,
    "more than": lambda ours, bound: ours > bound,
}


@dataclass(frozen=True)
class Claim:
    """A claim of the paper with our figure: one row of the page.

    Args:
        place: table or section of the paper.
        statement: the claim in words.
        claimed: the paper's figure, as printed.
        rule: relation of our figure to `bound` in which the claim holds.
        bound: in the unit of `ours`.
        ours: our figure; None if it was not measured, or is `unbounded`.
        unit: of `ours` and `bound`; empty for a plain number.
        paper: the paper's figure in the same unit, for the ratio; None for no ratio.
        measured_on: network, images, seeds or machine of our figure.
        command: the command that gives our figure.
        note: remark beside the verdict.
        cells: ids of the cells that measured our figure.
        told: False if another sample may decide otherwise: the figure is of one seed, or its
            interval holds `bound`. A count is always told.
        unbounded: True for a measured ratio whose divisor may be 0: any ratio is possible, so it
            has no figure and is not told.
        comparable: False for a figure of other weights than the published one, which can neither
            hold nor fail: it stands beside it.
    """

    place: str
    statement: str
    claimed: str
    rule: Rule
    bound: float
    ours: float | None
    unit: str = ""
    paper: float | None = None
    measured_on: str = ""
    command: str = OWN_COMMAND
    note: str = ""
    cells: tuple[str, ...] = ()
    told: bool = True
    unbounded: bool = False
    comparable: bool = True

    @property
    def ratio(self) -> float | None:
        """Our figure over the paper's; None if one of them is missing."""
        return None if self.ours is None or not self.paper else self.ours / self.paper

    @property
    def verdict(self) -> Verdict:
        """The verdict on the claim by our figure.

        >>> Claim("Table 6", "as many", "10", "at most", 10, ours=12).verdict
        'fails'
        >>> Claim("Table 5", "higher", "better", "more than", 0, ours=0.1, told=False).verdict
        'not told'
        """
        if self.ours is None:
            return "not told" if self.unbounded else "not measured"
        if not self.comparable:
            return "other weights"
        if not self.told:
            return "not told"
        return "held" if _TESTS[self.rule](self.ours, self.bound) else "fails"


Claims = Callable[[Sequence[Run]], Iterable[Claim]]
SECTIONS: Registry[Claims] = Registry("section of claims")


def section(title: str) -> Callable[[Claims], Claims]:
    """Register a function from runs to claims as a section of the page.

    Args:
        title: heading of the section.
    """

    def register(claims: Claims) -> Claims:
        SECTIONS.register(title, claims)
        return claims

    return register


def of_kind(runs: Iterable[Run], kind: str) -> list[Run]:
    """The runs of a kind: ``"run"``, ``"layers"`` or ``"profile"``."""
    return [run for run in runs if run.kind == kind]


def command_of(run: Run) -> str:
    """The command that started a run; the one that makes its page if that is not known."""
    return run.command or f"python -m reports {run.files.root}"


def nearest(ours: float, low: float, high: float) -> float:
    """The number of a range that is nearest to our figure.

    >>> nearest(5.1, 0.3, 1.0), nearest(0.5, 0.3, 1.0)
    (1.0, 0.5)
    """
    return min(max(ours, low), high)
