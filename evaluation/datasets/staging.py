"""Images written to disk a few at a time, so that processes can map them.

However many images there are, a few megabytes of them are in memory. What was staged before a
kill is not read again: a journal beside each growing array says how far it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from evaluation.datasets.channel_sums import ChannelSums
from evaluation.datasets.dataset import Dataset, DatasetError
from evaluation.datasets.listing import Block, Listing, SplitListing
from evaluation.storage.resumable_array import GrowingArray, growing_path
from evaluation.storage.store import content_hash, write_atomically

__all__ = ["Progress", "content_of", "same_images", "stage_listing", "staged_hash"]

# Told how many images are done, and how many there are.
Progress = Callable[[int, int], object]

# How much is staged between two notes in the journal: what a kill costs at most.
CHECKPOINT_BYTES = 64 * 2**20


@dataclass
class _Journal:
    """How far a split is staged.

    Args:
        of: hash of what is staged; with another one this journal is of other images.
        listed: images of the listing that are done, skipped ones included.
        size: height and width of the images so far.
        sums: over their pixels.
        skipped: images that could not be read: place in the listing, file, and why.
        complete: whether all are done.
    """

    of: str
    listed: int = 0
    size: tuple[int, int] | None = None
    sums: ChannelSums = field(default_factory=ChannelSums)
    skipped: list[tuple[int, str, str]] = field(default_factory=list)
    complete: bool = False

    @classmethod
    def read(cls, path: Path, of: str) -> _Journal:
        """The journal of an earlier start with the same images, or a new one."""
        try:
            content = json.loads(path.read_text())
            content["sums"] = ChannelSums(**content["sums"])
            content["size"] = content["size"] and tuple(content["size"])
            content["skipped"] = [tuple(entry) for entry in content["skipped"]]
            journal = cls(**content)
        except (OSError, ValueError, KeyError, TypeError):
            return cls(of)
        return journal if journal.of == of else cls(of)

    def write(self, path: Path) -> None:
        text = json.dumps(asdict(self)).encode()
        write_atomically(path, lambda file: file.write(text))

    @property
    def kept(self) -> int:
        """Images in the array."""
        return self.listed - len(self.skipped)

    def take(self, block: Block) -> None:
        """Count a block that was written."""
        self.skipped += [
            (self.listed + place, entry.path, entry.why) for place, entry in block.skipped
        ]
        self.listed += len(block)
        if len(block.images):
            self.size = (block.images.shape[1], block.images.shape[2])
            self.sums.add(block.images)


def stage_listing(
    listing: Listing, folder: Path, *, of: str, progress: Progress | None = None
) -> str:
    """Read a listing's images and write them as arrays that several processes can map.

    ``meta.json`` comes last: a folder that has it is complete. Started again after a kill it goes
    on after the last images that were noted.

    Args:
        listing: the images.
        folder: where the arrays go.
        of: hash of what the listing was made of; with another one everything is staged anew.
        progress: told how many images are done.

    Returns:
        The hash of all images and labels, as `evaluation.datasets.dataset.Dataset.content_hash` has
        it.

    Raises:
        DatasetError: images of different sizes, or a class without a readable image.
        OSError: the disk is full, or the files cannot be reached; what is staged stays.
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
            # Nothing that was staged of images that cannot be used is of any use.
            for pattern in ("*.growing", "*.journal.json"):
                for path in folder.glob(pattern):
                    path.unlink()
            raise
        journals[name] = staging.journal
        done += len(split)
    train, test = journals["train"], journals["test"]
    arrays = [folder / f"{name}_{part}.npy" for name in journals for part in ("images", "labels")]
    found = content_hash(*(np.load(path, mmap_mode="r", allow_pickle=False) for path in arrays))
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
    }
    text = json.dumps(meta, indent=1).encode()
    write_atomically(folder / "meta.json", lambda file: file.write(text))
    for path in folder.glob("*.journal.json"):
        path.unlink()
    return found


