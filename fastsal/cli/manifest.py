"""The manifest of `fastsal maps`: a JSON line for each image, with hashes and settings."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.files import written_whole

Entry = dict[str, Any]

# Errors of file systems without locks, as some shared ones are.
_NO_LOCKS = frozenset((errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS))


class BusyError(ValueError):
    """A folder to which another process writes."""


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock a folder against other runs for the duration of the block.

    The operating system removes the lock when the process ends, also after a kill. On a file system
    without locks this does nothing.

    Args:
        folder: An existing folder.

    Raises:
        BusyError: A ValueError, if another run has the lock.
        OSError: If the folder cannot be opened.
    """
    try:
        descriptor = _open_locked(folder)
    except (BlockingIOError, FileExistsError) as error:
        raise BusyError(
            f"another run writes to {folder}; wait for it, or give this one another folder"
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)


if sys.platform == "win32":

    def _open_locked(folder: Path) -> int:
        # Folders cannot be locked; this file disappears with the process.
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_TEMPORARY
        return os.open(folder / ".fastsal-lock", flags)
else:
    import fcntl

    def _open_locked(folder: Path) -> int:
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

    The line of an image is added after all its pictures, so that an image without a line is simply
    not done, also after a kill. The last line of a file counts. Only one process at a time may
    write: take `folder_lock` first.

    Args:
        folder: The folder of the pictures.

    Attributes:
        folder: The folder of the pictures.
        path: The manifest.
        entries: The last entry of every image file, by the file's name.

    Raises:
        ValueError: If a line is not a manifest's. The last line may be incomplete, as after a kill;
            it is dropped.

    Example:
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
        *lines, incomplete = text.split("\n")
        for number, line in enumerate(lines, 1):
            self._remember(_entry(line, f"{self.path}, line {number}"))
        if incomplete or len(lines) != len(self.entries):
            self.rewrite()

    def add(self, entry: Entry) -> None:
        """Append the line of one image and wait until it is on the disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))
            file.flush()
            os.fsync(file.fileno())
        self._remember(entry)

    def invalidate(self, file: str) -> None:
        """Mark an image as interrupted and delete its pictures, before they are written again.

        The line comes first, so that after a kill no line is valid beside a mix of old and new
        pictures.
        """
        before = self.entries.get(file)
        if before is not None:
            self.add({"file": file, "error": "interrupted"})
            for name in before.get("pictures", {}).values():
                (self.folder / name).unlink(missing_ok=True)

    def rewrite(self) -> None:
        """Replace the file by one line for each image, in the order of their first lines."""
        with written_whole(self.path) as partial:
            partial.write_text("".join(map(_line, self.entries.values())), encoding="utf-8")

    def is_done(self, file: str, sha256: str, settings: Mapping[str, Any]) -> bool:
        """Return True if an image has all its pictures, of this content and these settings."""
        entry = self.entries.get(file)
        return (
            entry is not None
            and "error" not in entry
            and entry.get("sha256") == sha256
            and entry.get("settings") == settings
            and all((self.folder / name).is_file() for name in entry["pictures"].values())
        )

    def check_settings(self, files: Iterable[str], settings: Mapping[str, Any]) -> None:
        """Refuse settings with which pictures of other settings would be overwritten.

        Args:
            files: The image files whose pictures are to be written.
            settings: Their settings.

        Raises:
            ValueError: If the folder has pictures of one of the files with other settings.
        """
        held = [
            self.entries[file]["settings"]
            for file in files
            if "error" not in self.entries.get(file, {"error": ""})
        ]
        others = [one for one in held if one != settings]
        if others:
            raise ValueError(
                f"{self.folder} holds maps of {len(others)} of these files that were made "
                f"otherwise: {_differences(others[0], settings)}; give --out another folder, or "
                "--overwrite to replace them"
            )

    def stem(self, file: str, wanted: str) -> str:
        """Return the common beginning of the names of an image's pictures.

        Args:
            file: The image file.
            wanted: The stem if no other file has it; else a number is added.

        Returns:
            The image's earlier stem, if it has one; else a new one.
        """
        before = self.entries.get(file, {}).get("stem")
        if before is not None:
            return str(before)
        stem, number = wanted, 1
        while self._file_of_stem.get(stem, file) != file:
            number += 1
            stem = f"{wanted}-{number}"
        return stem

    def _remember(self, entry: Entry) -> None:
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
    """Return the SHA-256 of a network's parameters and buffers, in hexadecimal.

    Example:
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
    # `json` escapes all but ASCII: a file's name need not be valid Unicode.
    return json.dumps(entry) + "\n"


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return up to three settings that differ, in words."""
    names = [name for name in (*here, *there) if there.get(name) != here.get(name)]
    shown = []
    for name in list(dict.fromkeys(names))[:3]:
        if name == "weights_sha256":
            shown.append("with other weights")
        else:
            values = [_in_words(name, settings.get(name)) for settings in (there, here)]
            shown.append(f"{name.replace('_', '-')} {values[0]}, now {values[1]}")
    return "; ".join(shown)


def _in_words(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "original" if name == "size" else "not given"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


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
