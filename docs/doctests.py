"""A Griffe extension: doctests of docstrings as code blocks of the reference."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

# A prompt, with the lines after it up to a blank one.
DOCTEST = re.compile(r"^( *)>>> .*(?:\n.*\S.*)*", re.MULTILINE)


def fenced(text: str) -> str:
    """Return a docstring with a code fence around each of its doctests."""
    return DOCTEST.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)


class FencedDoctests(Extension):
    """Fences the doctests of every docstring that is loaded."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Change the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