def staged_hash(folder: Path, of: str) -> str | None:
    """The hash of the images in a folder, if it is complete and of the same as `of` says."""
    path = folder / "meta.json"
    if not path.exists():
        return None
    meta = json.loads(path.read_text())
    return str(meta["content"]) if meta.get("of") == of else None


def content_of(folder: Path) -> str | None:
    """The hash of the images staged in a folder; None where it does not say.

    Args:
        folder: a complete one.
    """
    found: str | None = json.loads((folder / "meta.json").read_text()).get("content")
    return found


def same_images(listing: Listing, staged: Dataset, progress: Progress | None = None) -> bool:
    """Whether a listing's images and labels are those that were staged.

    Args:
        listing: the images as they are now.
        staged: as `evaluation.datasets.dataset.open_staged` gives them.
        progress: told how many images are done.
    """
    done = 0
    for name, split in listing.splits():
        then = staged.split(name)
        skipped: list[int] = []
        kept = listed = 0
        with closing(split.blocks()) as blocks:
            for block in blocks:
                part = then.images[kept : kept + len(block.images)]
                if not np.array_equal(part, block.images):
                    return False
                kept += len(block.images)
                skipped += [listed + place for place, _ in block.skipped]
                listed += len(block)
                done += len(block)
                if progress is not None:
                    progress(done, len(listing))
        labels = np.delete(split.labels, np.asarray(skipped, dtype=np.int64))
        if not np.array_equal(labels, then.labels):
            return False
    return True


class _SplitStaging:
    """One split on its way to disk."""

    def __init__(self, listing: Listing, name: str, folder: Path, of: str) -> None:
        self._listing, self._name = listing, name
        self._split: SplitListing = dict(listing.splits())[name]
        self._noted = folder / f"{name}.journal.json"
        self._labels = folder / f"{name}_labels.npy"
        parts = ("images", "object_masks") if listing.object_masks else ("images",)
        self._paths = {part: folder / f"{name}_{part}.npy" for part in parts}
        self._arrays: dict[str, GrowingArray] = {}
        of = f"{of} {self._split.hash()}"
        self.journal = _Journal.read(self._noted, of)
        try:
            self._reopen()
        except OSError:
            self.journal, self._arrays = _Journal(of), {}

    def run(self, size: tuple[int, int] | None, tell: Callable[[], None]) -> None:
        """Read what is left; afterwards the arrays are at their places.

        Args:
            size: height and width of the images of the split before this one.
            tell: called as images are done.
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
                # Nothing tells how far they are: the next start could not go on with them.
                for path in self._paths.values():
                    growing_path(path).unlink(missing_ok=True)

    def _read(self, size: tuple[int, int] | None, tell: Callable[[], None]) -> None:
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
        write_atomically(self._labels, lambda file: np.save(file, labels, allow_pickle=False))
        journal.complete = True
        self._note()

    def _append(self, block: Block, size: tuple[int, int] | None) -> None:
        if not self._arrays:
            found = (block.images.shape[1], block.images.shape[2])
            self._listing.check_size(size, found)
            self._open(self._paths, found, kept=0)
        self._arrays["images"].append(block.images)
        if block.object_masks is not None:
            self._arrays["object_masks"].append(block.object_masks)

    def _note(self) -> None:
        # The arrays first: the journal may not promise what is not on disk.
        for array in self._arrays.values():
            array.sync()
        self.journal.write(self._noted)

    def _reopen(self) -> None:
        """Open what an earlier start left.

        Raises:
            OSError: it is not all there.
        """
        journal, paths = self.journal, dict(self._paths)
        if journal.size is None:
            return
        if journal.complete:
            # A kill may have come when some were at their places already.
            for part, path in self._paths.items():
                if not growing_path(path).exists():
                    path.stat()
                    del paths[part]
            self._labels.stat()
        self._open(paths, journal.size, journal.kept)

    def _open(self, paths: Mapping[str, Path], size: tuple[int, int], kept: int) -> None:
        kinds = {"images": ((*size, 3), "uint8"), "object_masks": (size, "bool")}
        for part, path in paths.items():
            self._arrays[part] = GrowingArray(path, *kinds[part], kept)
