"""Levels on disk: compressed shards, and a memory map that trainings read.

The file is Zarr version 3 (sharded, Zstandard), one array a split, so that several workers can
write whole shards and any Zarr reader can open it. Trainings read images in random order, for
which a compressed file is two orders of magnitude too slow: `unpack_levels` makes a memory map
that all trainings of this machine share. Beyond the shard that is written, at most a chunk of
images is in memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from numpy.typing import NDArray

from evaluation.storage.array_files import ArrayFile
from evaluation.storage.checked_arrays import is_hashed, open_checked
from evaluation.storage.hashes import ContentHash, content_hash
from evaluation.storage.local_copies import locked
from evaluation.storage.sealed import Unfit
from evaluation.storage.writing import write_atomically
from fastsal.files import PARTIAL

__all__ = [
    "CHUNK_IMAGES",
    "SHARD_IMAGES",
    "Levels",
    "bytes_an_image",
    "levels_hash",
    "shards_of",
    "unpack_levels",
]

CHUNK_IMAGES = 64
SHARD_IMAGES = 1024

# Compressed levels as a share of their entropy. Measured, with five cuts on photographs of 224x224
# and CIFAR-10 of 32x32: random 1.25 and 1.23, gradient 1.11 and 1.17, gradient-sgsq 0.89 and 1.00,
# smoe-linear 0.36 and 0.67, fastcam 0.18 and 0.57, centre 0.02 and 0.12.
_OF_ENTROPY = 0.75


def shards_of(images: int) -> list[range]:
    """The images of each shard, in order.

    >>> shards_of(2500)
    [range(0, 1024), range(1024, 2048), range(2048, 2500)]
    """
    return [
        range(start, min(start + SHARD_IMAGES, images)) for start in range(0, images, SHARD_IMAGES)
    ]


class Levels:
    """The levels of one split: ``(N, H, W)`` uint8 in a Zarr version 3 array.

    Those of volumes are ``(N, D, H, W)``, of signals ``(N, T)``.

    Args:
        path: folder of the array.

    Raises:
        FileNotFoundError: no array at `path`; `create` makes one.
        Unfit: what is at `path` is no array.
    """

    def __init__(self, path: Path) -> None:
        if not (path / "zarr.json").exists():
            raise FileNotFoundError(f"no levels at {path}: make them with Levels.create")
        self.path = path
        try:
            self._array = tensorstore.open(_location(path), open=True).result()
        except ValueError as error:  # tensorstore's own words are long
            raise Unfit(path, "cannot be opened: expected an array of levels") from error

    @classmethod
    def create(cls, path: Path, shape: Sequence[int], cuts: Sequence[float]) -> Levels:
        """Open the array at `path`; make it first if need be.

        Args:
            path: folder of the array.
            shape: ``(N, H, W)``, or of as many axes as the maps have.
            cuts: fractions at which levels change, an attribute of the array.

        Raises:
            Unfit: what is at `path` is no array of this shape.
        """
        if path.is_file():
            raise Unfit(path, "is a file: expected the folder of an array")
        if not (path / "zarr.json").exists():
            grid = list(shape[1:])
            specification = _location(path) | {
                "metadata": {
                    "shape": list(shape),
                    "data_type": "uint8",
                    "chunk_grid": {
                        "name": "regular",
                        "configuration": {"chunk_shape": [SHARD_IMAGES, *grid]},
                    },
                    "codecs": [_sharding(grid)],
                    "attributes": {"cuts": list(cuts)},
                }
            }
            tensorstore.open(specification, create=True, open=True).result()
        levels = cls(path)
        if levels.shape != tuple(shape):
            raise Unfit(path, f"has shape {levels.shape}: expected {tuple(shape)}")
        return levels

    def __len__(self) -> int:
        return int(self._array.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, H, W)``."""
        return tuple(map(int, self._array.shape))

    def shards(self) -> list[range]:
        """The images of each shard, in order."""
        return shards_of(len(self))

    def has(self, shard: range) -> bool:
        """True if a shard was written; its file appears whole or not at all."""
        return self.shard_path(shard).exists()

    def shard_path(self, shard: range) -> Path:
        """Path of a shard's file."""
        number = str(shard.start // SHARD_IMAGES)
        return self.path.joinpath("c", number, *["0"] * (len(self.shape) - 1))

    def write(self, shard: range, levels: NDArray[np.uint8]) -> None:
        """Write one whole shard."""
        self._array[shard.start : shard.stop].write(levels).result()

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Images ``start .. stop - 1``, ``(stop - start, H, W)``.

        Raises:
            Unfit: a shard that cannot be decoded.
        """
        try:
            levels: NDArray[np.uint8] = self._array[start:stop].read().result()
        except ValueError as error:
            raise Unfit(
                self.path, f"has no levels of images {start} to {stop - 1} that can be decoded"
            ) from error
        return levels

    def chunks(self, shard: range) -> Iterator[NDArray[np.uint8]]:
        """The levels of a shard, chunk by chunk."""
        for start in range(shard.start, shard.stop, CHUNK_IMAGES):
            yield self.read(start, min(start + CHUNK_IMAGES, shard.stop))

    @property
    def content_hash(self) -> str | None:
        """The hash that `seal` kept; None if the array is not sealed."""
        found: str | None = self._metadata()["attributes"].get("content_hash")
        return found

    @classmethod
    def is_sealed(cls, path: Path) -> bool:
        """True if a sealed array with every shard is at `path`.

        Args:
            path: folder of the array.
        """
        if not (path / "zarr.json").exists():
            return False
        levels = cls(path)
        return levels.content_hash is not None and all(map(levels.has, levels.shards()))

    def hash(self, *also: ContentHash, shards: Mapping[int, str] | None = None) -> str:
        """The `levels_hash` of the array as it is on disk.

        Args:
            also: further hashes, which are updated with the shards too.
            shards: the hash of each shard by its first image, where it is known.

        Raises:
            Unfit: a shard that has another hash.
        """
        own = ContentHash()
        for shard in self.shards():
            alone = ContentHash()
            for hashed in (own, alone, *also):
                hashed.begin((len(shard), *self.shape[1:]), "|u1")
            for chunk in self.chunks(shard):
                for hashed in (own, alone, *also):
                    hashed.update(chunk)
            said, found = (shards or {}).get(shard.start), alone.digest()
            if said not in (None, found):
                raise Unfit(
                    self.shard_path(shard), f"has levels of hash {found}: expected those of {said}"
                )
        return own.digest()

    def seal(self, *also: ContentHash, shards: Mapping[int, str] | None = None) -> str:
        """Keep the hash of the finished array as its attribute ``content_hash``.

        Args:
            also: further hashes, which are updated with the shards too.
            shards: the hash of each shard by its first image, where it is known.

        Returns:
            The array's `levels_hash`.

        Raises:
            Unfit: a shard that has another hash.
        """
        found = self.hash(*also, shards=shards)
        metadata = self._metadata()
        metadata["attributes"]["content_hash"] = found
        text = json.dumps(metadata, indent=1).encode()
        write_atomically(self.path / "zarr.json", lambda file: file.write(text))
        return found

    def _metadata(self) -> dict[str, Any]:
        try:
            metadata: dict[str, Any] = json.loads((self.path / "zarr.json").read_text())
        except ValueError as error:
            raise Unfit(self.path, "has a zarr.json that is no JSON") from error
        return metadata

    def stored_bytes(self) -> int:
        """Bytes on disk of all shards and of the metadata."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


def bytes_an_image(
    size: tuple[int, ...],
    maps: int,
    *,
    cuts: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    object_masks: bool = False,
    channels: int = 3,
) -> tuple[float, float]:
    r"""Bytes of disk an image: staged for training, and compressed.

    $$b_{staged} = HW (C + M), \qquad b_{stored} = 0.75 \, HWM \sum_l -p_l \log_{256} p_l$$

    `C` channels, and `M` arrays of levels, a share `p_l` of the pixels having level `l`. Compressed
    levels were measured at 0.02 (a centre disk) to 1.25 (random pixels) times their entropy. Since
    the unpacked levels are there too, the sum is within 20 % for any method, with the five cuts.

    Args:
        size: height and width; of volumes three sides, of signals one.
        maps: number of arrays of levels; one whose elements are ranked counts as three.
        cuts: the fractions at which levels change.
        object_masks: True if the true object's pixels are kept with the images.
        channels: of an image.

    Returns:
        Bytes in memory maps (images and unpacked levels), and bytes of compressed levels.

    >>> staged, stored = bytes_an_image((224, 224), 2)
    >>> round(staged), round(stored)
    (250880, 23726)
    """
    pixels = math.prod(size)
    shares = np.diff([0.0, *cuts, 1.0])
    entropy = -float(shares @ np.log(shares)) / math.log(256)
    return pixels * (float(channels) + object_masks + maps), _OF_ENTROPY * pixels * maps * entropy


def levels_hash(levels: NDArray[np.uint8]) -> str:
    """The hash of levels, as `Levels.seal` keeps it: the `content_hash` of the shards.

    Args:
        levels: ``(N, H, W)``; a memory map is read shard by shard.
    """
    return content_hash(*(levels[shard.start : shard.stop] for shard in shards_of(len(levels))))


def unpack_levels(levels: Levels, place: Path) -> NDArray[np.uint8]:
    """Open the memory map of levels at `place`; unpack them first if need be.

    Of several processes one unpacks, chunk by chunk, and the others wait. The hash of the levels is
    kept with the hashes of the map's chunks: a map of other levels, left on a scratch disk, and one
    from before chunks had hashes, are replaced.

    Args:
        levels: a finished array.
        place: the ``.npy`` file that this machine's trainings share.

    Returns:
        ``(N, H, W)`` uint8, a read-only memory map, each chunk checked when it is first read.

    Raises:
        Unfit: levels that do not have the array's hash, or a map that is not what was unpacked.
        OSError: the disk is full.
    """
    if not _is_unpacked(levels, place):
        with locked(place.parent):
            if not _is_unpacked(levels, place):
                _unpack(levels, place)
    return open_checked(place, _unpacked(levels))


def _unpacked(levels: Levels) -> str:
    """What a memory map of levels is of."""
    return f"levels {levels.content_hash or 'without a hash'}"


def _is_unpacked(levels: Levels, place: Path) -> bool:
    return place.exists() and is_hashed(place, _unpacked(levels))


def _unpack(levels: Levels, place: Path) -> None:
    if place.is_dir():
        raise Unfit(place, "is a folder: expected a file")
    for left in place.parent.glob(f"{PARTIAL}{place.name}-*"):  # by a process that was killed
        left.unlink(missing_ok=True)
    hashed, expected = ContentHash(), levels.content_hash
    with ArrayFile(place, levels.shape, "|u1", _unpacked(levels)) as file:
        for shard in levels.shards():
            hashed.begin((len(shard), *levels.shape[1:]), "|u1")
            for chunk in levels.chunks(shard):
                hashed.update(chunk)
                file.append(chunk)
        if expected not in (None, hashed.digest()):
            raise Unfit(
                levels.path, f"has levels of hash {hashed.digest()}: expected those of {expected}"
            )


def _location(path: Path) -> dict[str, Any]:
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path.resolve())}}


def _sharding(grid: Sequence[int]) -> dict[str, Any]:
    return {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [CHUNK_IMAGES, *grid],
            "codecs": [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 3}}],
            "index_codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
        },
    }
