"""Staged folders of images: complete, as they were staged, and still those of their source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.datasets.dataset import SPLITS, Dataset, open_staged
from evaluation.datasets.listing import Listing
from evaluation.storage.checked_arrays import ChunkHashes, check_whole, has_hashes, mapped
from evaluation.storage.hashes import ContentHash
from evaluation.storage.sealed import Unfit, read_sealed, sealed
from evaluation.storage.writing import write_atomically

__all__ = ["arrays_of", "check_staged", "same_images", "staged_hash"]


def staged_hash(folder: Path, of: str | None = None) -> str | None:
    """The hash of a folder's images; None if the folder is not complete.

    Args:
        folder: the folder of the arrays.
        of: what they have to be of; None for whatever the folder says.

    Raises:
        Unfit: ``meta.json`` or an array is not what was stored; chunks are not checked.
    """
    try:
        meta = read_sealed(folder / "meta.json")
    except FileNotFoundError:
        return None
    if of not in (None, meta.get("of")) or not _is_complete(folder, meta):
        return None
    open_staged(folder)
    return str(meta["content"]) if "content" in meta else ""


def check_staged(folder: Path) -> None:
    """Check every chunk of a complete folder; hash one that was staged without hashes.

    Args:
        folder: the folder of the arrays.

    Raises:
        Unfit: images, labels or object masks that are not those that were staged.
    """
    path = folder / "meta.json"
    meta = read_sealed(path)
    if not meta.get("hashed"):
        _hash_staged(folder, meta)
    for array in arrays_of(folder, meta):
        check_whole(array)


def _hash_staged(folder: Path, meta: dict[str, Any]) -> None:
    """Write the hashes of arrays from before there were any, if they have the recorded hash."""
    own, of = ContentHash(), meta.setdefault("of", "")
    for path in arrays_of(folder, meta):
        array = mapped(path)
        chunks = ChunkHashes(array.shape[1:], array.dtype.str)
        counted = not path.stem.endswith("object_masks")  # which the recorded hash leaves out
        if counted:
            own.begin(array.shape, array.dtype.str)
        for start in range(0, len(array), chunks.entries):
            part = array[start : start + chunks.entries]
            chunks.update(part)
            if counted:
                own.update(part)
        chunks.write(path, f"{of} {path.stem}", array.shape)
    said = meta.setdefault("content", own.digest())
    if own.digest() != said:
        raise Unfit(
            folder, f"has images and labels of hash {own.digest()}: expected those of hash {said}"
        )
    text = sealed({**meta, "hashed": True}).encode()
    write_atomically(folder / "meta.json", lambda file: file.write(text))


def arrays_of(folder: Path, meta: Mapping[str, Any]) -> list[Path]:
    """The array files of a staged folder, images and labels of a split first.

    Args:
        folder: the folder.
        meta: content of its ``meta.json``.
    """
    parts = ["images", "labels", *(["object_masks"] if meta.get("has_object_masks") else [])]
    return [folder / f"{name}_{part}.npy" for name in SPLITS for part in parts]


def _is_complete(folder: Path, meta: Mapping[str, Any]) -> bool:
    paths = arrays_of(folder, meta)
    hashed = meta.get("hashed", False)
    return all(path.exists() and (not hashed or has_hashes(path)) for path in paths)


def same_images(
    listing: Listing, staged: Dataset, progress: Callable[[int, int], object] | None = None
) -> bool:
    """True if a listing's images and labels are equal to staged ones.

    Args:
        listing: the images as they are now.
        staged: the images from `evaluation.datasets.dataset.open_staged`.
        progress: called with the numbers of compared and of all images.
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
