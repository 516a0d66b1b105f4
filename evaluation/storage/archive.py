"""Recorded runs on disk: a run's own folder, or an archive of it in four files.

An archive is ``plan.json``, ``records.parquet``, ``report.html`` and ``cells.zip``. The zip holds
what the page is made of: ``cells/<id>.json``, ``order.json`` (their ids, older ones first),
``gallery/<id>.npz``, and of each image set ``data/<id>/meta.json`` and ``data/<id>/shown.npz``,
the few test images of the galleries. The zip of a run that is not complete also holds ``models/``
and ``maps/``, as a run's folder has them. ``hashes.json`` has the hash of each member, checked
when it is read; archives from before it have the zip's own CRC-32 alone. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluation.storage.records import CellResult
from evaluation.storage.run_files import RunFiles, RunFolder
from evaluation.storage.sealed import Unfit, arrays_in, opened, sealed, sealed_arrays
from evaluation.storage.writing import write_atomically
from fastsal.files import PARTIAL, short_hash

__all__ = [
    "CELLS",
    "FILES",
    "ArchiveError",
    "Members",
    "RunArchive",
    "new_archive",
    "open_run",
    "page_members",
    "write_members",
]

CELLS = "cells.zip"
FILES = ("plan.json", "records.parquet", CELLS, "report.html")
# Made of an archive on demand, and gone with it.
_ON_DEMAND = ("records.csv",)
_ORDER = "order.json"
_HASHES = "hashes.json"
_SHOWN = "shown.npz"
_PARTS_OF_TEST = ("test_labels", "test_images", "test_object_masks")
_DIGITS = 16
# Bytes that are copied at once.
_TOGETHER = 2**20
# The earliest time that a zip can say: the same run then gives the same bytes.
_TIME = (1980, 1, 1, 0, 0, 0)
# A name that stays inside its folder on every system.
_PART = re.compile(r"(?!\.)[\w.+-]+")
_FOLDERS = ("cells", "gallery", "data", "models", "maps")

# What goes into the zip: name inside it, and a file or the bytes themselves.
Members = Mapping[str, Path | bytes]
_T = TypeVar("_T")


class ArchiveError(ValueError):
    """Error of an archive that cannot be read or written; names the file and the fault."""


class RunArchive:
    """The archive of a run.

    Args:
        root: the folder of its four files.

    Raises:
        ArchiveError: ``cells.zip`` is damaged, or has a member that an archive does not have.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._zip = root / CELLS
        self._names = self._read(lambda file: frozenset(file.namelist()))
        for name in sorted(self._names):
            if not _is_member(name):
                raise ArchiveError(f"{self._zip} is no archive of a run: it holds {name!r}")
        self._hashes: Mapping[str, str] | None = None
        if _HASHES in self._names:
            self._hashes = self._parsed(_HASHES, lambda content: opened(content)[0])
            differ = sorted(self._names ^ {*self._hashes, _HASHES})
            if differ:
                raise ArchiveError(f"{self._zip} is damaged: {_HASHES} does not list {differ[0]!r}")

    def results(self) -> list[CellResult]:
        """Every finished cell, older ones first as ``order.json`` says."""
        order = self._parsed(_ORDER, lambda content: [str(cell) for cell in json.loads(content)])
        listed = [f"cells/{cell}.json" for cell in order]
        if sorted(listed) != sorted(name for name in self._names if name.startswith("cells/")):
            raise ArchiveError(f"{self._zip} is damaged: {_ORDER} does not list its cells")

        def parsed(file: zipfile.ZipFile, name: str) -> CellResult:
            result = self._parse(name, self._checked(name, file.read(name)), CellResult.from_json)
            if name != f"cells/{result.id}.json":
                raise ArchiveError(f"{self._zip} is damaged: {name} holds cell {result.id!r}")
            return result

        return self._read(lambda file: [parsed(file, name) for name in listed])

    def gallery(self, cell: str) -> Mapping[str, NDArray[Any]] | None:
        """The arrays of ``gallery/<id>.npz``."""
        return self._npz(f"gallery/{cell}.npz")

    def image_facts(self, data: str) -> dict[str, Any]:
        """The content of ``data/<id>/meta.json``."""
        name = f"data/{data}/meta.json"
        if name not in self._names:
            return {}
        return self._parsed(name, lambda content: opened(content)[0])

    def of_test_images(self, data: str, name: str, index: Sequence[int]) -> NDArray[Any] | None:
        """Some entries of an array, of the images that galleries show."""
        shown = self._npz(f"data/{data}/{_SHOWN}")
        if shown is None or name not in shown or not np.isin(index, shown["index"]).all():
            return None
        chosen: NDArray[Any] = shown[name][np.searchsorted(shown["index"], index)]
        return chosen

    def unpack(self, out: Path) -> None:
        """Unpack the archive into a run's folder; files that are there stay as they are.

        Results come last and in their order, so that one that is there has what it left. Images
        are staged anew by the run itself.

        Args:
            out: the run's folder.

        Raises:
            ArchiveError: the zip is damaged.
            OSError: the disk is full.
        """
        results = self.results()
        others = sorted(
            name for name in self._names if name.partition("/")[0] in ("gallery", "models", "maps")
        )
        now = time.time_ns()
        for name in others:
            self._unpack_one(name, out)
        for place, result in enumerate(results):
            name = f"cells/{result.id}.json"
            if self._unpack_one(name, out):
                # A microsecond apart: pages take older results first.
                when = now - 1000 * (len(results) - place)
                os.utime(out / name, ns=(when, when))

    def _unpack_one(self, name: str, out: Path) -> bool:
        place = out.joinpath(*name.split("/"))
        if place.exists():
            return False

        def copied(target: Any) -> None:
            def copy(file: zipfile.ZipFile) -> None:
                digest = hashlib.sha256()
                with file.open(name) as source:
                    while part := source.read(_TOGETHER):
                        digest.update(part)
                        target.write(part)
                self._compare(name, digest)

            self._read(copy, name)

        write_atomically(place, copied)
        return True

    def _npz(self, name: str) -> Mapping[str, NDArray[Any]] | None:
        if name not in self._names:
            return None
        path = self._zip / name
        return self._parsed(
            name, lambda content: arrays_in(io.BytesIO(content), path.name, name=path)
        )

    def _parsed(self, name: str, parse: Callable[[bytes], _T]) -> _T:
        if name not in self._names:
            raise ArchiveError(f"{self._zip} is damaged: it has no {name}")
        content = self._read(lambda file: file.read(name), name)
        return self._parse(name, self._checked(name, content), parse)

    def _checked(self, name: str, content: bytes) -> bytes:
        """The content of a member, if it has the hash that the archive says."""
        self._compare(name, hashlib.sha256(content))
        return content

    def _compare(self, name: str, digest: hashlib._Hash) -> None:
        said = None if self._hashes is None else self._hashes[name]
        found = digest.hexdigest()[:_DIGITS]
        if said not in (None, found):
            raise ArchiveError(
                f"{self._zip} is damaged: {name} has the hash {found}, expected {said}"
            )

    def _parse(self, name: str, content: bytes, parse: Callable[[bytes], _T]) -> _T:
        try:
            return parse(content)
        except Unfit as error:
            raise ArchiveError(f"{self._zip} is damaged: {name} {error.why}") from error
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ArchiveError(f"{self._zip} is damaged: {name}: {error}") from error

    def _read(self, read: Callable[[zipfile.ZipFile], _T], name: str = "") -> _T:
        try:
            with zipfile.ZipFile(self._zip) as file:
                return read(file)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, KeyError) as error:
            of = f"{name}: " if name else ""
            raise ArchiveError(f"{self._zip} is damaged: {of}{error}") from error


