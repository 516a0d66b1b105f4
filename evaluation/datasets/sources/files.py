"""Image files below a folder: in class folders or in a list, and a hash of their names."""

from __future__ import annotations

import errno
import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.datasets.dataset import DatasetError
from evaluation.datasets.image_files import FilePixels, Transform, image_extensions
from evaluation.datasets.listing import Names, SplitListing

__all__ = ["class_names", "files_split", "in_class_folders", "listing_hash", "split_folder"]


def listing_hash(root: Path) -> str:
    """Hash of the names, sizes and times of all files under a folder, without reading them.

    Args:
        root: the folder, or one file.
    """
    digest = hashlib.sha256()
    if root.is_file():
        files: Iterable[tuple[str, os.stat_result]] = [(root.name, root.stat())]
    else:
        files = _files(root, "", _above(root) if root.is_dir() else ())
    for name, found in files:
        said = f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0"
        digest.update(said.encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _files(
    folder: Path | str, prefix: str, above: tuple[_Identity, ...]
) -> Iterator[tuple[str, os.stat_result]]:
    """Files below a folder, sorted by name; symbolic links are followed, but not in a circle."""
    if not os.path.isdir(folder):  # noqa: PTH112 - a million Path objects take their time
        return
    above = (*above, _identity(folder))
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if _leads_back(entry, above):
            continue
        if entry.is_dir():
            yield from _files(entry.path, f"{prefix}{entry.name}/", above)
        elif entry.is_file():
            yield prefix + entry.name, entry.stat()


# Device and number of a folder, the same by every link.
_Identity = tuple[int, int]


def _identity(folder: Path | str) -> _Identity:
    found = os.stat(folder)  # noqa: PTH116
    return found.st_dev, found.st_ino


def _leads_back(entry: os.DirEntry[str], above: tuple[_Identity, ...]) -> bool:
    """True for a link to a folder that it is in, or to itself: following it would never end."""
    if not entry.is_symlink():
        return False
    try:
        return _identity(entry.path) in above
    except OSError as error:
        return error.errno == errno.ELOOP


def _above(folder: Path) -> tuple[_Identity, ...]:
    """A folder and those that it is in, by its path and by where its links lead."""
    places = (folder, *folder.absolute().parents, *folder.resolve().parents)
    return tuple(_identity(place) for place in places)


def _say_skipped(path: str) -> None:
    warnings.warn(
        f"{path} is a link to a folder that it is in, and is skipped: its images would be listed "
        "again and again",
        stacklevel=2,
    )


def split_folder(root: Path, names: Sequence[str], expected: str) -> str:
    """The name of a split's folder: the first of several names that exists.

    Args:
        root: their parent folder.
        names: possible names of the folder, the likeliest first.
        expected: the layout, for the message.

    Raises:
        DatasetError: none of them exists.
    """
    for name in names:
        if (root / name).is_dir():
            return name
    others = f" (nor {', '.join(names[1:])})" if names[1:] else ""
    raise DatasetError(
        f"no folder {str(root / names[0])!r}{others}: expected {expected}; check the path after "
        "the colon of --data"
    )


def class_names(folder: Path) -> set[str]:
    """The names of the folders in a folder, without hidden ones and links that lead back."""
    above = _above(folder)
    names = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _leads_back(entry, above):
                _say_skipped(entry.path)
            elif entry.is_dir():
                names.add(entry.name)
    return names


def in_class_folders(
    root: Path, split: str, classes: Sequence[str], transform: Transform | None
) -> SplitListing:
    """The images below ``root/split/CLASS/``, by class and name.

    Args:
        root: folder that the images' names are relative to.
        split: folder of the split.
        classes: names of the class folders; the index of one is its label.
        transform: resizes and crops the images.

    Raises:
        DatasetError: a class folder without an image.
    """
    known = image_extensions()
    names = Names()
    counts = []
    for name in classes:
        before = len(names)
        folder = root / split / name
        if folder.is_dir():
            for file in _images(folder, f"{split}/{name}/", known, _above(folder)):
                names.append(file)
            if len(names) == before:
                raise DatasetError(
                    f"class folder {str(folder)!r} is empty: expected image files in it; "
                    "add some, or remove the class from both splits"
                )
        counts.append(len(names) - before)
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
    return files_split(root, names, labels, transform, where=root / split)


def _images(
    folder: Path | str, prefix: str, known: frozenset[str], above: tuple[_Identity, ...]
) -> Iterator[str]:
    """Images of a folder by name, then those of its subfolders."""
    ordered = []
    with os.scandir(folder) as entries:
        for entry in sorted((e for e in entries if e.name[0] != "."), key=lambda e: e.name):
            if _leads_back(entry, above):
                _say_skipped(entry.path)
            else:
                ordered.append(entry)
    inner = [entry for entry in ordered if entry.is_dir()]
    for entry in ordered:
        if os.path.splitext(entry.name)[1].lower() in known and entry not in inner:  # noqa: PTH122
            yield prefix + entry.name
    for entry in inner:
        inside = (*above, _identity(entry.path))
        yield from _images(entry.path, f"{prefix}{entry.name}/", known, inside)


def files_split(
    root: Path, names: Names, labels: NDArray[np.int64], transform: Transform | None, *, where: Path
) -> SplitListing:
    """A split whose images are files.

    Args:
        root: folder that the names are relative to.
        names: the files.
        labels: the class of each.
        transform: resizes and crops them.
        where: place of the images, for messages.

    Raises:
        DatasetError: no files, or the first does not exist.
    """
    if not names or not (root / names[0]).exists():
        first = f"{names[0]!r} is not in {str(root)!r}" if names else f"no image in {str(where)!r}"
        raise DatasetError(f"{first}: expected the images beside the list that names them")
    return SplitListing(labels, FilePixels(names, lambda i: root / names[i], transform), str(where))
