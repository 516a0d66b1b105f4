"""Cars Overhead With Context (COWC): counting cars as classification."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np

from evaluation.datasets.dataset import DatasetError
from evaluation.datasets.image_files import fit_square
from evaluation.datasets.listing import Listing, Names, Request, SplitListing
from evaluation.datasets.sources.class_folders import both_splits
from evaluation.datasets.sources.files import class_names, files_split, in_class_folders
from evaluation.datasets.sources.registry import source

__all__ = ["cowc"]

_LISTS = ("COWC_train_list_64_class.txt", "COWC_test_list_64_class.txt")


@source(
    "cowc",
    "train/COUNT/* and test/COUNT/*; or as published, COWC_train_list_64_class.txt and "
    "COWC_test_list_64_class.txt beside the folders that they name",
)
def cowc(request: Request) -> Listing:
    """COWC's counting patches (Mundhenk et al. 2016): the class is the number of cars.

    The classes are the counts that occur, in numerical order. A count may be in one split alone,
    since high ones are rare. With an image size, whole patches are resized to it.

    Raises:
        DatasetError: no such lists or folders, or a class that is no number.
    """
    root = Path(request.argument)
    if any((root / name).is_file() for name in _LISTS):
        return _listed(root, request)
    expected = (
        f"{root}/train/COUNT/* and {root}/test/COUNT/*, or the lists {' and '.join(_LISTS)} of "
        "gdo152.llnl.gov/cowc with the folders that they name"
    )
    train, test = both_splits(root, ("test", "val", "valid", "validation"), expected)
    found = class_names(root / train) | class_names(root / test)
    for name in sorted(found):
        if not name.isdecimal():
            raise DatasetError(
                f"class folder {name!r} in {str(root)!r}: expected a count of cars, such as 0 or 12"
            )
    counts = tuple(sorted(found, key=lambda name: (int(name), name)))
    transform = fit_square(request.image_size)
    learnt, tested = (in_class_folders(root, split, counts, transform) for split in (train, test))
    return _counted(counts, learnt, tested, request)


def _listed(root: Path, request: Request) -> Listing:
    """The listing from the published lists: one line a patch, with its path and its count."""
    files = [_read(root / name) for name in _LISTS]
    counts = sorted({count for _, of_split in files for count in of_split})
    transform = fit_square(request.image_size)
    train, test = (
        files_split(root, names, np.searchsorted(counts, of_split), transform, where=root)
        for names, of_split in files
    )
    return _counted(tuple(map(str, counts)), train, test, request)


def _read(path: Path) -> tuple[Names, array[int]]:
    if not path.is_file():
        raise DatasetError(f"no file {str(path)!r}: expected {' and '.join(_LISTS)} together")
    names, counts = Names(), array("q")
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            name, _, count = line.strip().rpartition(" ")
            if not name or not count.isdecimal():
                raise DatasetError(
                    f"line {number} of {str(path)!r} is {line.strip()!r}: expected the path of a "
                    "patch and its count, such as 'Utah_AGRC/test/patch.png 3'"
                )
            names.append(name.strip())
            counts.append(int(count))
    return names, counts


def _counted(
    counts: tuple[str, ...], train: SplitListing, test: SplitListing, request: Request
) -> Listing:
    if len(counts) < 2:
        raise DatasetError(f"{len(counts)} counts in {request.argument!r}: expected at least 2")
    return Listing("cowc", counts, train, test, size=request.size)
