"""Images in one folder a class, as for torchvision's ImageFolder."""

from __future__ import annotations

from pathlib import Path

from evaluation.datasets.dataset import DatasetError
from evaluation.datasets.image_files import fit_square
from evaluation.datasets.listing import Listing, Request
from evaluation.datasets.sources.files import class_names, in_class_folders, split_folder
from evaluation.datasets.sources.registry import source

__all__ = ["both_splits", "folder", "matching_classes"]


@source("folder", "train/CLASS/* and test/CLASS/* (or val, valid, validation in place of test)")
def folder(request: Request) -> Listing:
    """The listing of image files in class folders.

    With an image size, the largest centred square of each image is resized to it.

    Raises:
        DatasetError: no such folders, an empty class, a class in one split only.
    """
    root = Path(request.argument)
    expected = f"{root}/train/CLASS/* and {root}/test/CLASS/*"
    train, test = both_splits(root, ("test", "val", "valid", "validation"), expected)
    classes = matching_classes(root, train, test)
    transform = fit_square(request.image_size)
    return Listing(
        root.resolve().name,
        classes,
        in_class_folders(root, train, classes, transform),
        in_class_folders(root, test, classes, transform),
        size=request.size,
    )


def both_splits(root: Path, tests: tuple[str, ...], expected: str) -> tuple[str, str]:
    """The folders of the training and of the test split.

    Args:
        root: their parent folder.
        tests: possible names of the test folder, the likeliest first.
        expected: the layout, for the message.
    """
    return split_folder(root, ("train",), expected), split_folder(root, tests, expected)


def matching_classes(root: Path, train: str, test: str) -> tuple[str, ...]:
    """The sorted classes, which must be the same in both splits."""
    learnt, tested = class_names(root / train), class_names(root / test)
    if learnt and not tested:
        raise DatasetError(
            f"no class folder in {str(root / test)!r}: expected those of {train}, "
            f"{_shown(learnt)}, with the images of each in its own"
        )
    if tested - learnt:
        raise DatasetError(
            f"class {_shown(tested - learnt)} is in {test} but not in {train} of "
            f"{str(root)!r}: a network cannot learn it; add training images or remove it from "
            f"{test}"
        )
    if learnt - tested:
        raise DatasetError(
            f"class {_shown(learnt - tested)} is in {train} but not in {test} of "
            f"{str(root)!r}: add test images or remove it from {train}"
        )
    if len(learnt) < 2:
        raise DatasetError(
            f"{len(learnt)} class folders in {str(root / train)!r}: expected at least 2"
        )
    return tuple(sorted(learnt))


def _shown(classes: set[str]) -> str:
    """The classes in words: the first five, and their number if there are more."""
    few = ", ".join(sorted(classes)[:5])
    return few + (f", ... ({len(classes)} in all)" if len(classes) > 5 else "")
