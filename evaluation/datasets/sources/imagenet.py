"""ImageNet as torchvision unpacks it, or any folders of its classes, and Imagenette."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from evaluation.datasets.dataset import DatasetError
from evaluation.datasets.image_files import centre_crop
from evaluation.datasets.listing import Listing, Request
from evaluation.datasets.sources.class_folders import class_listings
from evaluation.datasets.sources.registry import Published, source

__all__ = ["imagenet", "imagenette"]

# The first and the last of the 1,000 classes of 2012, in their order.
_FIRST, _LAST = "n01440764", "n15075141"
# The largest image size for which photographs of a shorter side of 320 are as good as whole ones.
_OF_320 = 280


@source(
    "imagenet",
    "train/WNID/* and val/WNID/* (or validation, valid, test in place of val), meta.bin if any; as "
    "folders or in one tar file that is not compressed",
    tar=True,
    published=Published(1000, 1_281_167, 50_000),
)
def imagenet(request: Request) -> Listing:
    """ImageNet (Russakovsky et al. 2015), or fewer of its classes; the test split is ``val``.

    With an image size, images are transformed as in tests on ImageNet: the shorter side is resized
    to ``size * 256 / 224``, then the centre is cropped. Class names come from torchvision's
    ``meta.bin``, or from its tables if all 1,000 classes are there or only some of Imagenette's
    ten, or else from the folders. A tar file of the two folders is read as it is.

    Raises:
        DatasetError: no such folders, an empty class, a class in one split only.
    """
    root = Path(request.argument)
    expected = (
        f"{root}/train/WNID/* and {root}/val/WNID/*, as torchvision.datasets.ImageNet unpacks the "
        "archives of image-net.org"
    )
    wnids, train, test = class_listings(
        root, ("val", "validation", "valid", "test"), expected, centre_crop(request.image_size)
    )
    return Listing("imagenet", _names(root, wnids), train, test, size=request.size)


@source(
    "imagenette",
    "imagenette2-320/ (or imagenette2/) as torchvision downloads it; by default in "
    "runs/data/imagenette",
    found=lambda request: _of_imagenette(request)[1].is_dir(),
    published=Published(10, 9_469, 3_925),
)
def imagenette(request: Request) -> Listing:
    """Imagenette, ten classes of ImageNet (Howard 2019); torchvision downloads it if need be.

    Photographs whose shorter side is 320, or the whole ones for an image size above 280.

    Raises:
        DatasetError: neither files nor network.
    """
    from torchvision.datasets import Imagenette

    root, folder, size = _of_imagenette(request)
    try:
        for split in ("train", "val"):
            Imagenette(root, split, size, download=True)
    except Exception as error:
        raise DatasetError(
            f"Imagenette could not be loaded from {str(root)!r} ({error}): torchvision downloads "
            "it once; without a network, put the photographs in folders and use imagenet:PATH"
        ) from error
    found = imagenet(replace(request, argument=str(folder)))
    return replace(found, name="imagenette")


def _of_imagenette(request: Request) -> tuple[Path, Path, str]:
    """The folder of torchvision's data, that of the photographs, and torchvision's size."""
    root = Path(request.argument or "runs/data/imagenette")
    # A crop of 280 comes from a shorter side of 320.
    if request.image_size is not None and request.image_size <= _OF_320:
        return root, root / "imagenette2-320", "320px"
    return root, root / "imagenette2", "full"


def _names(root: Path, wnids: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes."""
    known = _meta(root / "meta.bin")
    if not known and len(wnids) == 1000 and (wnids[0], wnids[-1]) == (_FIRST, _LAST):
        from torchvision.models import ResNet50_Weights

        known = dict(zip(wnids, ResNet50_Weights.DEFAULT.meta["categories"], strict=True))
    elif not known:
        from torchvision.datasets import Imagenette

        of_ten: Mapping[str, Sequence[str]] = getattr(Imagenette, "_WNID_TO_CLASS", {})
        if set(wnids) <= set(of_ten):
            known = {wnid: of_ten[wnid][0] for wnid in wnids}
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
