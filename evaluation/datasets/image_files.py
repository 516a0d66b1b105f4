"""Image files as RGB arrays, decoded by several threads."""

from __future__ import annotations

import errno
import io
import struct
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from evaluation.datasets.dataset import DatasetError, Skipped
from evaluation.datasets.listing import BLOCK_BYTES, Block
from evaluation.hardware import processors

__all__ = ["FilePixels", "Transform", "centre_crop", "fit_square", "image_extensions"]

# Errors of Pillow's decoders on a damaged file: several decoders raise their own.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)
# Errors of the disk or the network, not of the file: all later images would be skipped too.
_NOT_THE_FILE = {
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EMFILE", "ENFILE", "ENOMEM")
    if hasattr(errno, name)
}

Transform = Callable[[Image.Image], Image.Image]


def image_extensions() -> frozenset[str]:
    """The file extensions that Pillow reads, in lower case."""
    return frozenset(extension.lower() for extension in Image.registered_extensions())


def fit_square(size: int | None) -> Transform | None:
    """A transform to the largest centred square, resized to `size`; None if `size` is None."""
    if size is None:
        return None
    return lambda image: ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def centre_crop(size: int | None) -> Transform | None:
    """The test-time transform of ImageNet; None if `size` is None.

    The shorter side is resized to ``size * 256 / 224``, then the middle ``size x size`` is cut
    out: torchvision's ``Resize(256)`` and ``CenterCrop(224)`` at 224.
    """
    if size is None:
        return None
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    shorter = round(size * 256 / 224)
    transform: Transform = Compose([Resize(shorter, InterpolationMode.BILINEAR), CenterCrop(size)])
    return transform


@dataclass(frozen=True)
class FilePixels:
    """Images in files, decoded by several threads, in order.

    Grey images become RGB, transparent pixels white. A file that cannot be read is skipped with a
    warning.

    Args:
        names: name of each image in messages.
        open: from the number of an image to its path or its bytes.
        transform: resizes and crops; None for images that all have one size already.
    """

    names: Sequence[str]
    open: Callable[[int], Path | io.BytesIO]
    transform: Transform | None

    def blocks(
        self, indices: NDArray[np.int64], size: tuple[int, ...] | None
    ) -> Generator[Block, None, None]:
        """The images at `indices`, in that order, a few at a time.

        Raises:
            DatasetError: images of different sizes.
            OSError: the disk or the network failed.
        """
        images: list[NDArray[np.uint8]] = []
        skipped: list[tuple[int, Skipped]] = []
        with closing(self._in_order(indices)) as read:
            for index, found in read:
                if isinstance(found, Skipped):
                    message = f"{found.path} cannot be read and is skipped: {found.why}"
                    warnings.warn(message, stacklevel=2)
                    skipped.append((len(images) + len(skipped), found))
                    continue
                if size is None:
                    size = found.shape[:2]
                if found.shape[:2] != size:
                    raise self._odd_size(index, found, size)
                images.append(found)
                if len(images) * found.nbytes >= BLOCK_BYTES:
                    yield Block(np.stack(images), skipped=tuple(skipped))
                    images, skipped = [], []
        if images or skipped:
            none = np.empty((0, *(size or (1, 1)), 3), dtype=np.uint8)
            yield Block(np.stack(images) if images else none, skipped=tuple(skipped))

    def _in_order(
        self, indices: NDArray[np.int64]
    ) -> Generator[tuple[int, NDArray[np.uint8] | Skipped], None, None]:
        """Every image with its number; a bounded number of images is decoded ahead."""
        threads = _threads()
        # Before the threads start: of two that initialise Pillow at once, one misses formats.
        Image.init()
        pool = ThreadPoolExecutor(threads)
        ahead: deque[tuple[int, Future[NDArray[np.uint8] | Skipped]]] = deque()
        try:
            for index in map(int, indices):
                ahead.append((index, pool.submit(self._read, index)))
                if len(ahead) > 2 * threads:
                    done, future = ahead.popleft()
                    yield done, future.result()
            for done, future in ahead:
                yield done, future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, index: int) -> NDArray[np.uint8] | Skipped:
        opened = self.open(index)
        try:
            image = _rgb(opened)
            if self.transform is not None:
                image = self.transform(image)
            return np.asarray(image, dtype=np.uint8)
        except _UNREADABLE as why:
            name = self.names[index]
            if isinstance(why, OSError) and why.errno in _NOT_THE_FILE:
                raise OSError(
                    why.errno,
                    f"{name!r} could not be read ({why.strerror}); run the same command again to "
                    "continue",
                ) from why
            return Skipped(name, str(why).replace(str(opened), Path(name).name))

    def _odd_size(
        self, index: int, image: NDArray[np.uint8], size: tuple[int, ...]
    ) -> DatasetError:
        (height, width), odd = size, image.shape
        return DatasetError(
            f"images of different sizes ({height}x{width}, {odd[0]}x{odd[1]}; "
            f"{self.names[index]!r} is {odd[0]}x{odd[1]}): give --image-size to resize them"
        )


def _rgb(opened: Path | io.BytesIO) -> Image.Image:
    with Image.open(opened) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            # White, as a page shows transparent pixels.
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, rgba)
        if image.mode.startswith("I"):
            # Pillow would cut 16 bits off at 255 and leave a white image.
            image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8))
        return image.convert("RGB")


def _threads() -> int:
    """Number of decoding threads: a few more than processors, since reads wait for the disk."""
    return min(32, processors() + 4)