def open_run(path: Path) -> RunFiles:
    """The files of a run: of an archive where `path` holds one, else of the run's own folder.

    Args:
        path: either folder.

    Raises:
        FileNotFoundError: `path` holds neither a plan nor a finished cell.
    """
    if (path / CELLS).exists():
        return RunArchive(path)
    if not (path / "plan.json").exists() and not any((path / "cells").glob("*.json")):
        raise FileNotFoundError(
            f"{path} is no run: expected plan.json or cells/*.json in it; "
            "give the directory that --out named"
        )
    return RunFolder(path)


def page_members(folder: RunFolder, results: Sequence[CellResult]) -> dict[str, Path | bytes]:
    """The members of an archive that a run's page is made of.

    Args:
        folder: the run.
        results: its finished cells, older ones first.
    """
    store = folder.store
    order = json.dumps([result.id for result in results], indent=0)
    members: dict[str, Path | bytes] = {_ORDER: order.encode()}
    shown: set[int] = set()
    for result in results:
        members[f"cells/{result.id}.json"] = store.cell(result.id)
        gallery = folder.gallery(result.id) if result.kind == "maps" else None
        if gallery is not None:
            members[f"gallery/{result.id}.npz"] = store.gallery(result.id)
            shown.update(int(image) for image in gallery["index"])
    index = sorted(shown)
    for result in results:
        facts = store.data(result.id) / "meta.json"
        if result.kind != "data" or not facts.exists():
            continue
        members[f"data/{result.id}/meta.json"] = facts
        parts = {
            name: part
            for name in _PARTS_OF_TEST
            if (part := folder.of_test_images(result.id, name, index)) is not None
        }
        if index and parts:
            packed = io.BytesIO()
            arrays = {"index": np.asarray(index), **parts}
            np.savez_compressed(packed, allow_pickle=False, **sealed_arrays(_SHOWN, arrays))
            members[f"data/{result.id}/{_SHOWN}"] = packed.getvalue()
    return members


