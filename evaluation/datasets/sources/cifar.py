"""CIFAR-10 and CIFAR-100 as torchvision downloads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from evaluation.datasets.dataset import DatasetError
from evaluation.datasets.listing import ArrayPixels, Listing, Request, SplitListing
from evaluation.datasets.sources.registry import Published, source

__all__ = ["cifar10", "cifar100"]


def _root(name: str, request: Request) -> Path:
    return Path(request.argument or f"runs/data/{name}")


@source(
    "cifar10",
    "cifar-10-batches-py/ as torchvision downloads it; by default in runs/data/cifar10",
    found=lambda request: (_root("cifar10", request) / "cifar-10-batches-py").is_dir(),
    published=Published(10, 50_000, 10_000, (32, 32)),
)
def cifar10(request: Request) -> Listing:
    """CIFAR-10 (Krizhevsky 2009): 10 classes; torchvision downloads it if need be."""
    from torchvision.datasets import CIFAR10

    return _listing(CIFAR10, "cifar10", "CIFAR-10", request)


@source(
    "cifar100",
    "cifar-100-python/ as torchvision downloads it; by default in runs/data/cifar100",
    found=lambda request: (_root("cifar100", request) / "cifar-100-python").is_dir(),
    published=Published(100, 50_000, 10_000, (32, 32)),
)
def cifar100(request: Request) -> Listing:
    """CIFAR-100 (Krizhevsky 2009) with its 100 fine classes."""
    from torchvision.datasets import CIFAR100

    return _listing(CIFAR100, "cifar100", "CIFAR-100", request)


def _listing(kind: Any, name: str, title: str, request: Request) -> Listing:
    """The listing of both splits, which torchvision reads into memory.

    torchvision compares the files with their published MD5 sums before it unpickles them.

    Raises:
        DatasetError: neither files nor network.
    """
    root = _root(name, request)
    try:
        sets = [kind(str(root), train=train, download=True) for train in (True, False)]
    except Exception as error:
        raise DatasetError(
            f"{title} could not be loaded from {str(root)!r} ({error}): torchvision downloads it "
            "once; without a network, put the images in folders and use folder:PATH"
        ) from error
    train, test = (
        SplitListing(
            np.asarray(images.targets, dtype=np.int64),
            ArrayPixels(np.asarray(images.data)),
            str(root),
        )
        for images in sets
    )
    return Listing(name, tuple(sets[0].classes), train, test, size=(32, 32))
