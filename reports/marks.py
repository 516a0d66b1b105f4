"""Text that a command makes, in its place between two marks of a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer

from evaluation.storage.writing import write_atomically

__all__ = ["Marks"]


@dataclass(frozen=True)
class Marks:
    """Two lines of a page, between which a command puts what it makes.

    Args:
        begin: the line before, which names the command.
        end: the line after.
        what: what stands between them, for the message.
    """

    begin: str
    end: str
    what: str

    def put(self, page: str, made: str) -> str:
        r"""The page with a text between the marks, in place of the one that was there.

        Args:
            page: the whole page.
            made: the text.

        Raises:
            ValueError: the page does not have the two marks.

        >>> marks = Marks("<!-- a -->", "<!-- b -->", "the table")
        >>> marks.put("Costs\n<!-- a -->\n| old |\n<!-- b -->\n", "| new |").splitlines()[2]
        '| new |'
        """
        before, begin, rest = page.partition(self.begin)
        _, end, after = rest.partition(self.end)
        if not begin or not end:
            raise ValueError(
                f"expected the lines {self.begin!r} and {self.end!r} around {self.what}"
            )
        return f"{before}{self.begin}\n{made}\n{self.end}{after}"

    def write(self, path: Path, made: str) -> None:
        """Put a text between the marks of a page in a file, which is written whole or not at all.

        Args:
            path: of the page.
            made: the text.

        Raises:
            OSError: the file cannot be read or written.
            ValueError: the page does not have the two marks.
        """
        page = self.put(path.read_text(encoding="utf-8"), made).encode()
        write_atomically(path, lambda file: file.write(page))

    def deliver(self, make: Callable[[], str], into: Path | None) -> None:
        """Print what a command makes, or put it between the marks of a page.

        Args:
            make: makes the text.
            into: the page; None to print.

        Raises:
            typer.Exit: of 2, with one message, if the text cannot be made or the page not written.
        """
        try:
            made = make()
            if into is not None:
                self.write(into, made)
        except (OSError, ValueError, KeyError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from error
        if into is None:
            typer.echo(made)
