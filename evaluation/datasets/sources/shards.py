"""WebDataset shards: tar files of many samples each."""

from __future__ import annotations

import io
import json
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evaluation.datasets.dataset import DatasetError
from evaluation.datasets.image_files import FilePixels, Transform, centre_crop
from evaluation.datasets.listing import Listing, Names, Request, SplitListing
from evaluation.datasets.sources.registry import source
from evaluation.datasets.sources.tar_files import read_bytes, tar_members

__all__ = ["webdataset"]

_IMAGES = ("jpg", "jpeg", "png", "webp")


@source(
    "webdataset",
    "train-*.tar and test-*.tar (or val-*.tar), samples of KEY.jpg (jpeg, png, webp) and KEY.cls; "
    "classes.json or classes.txt where there are names",
)
def webdataset(request: Request) -> Listing:
    """Shards as the webdataset package writes them; ``KEY.cls`` is the class as a whole number.

    The shards are indexed at every start, and their images read in place. Class names come from
    ``classes.json`` (a list), from ``classes.txt`` (one a line), or else are numbers. With an image
    size, the shorter side is resized to ``size * 256 / 224`` and the centre cropped.

    Raises:
        DatasetError: no such shards, a broken one, a sample without an image or a class, a class
            in one split only.
    """
    root = Path(request.argument)
    transform = centre_crop(request.image_size)
    index = {"train": _index(root, ("train",)), "test": _index(root, ("test", "val"))}
    present = {name: set(found.labels) for name, found in index.items()}
    classes = _classes(root, max(present["train"] | present["test"]))
    for here, there in (("train", "test"), ("test", "train")):
        lacking = sorted(present[there] - present[here])
        if lacking:
            raise DatasetError(
                f"class {', '.join(classes[label] for label in lacking)} is in the {there} shards "
                f"of {str(root)!r} but not in the {here} shards: expected it in both"
            )
    if len(present["train"]) < 2:
        raise DatasetError(f"{len(present['train'])} class in {str(root)!r}: expected at least 2")
    return Listing(
        root.resolve().name,
        classes,
        index["train"].listing(root, transform),
        index["test"].listing(root, transform),
        size=request.size,
    )


@dataclass
class _Index:
    """Positions of a split's images in its shards.

    Args:
        shards: the tar files, in order.
        names: name of each image in messages.
        shard: tar file of each image, as an index into `shards`.
        start: first byte of each image in its tar file.
        length: number of bytes of each image.
        labels: class of each image.
    """

    shards: list[Path]
    names: Names = field(default_factory=Names)
    shard: array[int] = field(default_factory=lambda: array("l"))
    start: array[int] = field(default_factory=lambda: array("q"))
    length: array[int] = field(default_factory=lambda: array("q"))
    labels: array[int] = field(default_factory=lambda: array("q"))

    def open(self, index: int) -> io.BytesIO:
        """Read the bytes of an image."""
        return read_bytes(self.shards[self.shard[index]], self.start[index], self.length[index])

    def listing(self, root: Path, transform: Transform | None) -> SplitListing:
        """The split as a listing."""
        labels = np.array(self.labels, dtype=np.int64)
        return SplitListing(labels, FilePixels(self.names, self.open, transform), str(root))


def _index(root: Path, prefixes: Sequence[str]) -> _Index:
    """The index of all shards of a split, in the order of their names."""
    for prefix in prefixes:
        shards = sorted(root.glob(f"{prefix}-*.tar"))
        if shards:
            break
    else:
        shown = " or ".join(f"{prefix}-*.tar" for prefix in prefixes)
        raise DatasetError(
            f"no shards {shown} in {str(root)!r}: expected samples of KEY.jpg and KEY.cls in tar "
            "files that are not compressed, such as webdataset.ShardWriter writes"
        )
    index = _Index(shards)
    for number, shard in enumerate(shards):
        for key, members in _samples(shard):
            _take(index, number, key, members)
    return index


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """The samples of a shard: consecutive files that share a key."""
    key, members = "", dict[str, tarfile.TarInfo]()
    for member in tar_members(shard, "shard"):
        folder, slash, file = member.name.rpartition("/")
        stem, _, extension = file.partition(".")
        if not member.isfile() or not stem:
            continue
        if folder + slash + stem != key:
            if members:
                yield key, members
            key, members = folder + slash + stem, {}
        members[extension.lower()] = member
    if members:
        yield key, members


def _take(index: _Index, number: int, key: str, members: dict[str, tarfile.TarInfo]) -> None:
    """Add one sample to the index."""
    shard = index.shards[number]
    image = next((members[extension] for extension in _IMAGES if extension in members), None)
    if image is None or "cls" not in members:
        lacking = "class (KEY.cls)" if image else f"image (KEY.{', KEY.'.join(_IMAGES)})"
        raise DatasetError(
            f"sample {key!r} of {str(shard)!r} has no {lacking}, only "
            f"{', '.join(sorted(members))}: expected both, next to each other"
        )
    label = members["cls"]
    with shard.open("rb") as file:
        file.seek(label.offset_data)
        text = file.read(label.size).decode(errors="replace").strip()
    if not text.isdecimal():
        raise DatasetError(
            f"sample {key!r} of {str(shard)!r} has the class {text!r}: expected a whole number "
            "from 0"
        )
    index.names.append(f"{shard.name}/{image.name}")
    index.shard.append(number)
    index.start.append(image.offset_data)
    index.length.append(image.size)
    index.labels.append(int(text))


def _classes(root: Path, largest: int) -> tuple[str, ...]:
    """The names of the classes, at least as many as the largest label needs."""
    listed, lines = root / "classes.json", root / "classes.txt"
    if listed.exists():
        path, names = listed, json.loads(listed.read_text())
    elif lines.exists():
        path, names = lines, lines.read_text().splitlines()
    else:
        return tuple(str(label) for label in range(largest + 1))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(f'{str(path)!r}: expected a list of names, such as ["cat", "dog"]')
    if len(names) <= largest:
        raise DatasetError(
            f"{str(path)!r} names {len(names)} classes, but a sample has class {largest}: "
            "expected a name for each class from 0"
        )
    return tuple(names)
