"""Staging: images written to disk in blocks, as arrays that processes memory-map.

A few megabytes of images are in memory, whatever their number. Images that were staged before a
kill are not read again: a journal beside each unfinished array holds its progress.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

from evaluation.datasets.channel_sums import ChannelSums
from evaluation.datasets.dataset import DatasetError, array_of
from evaluation.datasets.listing import Block, Listing, SplitListing
from evaluation.storage.array_files import ArrayFile, ResumableArray, unfinished_path
from evaluation.storage.hashes import content_hash
from evaluation.storage.sealed import read_sealed, sealed
from evaluation.storage.writing import write_atomically

__all__ = ["Progress", "stage_listing"]

# Called with the number of images done, and the number of all.
Progress = Callable[[int, int], object]

# Bytes that are staged between two entries of the journal, the most that a kill costs.
CHECKPOINT_BYTES = 64 * 2**20


@dataclass
class _Journal:
    """Progress of staging a split.

    Args:
        of: hash of the staged files; another hash means other images.
        listed: number of listed images done, skipped ones included.
        size: height and width of the images so far.
        sums: sums over their pixels.
        skipped: unreadable images: position in the listing, file, and reason.
        complete: True if all are done.
        chunks: the hash of each chunk of the arrays so far, by their part, one after the other.
    """

    of: str
    listed: int = 0
    size: tuple[int, ...] | None = None
    sums: ChannelSums = field(default_factory=ChannelSums)
    skipped: list[tuple[int, str, str]] = field(default_factory=list)
    complete: bool = False
    chunks: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, of: str) -> _Journal:
        """The journal of an earlier start with the same images, else a new one."""
        try:
            content = read_sealed(path)
            content["sums"] = ChannelSums(**content["sums"])
            content["size"] = content["size"] and tuple(content["size"])
            content["skipped"] = [tuple(entry) for entry in content["skipped"]]
            journal = cls(**content)
        except (OSError, ValueError, KeyError, TypeError):
            return cls(of)
        return journal if journal.of == of else cls(of)

    def write(self, path: Path) -> None:
        text = sealed(asdict(self)).encode()
        write_atomically(path, lambda file: file.write(text))

    @property
    def kept(self) -> int:
        """Number of images in the array."""
        return self.listed - len(self.skipped)

    def take(self, block: Block) -> None:
        """Count a written block."""
        self.skipped += [
            (self.listed + place, entry.path, entry.why) for place, entry in block.skipped
        ]
        self.listed += len(block)
        if len(block.images):
            self.size = block.images.shape[1:-1]
            self.sums.add(block.images)


def stage_listing(
    listing: Listing, folder: Path, *, of: str, progress: Progress | None = None
) -> str:
    """Read a listing's images and write them as arrays that several processes can map.

    ``meta.json`` comes last: a folder that has it is complete. After a kill, a new call continues
    behind the last images in the journal.

    Args:
        listing: the images.
        folder: the folder for the arrays.
        of: hash of the listing's request and files; with another one everything is staged anew.
        progress: called with the numbers of staged and of all images.

    Returns:
        The hash of all images and labels, as `evaluation.datasets.dataset.Dataset.content_hash`.

    Raises:
        DatasetError: images of different sizes, or a class without a readable image.
        OSError: the disk is full, or the files cannot be reached; staged images stay.
    """
    journals: dict[str, _Journal] = {}
    done = 0
    for name, split in listing.splits():
        size = journals["train"].size if journals else None
        staging = _SplitStaging(listing, name, folder, of)

        def tell(before: int = done, staging: _SplitStaging = staging) -> None:
            if progress is not None:
                progress(before + staging.journal.listed, len(listing))

        try:
            staging.run(size, tell)
        except DatasetError:
            # Staged images of a set that cannot be used are useless.
            for pattern in ("*.growing", "*.journal.json"):
                for path in folder.glob(pattern):
                    path.unlink()
            raise
        journals[name] = staging.journal
        done += len(split)
    train, test = journals["train"], journals["test"]
    # Read again, each chunk against its hash: the disk has what was written.
    found = content_hash(
        *(array_of(folder, of, name, part) for name in journals for part in ("images", "labels"))
    )
    meta = {
        "name": listing.name,
        "classes": list(listing.classes),
        "mean": list(train.sums.mean()),
        "std": list(train.sums.std()),
        "size": list(train.size or ()),
        "train": train.kept,
        "test": test.kept,
        "has_object_masks": listing.object_masks,
        "skipped": [
            {"path": path, "why": why}
            for journal in journals.values()
            for _, path, why in journal.skipped
        ],
        "of": of,
        "content": found,
        "hashed": True,
    }
    text = sealed(meta).encode()
    write_atomically(folder / "meta.json", lambda file: file.write(text))
    for path in folder.glob("*.journal.json"):
        path.unlink()
    return found


class _SplitStaging:
    """The staging of one split."""

    def __init__(self, listing: Listing, name: str, folder: Path, of: str) -> None:
        self._listing, self._name = listing, name
        self._split: SplitListing = dict(listing.splits())[name]
        self._noted = folder / f"{name}.journal.json"
        self._labels = folder / f"{name}_labels.npy"
        parts = ("images", "object_masks") if listing.object_masks else ("images",)
        self._paths = {part: folder / f"{name}_{part}.npy" for part in parts}
        self._arrays: dict[str, ResumableArray] = {}
        self._of = of
        of = f"{of} {self._split.hash()}"
        self.journal = _Journal.read(self._noted, of)
        try:
            self._reopen()
        except OSError:
            self.journal, self._arrays = _Journal(of), {}

    def run(self, size: tuple[int, ...] | None, tell: Callable[[], None]) -> None:
        """Read the remaining images and move the arrays to their places.

        Args:
            size: height and width of the images of the split before this one.
            tell: called after every block.
        """
        tell()
        try:
            if not self.journal.complete:
                self._read(size, tell)
            for array in self._arrays.values():
                array.finish()
        finally:
            for array in self._arrays.values():
                array.close()
            if not self._noted.exists():
                # Without a journal, the next start cannot continue them.
                for path in self._paths.values():
                    unfinished_path(path).unlink(missing_ok=True)

    def _read(self, size: tuple[int, ...] | None, tell: Callable[[], None]) -> None:
        journal, noted = self.journal, 0
        with closing(self._split.blocks(journal.listed, journal.size)) as blocks:
            for block in blocks:
                if len(block.images):
                    self._append(block, size)
                journal.take(block)
                noted += block.images.nbytes
                if noted >= CHECKPOINT_BYTES:
                    self._note()
                    noted = 0
                tell()
        labels = self._listing.check_read(self._name, [place for place, _, _ in journal.skipped])
        with ArrayFile(
            self._labels, labels.shape, "<i8", f"{self._of} {self._labels.stem}"
        ) as file:
            file.append(labels)
        journal.complete = True
        self._note()

    def _append(self, block: Block, size: tuple[int, ...] | None) -> None:
        if not self._arrays:
            found = block.images.shape[1:-1]
            self._listing.check_size(size, found)
            self._open(self._paths, found, kept=0)
        self._arrays["images"].append(block.images)
        if block.object_masks is not None:
            self._arrays["object_masks"].append(block.object_masks)

    def _note(self) -> None:
        # The arrays first: the journal may not be ahead of the disk.
        for array in self._arrays.values():
            array.sync()
        self.journal.chunks = {part: array.digests() for part, array in self._arrays.items()}
        self.journal.write(self._noted)

    def _reopen(self) -> None:
        """Open the arrays of an earlier start.

        Raises:
            OSError: a missing or too short array.
        """
        journal, paths = self.journal, dict(self._paths)
        if journal.size is None:
            return
        if journal.complete:
            # The kill may have come after some arrays were moved to their places.
            for part, path in self._paths.items():
                if not unfinished_path(path).exists():
                    path.stat()
                    del paths[part]
            self._labels.stat()
        self._open(paths, journal.size, journal.kept)

    def _open(self, paths: Mapping[str, Path], size: tuple[int, ...], kept: int) -> None:
        of_image = (*size, self._listing.channels)
        kinds = {"images": (of_image, "uint8"), "object_masks": (size, "bool")}
        for part, path in paths.items():
            self._arrays[part] = ResumableArray(
                path,
                *kinds[part],
                f"{self._of} {path.stem}",
                kept,
                self.journal.chunks.get(part, ()),
            )
