"""Images in folders, ``train/CLASS/*`` and ``test/CLASS/*``, read into arrays."""

from __future__ import annotations

import hashlib
import struct
import warnings
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from evaluation.images import SPLITS, DatasetError, Skipped, Split

__all__ = ["choose_balanced", "listing_hash", "read_image_folder"]

# What Pillow's decoders raise on a damaged file: several let their own errors through.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)


def read_image_folder(
    root: Path, *, train: int | None, test: int | None, size: int | None, seed: int
) -> tuple[tuple[str, ...], dict[str, Split], tuple[Skipped, ...]]:
    """Read both splits of an image folder.

    Args:
        root: holds ``train/CLASS/*`` and ``test/CLASS/*``.
        train: training images to take at most, the same number a class; None for all.
        test: test images likewise.
        size: height and width to resize and crop to; None to take images as they are.
        seed: seed of which images are taken.

    Returns:
        The sorted names of the classes, the splits by name, and the files that could not
        be read. Grey images become RGB; what is transparent becomes white.

    Raises:
        DatasetError: no such folder, an empty class, a class in one split only, images of
            different sizes without `size`.
    """
    classes = _classes(root)
    skipped: list[Skipped] = []
    splits: dict[str, Split] = {}
    for name, wanted in zip(SPLITS, (train, test), strict=True):
        files, labels = _files(root / name, classes)
        chosen = choose_balanced(labels, wanted, seed)
        images, read = _read_images([files[i] for i in chosen], root, size, skipped)
        labels = labels[chosen][read]
        empty = sorted(set(range(len(classes))) - set(labels.tolist()))
        if empty:
            raise DatasetError(
                f"class {', '.join(classes[i] for i in empty)} has no readable image in "
                f"{str(root / name)!r}: expected at least one in every class; add images, "
                "or remove the folder from train and test"
            )
        splits[name] = Split(images, labels)
    sizes = {split.images.shape[1:3] for split in splits.values()}
    if len(sizes) > 1:
        raise DatasetError(
            f"training and test images differ in size ({_sizes(sizes)}): "
            "give --image-size to resize them"
        )
    return classes, splits, tuple(skipped)


def listing_hash(root: Path) -> str:
    """Hash of the names, sizes and times of all files under a folder, without reading them."""
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        found = path.stat()
        digest.update(f"{path.relative_to(root)}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def _classes(root: Path) -> tuple[str, ...]:
    for split in SPLITS:
        if not (root / split).is_dir():
            raise DatasetError(
                f"no folder {str(root / split)!r}: expected {root}/train/CLASS/* and "
                f"{root}/test/CLASS/*; check the path after folder:"
            )
    train, test = (
        {
            entry.name
            for entry in (root / split).iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
        }
        for split in SPLITS
    )
    if test - train:
        raise DatasetError(
            f"class {', '.join(sorted(test - train))} is in test but not in train of "
            f"{str(root)!r}: a network cannot learn it; add training images or remove it from test"
        )
    if train - test:
        raise DatasetError(
            f"class {', '.join(sorted(train - test))} is in train but not in test of "
            f"{str(root)!r}: add test images or remove it from train"
        )
    if len(train) < 2:
        raise DatasetError(
            f"{len(train)} class folders in {str(root / 'train')!r}: expected at least 2"
        )
    return tuple(sorted(train))


def _files(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], NDArray[np.int64]]:
    known = {extension.lower() for extension in Image.registered_extensions()}
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(
            path
            for path in (folder / name).iterdir()
            if path.suffix.lower() in known and not path.name.startswith(".")
        )
        if not found:
            raise DatasetError(
                f"class folder {str(folder / name)!r} is empty: expected image files in it; "
                "add some, or remove the class from train and test"
            )
        files += found
        labels += [label] * len(found)
    return files, np.asarray(labels, dtype=np.int64)


def choose_balanced(labels: NDArray[np.int64], wanted: int | None, seed: int) -> NDArray[np.int64]:
    """Indices of at most `wanted` images, the same number a class, in their order."""
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
    # Round-robin over the classes, so that small classes run dry without a shortage.
    rounds = [
        queue[i] for i in range(max(map(len, shuffled))) for queue in shuffled if i < len(queue)
    ]
    return np.sort(np.asarray(rounds[:wanted], dtype=np.int64))


def _read_images(
    files: list[Path], root: Path, size: int | None, skipped: list[Skipped]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All readable images as one array, and which of `files` they are."""
    images: list[NDArray[np.uint8]] = []
    read: list[int] = []
    for number, path in enumerate(files):
        try:
            images.append(_read_image(path, size))
            read.append(number)
        except _UNREADABLE as why:
            relative = str(path.relative_to(root))
            skipped.append(Skipped(relative, str(why).replace(str(path), path.name)))
            warnings.warn(f"{relative} cannot be read and is skipped: {why}", stacklevel=2)
    sizes = Counter(image.shape[:2] for image in images)
    if len(sizes) > 1:
        odd = sizes.most_common()[-1][0]
        example = next(
            files[i] for i, image in zip(read, images, strict=True) if image.shape[:2] == odd
        )
        raise DatasetError(
            f"images of different sizes ({_sizes(sizes)}; {str(example)!r} is "
            f"{odd[0]}x{odd[1]}): give --image-size to resize them"
        )
    stacked = np.stack(images) if images else np.empty((0, 1, 1, 3), dtype=np.uint8)
    return stacked, np.asarray(read, dtype=np.int64)


def _read_image(path: Path, size: int | None) -> NDArray[np.uint8]:
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            # What is transparent shows white, as a page would show it.
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, rgba)
        if image.mode.startswith("I"):
            # Pillow would cut 16 bits off at 255 and leave a white image.
            image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8))
        image = image.convert("RGB")
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def _sizes(sizes: Collection[tuple[int, ...]]) -> str:
    shown = sorted(sizes)[:4]
    return ", ".join(f"{h}x{w}" for h, w in shown) + (", ..." if len(sizes) > 4 else "")
