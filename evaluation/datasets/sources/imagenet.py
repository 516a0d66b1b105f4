"""ImageNet as torchvision unpacks it, or as any ImageFolder of its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from evaluation.datasets.dataset import DatasetError
from evaluation.datasets.image_files import centre_crop
from evaluation.datasets.listing import Listing, Request
from evaluation.datasets.sources.class_folders import both_splits, matching_classes
from evaluation.datasets.sources.files import in_class_folders
from evaluation.datasets.sources.registry import Published, source

__all__ = ["imagenet"]

# The first and the last of the 1,000 classes of 2012, in their order.
_FIRST, _LAST = "n01440764", "n15075141"


@source(
    "imagenet",
    "train/WNID/* and val/WNID/* (or validation, valid, test in place of val), meta.bin if any",
    published=Published(1000, 1_281_167, 50_000),
)
def imagenet(request: Request) -> Listing:
    """ImageNet (Russakovsky et al. 2015), or fewer of its classes; the test split is ``val``.

    With an image size, images are transformed as in tests on ImageNet: the shorter side is resized
    to ``size * 256 / 224``, then the centre is cropped. Class names come from torchvision's
    ``meta.bin``, or from its table if all 1,000 classes are there, or else from the folders.

    Raises:
        DatasetError: no such folders, an empty class, a class in one split only.
    """
    root = Path(request.argument)
    expected = (
        f"{root}/train/WNID/* and {root}/val/WNID/*, as torchvision.datasets.ImageNet unpacks the "
        "archives of image-net.org"
    )
    train, test = both_splits(root, ("val", "validation", "valid", "test"), expected)
    wnids = matching_classes(root, train, test)
    transform = centre_crop(request.image_size)
    return Listing(
        "imagenet",
        _names(root, wnids),
        in_class_folders(root, train, wnids, transform),
        in_class_folders(root, test, wnids, transform),
        size=request.size,
    )


def _names(root: Path, wnids: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes."""
    known = _meta(root / "meta.bin")
    if not known and len(wnids) == 1000 and (wnids[0], wnids[-1]) == (_FIRST, _LAST):
        from torchvision.models import ResNet50_Weights

        known = dict(zip(wnids, ResNet50_Weights.DEFAULT.meta["categories"], strict=True))
    return tuple(known.get(wnid, wnid) for wnid in wnids)


def _meta(path: Path) -> Mapping[str, str]:
    """The first name of each class in torchvision's file; empty if there is no file."""
    if not path.exists():
        return {}
    try:
        names, _ = torch.load(path, weights_only=True)
        return {wnid: of_class[0] for wnid, of_class in names.items()}
    except Exception as error:
        raise DatasetError(
            f"{str(path)!r} cannot be read ({type(error).__name__}): expected the class names that "
            "torchvision.datasets.ImageNet writes; remove it to do without them"
        ) from error
