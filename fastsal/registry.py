"""A registry: named things of one kind."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["Registry", "UnknownNameError"]

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
