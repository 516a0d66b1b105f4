"""Images in one folder a class, as for torchvision's ImageFolder, or in a tar file of them."""

from __future__ import annotations

from pathlib import Path

from evaluation.datasets.dataset import DatasetError
from evaluation.datasets.image_files import Transform, fit_square
from evaluation.datasets.listing import Listing, Request, SplitListing
from evaluation.datasets.sources.files import class_names, in_class_folders, split_folder
from evaluation.datasets.sources.registry import source
from evaluation.datasets.sources.tar_files import TarFolders

__all__ = ["both_splits", "class_listings", "folder"]


@source(
    "folder",
    "train/CLASS/* and test/CLASS/* (or val, valid, validation in place of test), as folders or "
    "in one tar file that is not compressed",
    tar=True,
)
def folder(request: Request) -> Listing:
    """The listing of image files in class folders.

    With an image size, the largest centred square of each image is resized to it.

    Raises:
        DatasetError: no such folders, an empty class, a class in one split only.
    """
    root = Path(request.argument)
    expected = f"{root}/train/CLASS/* and {root}/test/CLASS/*"
    classes, train, test = class_listings(
        root, ("test", "val", "valid", "validation"), expected, fit_square(request.image_size)
    )
    name = root.resolve().stem if root.is_file() else root.resolve().name
    return Listing(name, classes, train, test, size=request.size)


def class_listings(
    root: Path, tests: tuple[str, ...], expected: str, transform: Transform | None
) -> tuple[tuple[str, ...], SplitListing, SplitListing]:
    """The classes, which must be the same in both splits, and the listing of each split.

    Args:
        root: the folder of both splits, or a tar file of them.
        tests: possible names of the test folder, the likeliest first.
        expected: the layout, for the message.
        transform: resizes and crops the images.

    Raises:
        DatasetError: no such folders, an empty class, a class in one split only, a broken tar file.
    """
    if root.is_file():
        tar = TarFolders.index(root)
        train, test = tar.split(("train",), expected), tar.split(tests, expected)
        learnt, tested = set(tar.members[train]), set(tar.members[test])
        classes = _matching(root, train, test, learnt, tested)
        learning = tar.listing(train, classes, transform)
        return classes, learning, tar.listing(test, classes, transform)
    train, test = both_splits(root, tests, expected)
    learnt, tested = class_names(root / train), class_names(root / test)
    classes = _matching(root, train, test, learnt, tested)
    learning = in_class_folders(root, train, classes, transform)
    return classes, learning, in_class_folders(root, test, classes, transform)


def both_splits(root: Path, tests: tuple[str, ...], expected: str) -> tuple[str, str]:
    """The folders of the training and of the test split.

    Args:
        root: their parent folder.
        tests: possible names of the test folder, the likeliest first.
        expected: the layout, for the message.
    """
    return split_folder(root, ("train",), expected), split_folder(root, tests, expected)


def _matching(
    root: Path, train: str, test: str, learnt: set[str], tested: set[str]
) -> tuple[str, ...]:
    """The sorted classes, which must be the same in both splits.

    Args:
        root: the folder of both splits.
        train: name of the training split.
        test: name of the test split.
        learnt: classes of the training split.
        tested: classes of the test split.
    """
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
