"""Verdicts on methods, told above, below or not told from a reference, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

from reports.records.run import Method

__all__ = ["VERDICTS", "Verdict", "named", "title_of", "told_of", "verdict_of"]

Verdict: TypeAlias = Literal["told above", "told below", "not told from"]
VERDICTS: tuple[Verdict, ...] = ("told above", "told below", "not told from")
# Names in a list before those that are not in it are said in their place.
_MOST_NAMES = 4
# People that a control is named after.
_NAMES = ("Sobel",)


def verdict_of(difference: float, told: bool) -> Verdict:
    """The verdict on a method's difference from a reference.

    Args:
        difference: the method's score less the reference's.
        told: True if it is told from 0.

    >>> verdict_of(0.2, True), verdict_of(-0.2, True), verdict_of(-0.2, False)
    ('told above', 'told below', 'not told from')
    """
    if not told:
        return "not told from"
    return "told above" if difference > 0 else "told below"


def told_of(
    verdicts: Mapping[str, Verdict], methods: Mapping[str, Method], reference: str
) -> Iterator[str]:
    """A sentence for each verdict that a method has.

    Args:
        verdicts: by name of the method.
        methods: by name, for their titles.
        reference: the reference's title in a sentence.

    >>> methods = {name: Method(name, name, "", {}, "cam") for name in ("LaFAM", "FEM")}
    >>> list(told_of({"LaFAM": "told above", "FEM": "told above"}, methods, "random"))
    ['Told above random: LaFAM, FEM.']
    """
    for verdict in VERDICTS:
        own = [title_of(methods[name]) for name, found in verdicts.items() if found == verdict]
        others = [title_of(methods[name]) for name, found in verdicts.items() if found != verdict]
        if own:
            yield f"{verdict[:1].upper()}{verdict[1:]} {reference}: {_listed(own, others)}."


def named(title: str) -> str:
    """A control's title in a sentence.

    >>> named("Centre disk"), named("Random"), named("Sobel edges")
    ('the centre disk', 'random', 'the Sobel edges')
    """
    if title == "Random":
        return "random"
    first = title if title.startswith(_NAMES) else f"{title[:1].lower()}{title[1:]}"
    return f"the {first}"


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


def _listed(names: Sequence[str], others: Sequence[str]) -> str:
    """Names in a sentence; where they are many, by the few that are not among them.

    >>> _listed("abcde", []), _listed("abcde", "f"), _listed("abcde", "fghi"), _listed("abcd", [])
    ('all 5 methods', 'all 6 methods but f', 'a, b, c, d, e', 'a, b, c, d')
    """
    if len(names) <= _MOST_NAMES or len(others) > _MOST_NAMES - 1:
        return ", ".join(names)
    but = f" but {', '.join(others)}" if others else ""
    return f"all {len(names) + len(others)} methods{but}"
