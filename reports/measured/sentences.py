"""Sentences on measures without retraining, made from the records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reports.analysis.answers import named
from reports.formatting import counted, score, spread
from reports.measured.scores import REFERENCES, Scored
from reports.records.run import Method, Run

__all__ = ["Said", "sentences", "title_of", "told_of"]

_MOST_NAMES = 4


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
    titles = {name: title_of(run.methods[name]) for name in found.methods}
    own = [name for name in found.methods if run.methods[name].group != "control"]
    if own:
        best = found.methods[own[0]].estimate
        yield (
            f"The best of {counted(len(own), 'method')} is {titles[own[0]]}, "
            f"{score(best.mean)}{spread(best, 1, 3)}."
        )
    for reference, differences in found.differences.items():
        groups: dict[str, list[str]] = {"Told above": [], "Told below": [], "Not told from": []}
        for name, each in differences.items():
            if run.methods[name].group != "control" or reference == REFERENCES[0]:
                way = "above" if each.estimate.mean > 0 else "below"
                groups[f"Told {way}" if each.told else "Not told from"].append(titles[name])
        yield from told_of(groups, titles[reference])


def told_of(groups: Mapping[str, Sequence[str]], reference: str) -> Iterator[str]:
    """A sentence for each group of methods: those that are told above a reference, below, not.

    Args:
        groups: titles of methods by what is said of them; an empty group has no sentence.
        reference: the reference's title.

    >>> list(told_of({"Told above": ["LaFAM", "FEM"], "Told below": []}, "random"))
    ['Told above random: LaFAM, FEM.']
    """
    every = [title for titles in groups.values() for title in titles]
    for said, titles in groups.items():
        if titles:
            others = [title for title in every if title not in titles]
            yield f"{said} {reference}: {_listed(titles, others)}."


def _listed(names: Sequence[str], others: Sequence[str]) -> str:
    """Names in a sentence; where they are many, by the few that are not among them.

    >>> _listed("abcde", []), _listed("abcde", "f"), _listed("abcde", "fghi"), _listed("abcd", [])
    ('all 5 methods', 'all 6 methods but f', 'a, b, c, d, e', 'a, b, c, d')
    """
    if len(names) <= _MOST_NAMES or len(others) > _MOST_NAMES - 1:
        return ", ".join(names)
    but = f" but {', '.join(others)}" if others else ""
    return f"all {len(names) + len(others)} methods{but}"


def title_of(method: Method) -> str:
    """A method's title in a sentence, in which commas stand between methods.

    Linear weights are the default, and are not said.

    >>> given = Method("mean-late", "Mean, late scales", "", {}, "smoe")
    >>> title_of(given), title_of(Method("mean-linear", "Mean, linear weights", "", {}, "smoe"))
    ('Mean (late scales)', 'Mean')
    """
    if method.group == "control":
        return named(method.title)
    title, _, setting = method.title.partition(", ")
    return title if setting in ("", "linear weights") else f"{title} ({setting})"
