"""Images in class folders inside one tar file, read where they lie in it."""

from __future__ import annotations

import io
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from evaluation.datasets.dataset import DatasetError
from evaluation.datasets.image_files import FilePixels, Transform, image_extensions
from evaluation.datasets.listing import Names, SplitListing

__all__ = ["TarFolders", "read_bytes", "tar_members"]


def tar_members(path: Path, what: str = "tar file") -> Iterator[tarfile.TarInfo]:
    """The members of a tar file that is not compressed.

    Args:
        path: the file.
        what: the file in messages.

    Raises:
        DatasetError: a broken, compressed or truncated file.
    """
    end = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined] # else tarfile keeps them all
                yield member
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        with path.open("rb") as file:
            file.seek(end)
            # Without the empty block at the end, a file cut off between two members looks whole.
            whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
        why = "" if whole else "its end is missing"
    except (tarfile.TarError, EOFError) as error:
        why = str(error)
    if why:
        raise DatasetError(
            f"{what} {str(path)!r} is broken ({why}): copy or write it again, uncompressed, or "
            "remove it"
        )


def read_bytes(path: Path, start: int, length: int) -> io.BytesIO:
    """The bytes of a member of a tar file."""
    with path.open("rb") as file:
        file.seek(start)
        return io.BytesIO(file.read(length))


@dataclass
class TarFolders:
    """The images in ``SPLIT/CLASS/`` of a tar file; a folder around all of them is left out.

    Args:
        path: the tar file.
        members: start and length of each image by its name, by split and class.
    """

    path: Path
    members: dict[str, dict[str, dict[str, tuple[int, int]]]] = field(default_factory=dict)

    @classmethod
    def index(cls, path: Path) -> TarFolders:
        """The index of a tar file.

        Raises:
            DatasetError: a broken, compressed or truncated file.
        """
        known = image_extensions()
        found: list[tuple[tuple[str, ...], int, int]] = []
        for member in tar_members(path):
            place = PurePosixPath(member.name)
            parts = tuple(part for part in place.parts if part not in (".", "/"))
            hidden = any(part.startswith(".") for part in parts)
            if member.isfile() and not hidden and place.suffix.lower() in known:
                found.append((parts, member.offset_data, member.size))
        outermost = {parts[0] for parts, _, _ in found}
        around = len(outermost) == 1 and all(len(parts) > 3 for parts, _, _ in found)
        folders = cls(path)
        for parts, start, length in found:
            inner = parts[1:] if around else parts
            if len(inner) > 2:
                of_class = folders.members.setdefault(inner[0], {}).setdefault(inner[1], {})
                of_class["/".join(inner)] = start, length
        return folders

    def split(self, names: Sequence[str], expected: str) -> str:
        """The name of a split's folder: the first of several names that is there.

        Args:
            names: possible names, the likeliest first.
            expected: the layout, for the message.

        Raises:
            DatasetError: none of them is there.
        """
        for name in names:
            if name in self.members:
                return name
        others = f" (nor {', '.join(names[1:])})" if names[1:] else ""
        raise DatasetError(
            f"no folder {names[0]!r}{others} with images in {str(self.path)!r}: expected {expected}"
        )

    def listing(
        self, split: str, classes: Sequence[str], transform: Transform | None
    ) -> SplitListing:
        """The images of a split, by class and name as from folders.

        Args:
            split: its folder.
            classes: names of the class folders; the index of one is its label.
            transform: resizes and crops the images.
        """
        names, starts, lengths = Names(), array("q"), array("q")
        counts = []
        for of_class in (self.members[split][name] for name in classes):
            for name in sorted(of_class, key=_order):
                names.append(name)
                start, length = of_class[name]
                starts.append(start)
                lengths.append(length)
            counts.append(len(of_class))
        labels = np.repeat(np.arange(len(classes), dtype=np.int64), counts)
        path = self.path

        def open_image(index: int) -> io.BytesIO:
            return read_bytes(path, starts[index], lengths[index])

        return SplitListing(labels, FilePixels(names, open_image, transform), f"{path}/{split}")


def _order(name: str) -> tuple[tuple[int, str], ...]:
    """Files of a folder by name, then those of its subfolders."""
    *folders, file = name.split("/")
    return (*((1, folder) for folder in folders[2:]), (0, file))
