"""A registry: named things of one kind."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

__all__ = ["Registry", "UnknownNameError", "similar_names"]

_SUGGESTED = 3

T = TypeVar("T")


class UnknownNameError(ValueError, KeyError):
    """A name that is not registered; the message lists those that are."""

    def __str__(self) -> str:
        # KeyError's own form would put the message in quotes.
        return str(self.args[0])


class Registry(dict[str, T]):
    """A dictionary of named things of one kind, in the order in which they were registered.

    Args:
        kind: One such thing, as messages call it: "statistic".

    Raises:
        UnknownNameError: From `registry[name]`, if the name is not registered.

    >>> measures = Registry("measure")
    >>> measures.register("area", abs)
    >>> measures["area"](-2), "volume" in measures
    (2, False)
    >>> measures["volume"]
    Traceback (most recent call last):
    fastsal.registry.UnknownNameError: unknown measure 'volume'; choose from ['area']
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, name: str, thing: T) -> None:
        """Add a thing under a name of its own.

        Raises:
            ValueError: If the name is taken.
        """
        if name in self:
            raise ValueError(f"a {self.kind} named {name!r} is registered already")
        self[name] = thing

    def __missing__(self, name: str) -> T:
        raise UnknownNameError(f"unknown {self.kind} {name!r}; choose from {sorted(self)}")


def similar_names(name: str, known: Iterable[str]) -> str:
    """Return the known names that are most like a mistyped one, as a question, or "" without any.

    Example:
        >>> similar_names("resnet5O", ["resnet18", "resnet50", "vgg11"])
        "did you mean 'resnet50' or 'resnet18'?"
        >>> similar_names("abacus", ["resnet18"])
        ''
    """
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=_SUGGESTED)
    *others, last = [repr(by_lower[one]) for one in close] or [""]
    words = f"{', '.join(others)} or {last}" if others else last
    return f"did you mean {words}?" if words else ""
