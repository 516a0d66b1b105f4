"""Stored files that do not fit are set aside, not deleted; notes say which and why."""

from __future__ import annotations

import os
from pathlib import Path

from evaluation.storage.sealed import Unfit

__all__ = ["SET_ASIDE", "Notes", "set_aside"]

# Folder of a run for what was set aside, and the file in it that says why.
SET_ASIDE = "set-aside"
_WHY = "why.txt"


class Notes:
    """What processes of a run have to say to its user, a line each, in the run's folder.

    Workers may be on other machines, without a terminal: they append, the driver reads.

    Args:
        root: the run's folder.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / ".notes.txt"
        self._read = 0

    def clear(self) -> None:
        """Forget the notes of an earlier start."""
        self._path.unlink(missing_ok=True)
        self._read = 0

    def add(self, sentence: str) -> None:
        """Say a sentence."""
        _append(self._path, sentence)

    def new(self) -> list[str]:
        """The sentences since the last call; half a line waits for the next one."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                whole, _, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._read += len(whole) + bool(whole)
        return whole.decode(errors="replace").splitlines()


def set_aside(root: Path, found: Unfit, then: str) -> str:
    """Move what does not fit out of the way, and note why.

    Args:
        root: the folder that the file belongs to, of a run or of a machine's copies.
        found: the file and what is wrong with it. Another process may have moved it.
        then: what will happen, to follow "it is set aside in ..., and".

    Returns:
        The sentence that says so; empty if another process was first.
    """
    if found.path is None or not os.path.lexists(found.path):
        sentence = f"{found.fault}. It is {then}"
    else:
        folder = root / SET_ASIDE
        place = _free(folder / found.path.relative_to(root))
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            found.path.rename(place)
        except FileNotFoundError:  # another process was first
            return ""
        sentence = f"{found.fault}. It is set aside as {place}, and {then}"
        _append(folder / _WHY, sentence)
    return sentence


def _free(place: Path) -> Path:
    """The first of ``place``, ``place.1``, ``place.2`` and so on that does not exist."""
    number, free = 0, place
    while os.path.lexists(free):
        number += 1
        free = place.with_name(f"{place.name}.{number}")
    return free


def _append(path: Path, sentence: str) -> None:
    line = " ".join(sentence.split()) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:  # one write, which does not mix with others
        file.write(line.encode())
