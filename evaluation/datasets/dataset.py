"""Image sets as arrays: types, balanced subsets, and opening of staged sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.storage.checked_arrays import mapped, open_checked
from evaluation.storage.hashes import content_hash
from evaluation.storage.sealed import Unfit, read_sealed

__all__ = [
    "SPLITS",
    "Dataset",
    "DatasetError",
    "Skipped",
    "Split",
    "array_of",
    "choose_balanced",
    "open_staged",
]
SPLITS = ("train", "test")
# What ``meta.json`` says of any staged images, also from before it had a hash.
_FACTS = ("name", "classes", "mean", "std", "has_object_masks", "skipped")


class DatasetError(ValueError):
    """Error of images that cannot be used; says which images and what to do."""


@dataclass(frozen=True)
class Split:
    """Images with their classes.

    Args:
        images: ``(N, H, W, 3)`` uint8; volumes ``(N, D, H, W, C)``, signals ``(N, T, C)``.
        labels: ``(N,)`` int64.
        object_masks: ``(N, H, W)`` bool, true where the object is; None if unknown; of the axes of
            the images.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    object_masks: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Skipped:
    """A file that could not be read, with the reason."""

    path: str
    why: str


@dataclass(frozen=True)
class Dataset:
    """An image set of two splits.

    Args:
        name: name in reports.
        classes: names of the classes; a label is an index into it.
        train: training split.
        test: test split.
        mean: channel mean of the training images, in [0, 1].
        std: channel standard deviation of the training images, in [0, 1].
        skipped: files that could not be read.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    skipped: tuple[Skipped, ...] = ()

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width of every image; of volumes three sides, of signals one."""
        return self.train.images.shape[1:-1]

    @property
    def channels(self) -> int:
        """Number of channels of every image."""
        return int(self.train.images.shape[-1])

    @property
    def chance(self) -> float:
        """Accuracy of a guess: one over the number of classes."""
        return 1.0 / len(self.classes)

    def split(self, name: str) -> Split:
        """The split called ``"train"`` or ``"test"``."""
        return {"train": self.train, "test": self.test}[name]

    def first_index(self, name: str) -> int:
        """Number of the split's first image, counted over both splits; seeds per-image draws."""
        return 0 if name == "train" else len(self.train.labels)

    def content_hash(self) -> str:
        """Hash of all images and labels."""
        return content_hash(
            self.train.images, self.train.labels, self.test.images, self.test.labels
        )


def open_staged(folder: Path) -> Dataset:
    """Memory-map an image set that `evaluation.datasets.load.stage` wrote.

    Args:
        folder: the folder of its arrays; images stay on disk until they are read, and each chunk of
            them is checked against its hash when it is first read.

    Raises:
        FileNotFoundError: nothing is staged there.
        evaluation.storage.sealed.Unfit: an array is not the one that was staged.
    """
    path = folder / "meta.json"
    meta = read_sealed(path)
    missing = [name for name in _FACTS if name not in meta]
    if missing:
        raise Unfit(path, f"lacks {', '.join(missing)}: expected the facts of staged images")
    of = meta["of"] if meta.get("hashed") else None

    def split(name: str) -> Split:
        return Split(
            array_of(folder, of, name, "images"),
            array_of(folder, of, name, "labels")[:],
            array_of(folder, of, name, "object_masks") if meta["has_object_masks"] else None,
        )

    return Dataset(
        meta["name"],
        tuple(meta["classes"]),
        split("train"),
        split("test"),
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
        skipped=tuple(Skipped(**entry) for entry in meta["skipped"]),
    )


def array_of(folder: Path, of: str | None, split: str, part: str) -> NDArray[Any]:
    """Memory-map one array of a staged folder.

    Args:
        folder: the folder.
        of: the hash of the request and files that the folder was staged for; None for one that was
            staged before arrays had hashes.
        split: ``"train"`` or ``"test"``.
        part: ``"images"``, ``"labels"`` or ``"object_masks"``.

    Raises:
        evaluation.storage.sealed.Unfit: it is not the array that was staged.
    """
    path = folder / f"{split}_{part}.npy"
    return mapped(path) if of is None else open_checked(path, f"{of} {path.stem}")


def choose_balanced(labels: NDArray[np.int64], wanted: int | None, seed: int) -> NDArray[np.int64]:
    """Sorted indices of at most `wanted` images, the same number of each class.

    Args:
        labels: ``(N,)``.
        wanted: most images; None for all.
        seed: seed of the choice.

    Raises:
        DatasetError: fewer images than classes.
    """
    if wanted is None or wanted >= len(labels):
        return np.arange(len(labels))
    classes = np.unique(labels)
    if wanted < len(classes):
        raise DatasetError(
            f"{wanted} images asked for, but there are {len(classes)} classes: "
            "expected at least one image a class"
        )
    rng = np.random.default_rng([seed, len(labels)])
    shuffled = [rng.permutation(np.flatnonzero(labels == label)) for label in classes]
    # Round-robin over the classes, so that larger classes make up for small ones.
    rounds = [
        queue[i] for i in range(max(map(len, shuffled))) for queue in shuffled if i < len(queue)
    ]
    return np.sort(np.asarray(rounds[:wanted], dtype=np.int64))
