"""Sentences on measures without retraining, made from the records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reports.formatting import counted, estimated
from reports.measured.scores import REFERENCES, Scored
from reports.records.run import Run
from reports.verdicts import title_of, told_of

__all__ = ["Said", "sentences"]


@dataclass(frozen=True)
class Said:
    """A score with what is said of it.

    Args:
        score: its title.
        text: a few sentences.
    """

    score: str
    text: str


def sentences(run: Run, found: Sequence[Scored]) -> list[Said]:
    """A few sentences on each score: the order, what is told from the first reference and what not.

    Args:
        run: for the methods' titles and groups.
        found: its scores.
    """
    return [Said(each.score.title, " ".join(_of_score(run, each))) for each in found]


def _of_score(run: Run, found: Scored) -> Iterator[str]:
    own = [name for name in found.methods if run.methods[name].group != "control"]
    if own:
        best = found.methods[own[0]].estimate
        yield (
            f"The best of {counted(len(own), 'method')} is {title_of(run.methods[own[0]])}, "
            f"{estimated(best)}."
        )
    for reference, differences in found.differences.items():
        verdicts = {
            name: each.verdict
            for name, each in differences.items()
            if run.methods[name].group != "control" or reference == REFERENCES[0]
        }
        yield from told_of(verdicts, run.methods, title_of(run.methods[reference]))
