"""What `fastsal maps` has written: one JSON line an image, and what need not be done again."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.files import written_whole

Entry = dict[str, Any]

# What a file system without locks answers, as some shared ones are.
_NO_LOCKS = frozenset((errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS))


class BusyError(ValueError):
    """A folder that another process writes."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, which is there, for this run alone.

    The operating system lets go of it when the process ends, however that comes about: nothing
    stale is left. Where the file system has no locks nothing is held.

    Args:
        folder: Where pictures and manifest go.

    Raises:
        BusyError: A ValueError, if another run holds it.
        OSError: If the folder cannot be opened.
    """
    try:
        descriptor = _locked(folder)
    except (BlockingIOError, FileExistsError) as error:
        raise BusyError(
            f"another run writes to {folder}; wait for it, or give this one another folder"
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)


if sys.platform == "win32":

    def _locked(folder: Path) -> int:
        # Folders cannot be locked; a file like this one goes with the process.
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_TEMPORARY
        return os.open(folder / ".fastsal-lock", flags)
else:
    import fcntl

    def _locked(folder: Path) -> int:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
        return descriptor


class Manifest:
    """The file `manifest.jsonl` beside the pictures.

    A line is added when all pictures of its image are written, so that a process that is killed
    leaves an image either recorded or undone. Of two lines on one file the later counts. One
    process at a time may write it: `held` sees to that.

    Args:
        folder: Where the pictures go.

    Raises:
        ValueError: If the file holds other lines than a manifest's. The last may be torn, as a
            process that is killed while it writes leaves it; it is dropped.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     manifest = Manifest(Path(folder))
    ...     manifest.add({"file": "cat.jpg", "pictures": {}})
    ...     Manifest(Path(folder)).entries["cat.jpg"]
    {'file': 'cat.jpg', 'pictures': {}}
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "manifest.jsonl"
        self.entries: dict[str, Entry] = {}
        self._file_of_stem: dict[str, str] = {}
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        *lines, torn = text.split("\n")
        for number, line in enumerate(lines, 1):
            self._hold(_entry(line, f"{self.path}, line {number}"))
        if torn or len(lines) != len(self.entries):
            self.rewrite()

    def add(self, entry: Entry) -> None:
        """Add the line of one image and hand it to the disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))
            file.flush()
            os.fsync(file.fileno())
        self._hold(entry)

    def begin(self, file: str) -> None:
        """Take back what is recorded of a file, and its pictures, before it is done anew.

        The line goes first: after a kill none vouches for pictures that are in part renewed.
        """
        before = self.entries.get(file)
        if before is not None:
            self.add({"file": file, "error": "interrupted"})
            for name in before.get("pictures", {}).values():
                (self.folder / name).unlink(missing_ok=True)

    def rewrite(self) -> None:
        """Write one line an image, in the order first seen; whole or not at all."""
        with written_whole(self.path) as partial:
            partial.write_text("".join(map(_line, self.entries.values())), encoding="utf-8")

    def is_done(self, file: str, sha256: str, settings: Mapping[str, Any]) -> bool:
        """Tell whether an image of this content has its pictures, made with these settings."""
        entry = self.entries.get(file)
        return (
            entry is not None
            and "error" not in entry
            and entry.get("sha256") == sha256
            and entry.get("settings") == settings
            and all((self.folder / name).is_file() for name in entry["pictures"].values())
        )

    def stem(self, file: str, wanted: str) -> str:
        """Return the name of a file's pictures: that of before, else one no other file has."""
        before = self.entries.get(file, {}).get("stem")
        if before is not None:
            return str(before)
        stem, number = wanted, 1
        while self._file_of_stem.get(stem, file) != file:
            number += 1
            stem = f"{wanted}-{number}"
        return stem

    def _hold(self, entry: Entry) -> None:
        self.entries[entry["file"]] = entry
        if "stem" in entry:
            self._file_of_stem[entry["stem"]] = entry["file"]


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        # hashlib.file_digest came with Python 3.11.
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def weights_hash(network: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers of a network, in hexadecimal.

    >>> weights_hash(nn.ReLU())[:8]
    'e3b0c442'
    """
    digest = hashlib.sha256()
    for key, value in network.state_dict().items():
        digest.update(key.encode())
        if isinstance(value, Tensor):
            content = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(content.numpy().tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def _line(entry: Entry) -> str:
    # Escaped to ASCII: a file's name need not be valid Unicode.
    return json.dumps(entry) + "\n"


def _entry(line: str, place: str) -> Entry:
    try:
        entry = json.loads(line)
        if isinstance(entry["file"], str):
            return entry  # type: ignore[no-any-return]
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(
        f"{place} is not one of fastsal's: {line[:60]!r}; move the file away or give another folder"
    )
