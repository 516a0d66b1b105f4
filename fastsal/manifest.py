"""What `fastsal maps` has written: one JSON line an image, and what need not be done again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Manifest:
    """The file `manifest.jsonl` beside the pictures.

    A line is added when all pictures of its image are written, so that a process that is killed
    leaves an image either recorded or undone. Of two lines on one file the later counts.

    Args:
        folder: Where the pictures go.

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
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
                self.entries[entry["file"]] = entry
            # The last line of a process that was killed while it wrote.
            except (ValueError, KeyError, TypeError):
                continue
        if len(lines) != len(self.entries):
            self.rewrite()

    def add(self, entry: Entry) -> None:
        """Add the line of one image and hand it to the disk."""
        self.entries[entry["file"]] = entry
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewrite(self) -> None:
        """Write one line an image, in the order first seen; whole or not at all."""
        partial = self.path.with_suffix(".partial")
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in self.entries.values()]
        partial.write_text("".join(lines), encoding="utf-8")
        partial.replace(self.path)

    def is_done(self, file: str, sha256: str, settings: Mapping[str, Any]) -> bool:
        """Tell whether an image of this content has its pictures, made with these settings."""
        entry = self.entries.get(file)
        return (
            entry is not None
            and entry.get("sha256") == sha256
            and entry.get("settings") == settings
            and "error" not in entry
            and all((self.folder / name).is_file() for name in entry["pictures"].values())
        )

    def stem(self, file: str, wanted: str) -> str:
        """Return a name for the pictures of a file that no other file's pictures have."""
        taken = {entry.get("stem"): name for name, entry in self.entries.items()}
        stem, number = wanted, 1
        while taken.get(stem, file) != file:
            number += 1
            stem = f"{wanted}-{number}"
        return stem


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        # hashlib.file_digest came with Python 3.11.
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