def write_members(path: Path, members: Members) -> None:
    """Write ``cells.zip`` with the hash of each member; the same members give the same bytes.

    Args:
        path: of the zip.
        members: what goes into it.
    """
    hashes = {name: _hash_of(content) for name, content in members.items()}
    members = {**members, _HASHES: sealed(hashes, sort_keys=True).encode()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in sorted(members.items()):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            # All else is compressed already.
            packed = name.endswith(".json")
            entry.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            with file.open(entry, "w", force_zip64=True) as target:
                if isinstance(content, bytes):
                    target.write(content)
                else:
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, target)


def _hash_of(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return short_hash(content)
    digest = hashlib.sha256()
    with content.open("rb") as file:
        while part := file.read(_TOGETHER):
            digest.update(part)
    return digest.hexdigest()[:_DIGITS]


@contextmanager
def new_archive(place: Path) -> Iterator[Path]:
    """A folder to write an archive in, which is put at its place when all is written.

    Args:
        place: where the archive goes; an older one there is replaced.

    Raises:
        ArchiveError: `place` holds something that is no archive; nothing is written.
    """
    _refuse_others(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{place.name}-", dir=place.parent))
    old = partial.with_name(f"{partial.name}-replaced")
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp's 0700 would hide it from others
        if place.exists():
            place.rename(old)
        try:
            partial.rename(place)
        except OSError:
            if old.exists():
                old.rename(place)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _refuse_others(place: Path) -> None:
    if not place.exists():
        return
    if not place.is_dir():
        raise ArchiveError(f"{place} is a file: give a folder for the archive")
    names = sorted(path.name for path in place.iterdir())
    others = [name for name in names if name not in (*FILES, *_ON_DEMAND)]
    if others or (names and not {"plan.json", CELLS} <= set(names)):
        raise ArchiveError(
            f"{place} holds something else than an archive of a run, such as "
            f"{(others or names)[0]}: give another folder"
        )


def _is_member(name: str) -> bool:
    """True if an archive may have a member of this name, which stays inside its folder.

    >>> _is_member("cells/00ff.json"), _is_member("cells/../../evil.json"), _is_member("/cells/a")
    (True, False, False)
    """
    folder, *rest = name.split("/")
    if not rest:
        return name in (_ORDER, _HASHES)
    return folder in _FOLDERS and all(_PART.fullmatch(part) for part in rest)
