"""The folder of a method's levels: an array a split, and the seal that binds them to their cell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evaluation.masking.level_files import Levels
from evaluation.storage.hashes import ContentHash
from evaluation.storage.sealed import Unfit, read_sealed, sealed
from evaluation.storage.writing import write_atomically

__all__ = ["SPLIT_ARRAYS", "check_levels", "open_levels", "seal_levels"]

SPLIT_ARRAYS = {"train": "train.zarr", "test": "test.zarr"}
_SEAL = "seal.json"
_MAPS = "maps"


def seal_levels(folder: Path, shards: Mapping[str, Mapping[int, str]]) -> str:
    """Seal finished levels: each array with its own hash, both together with that of the maps.

    Args:
        folder: the folder, with every shard written.
        shards: by split, the hash of each shard by its first image, where it is known.

    Returns:
        The hash of the maps, which their cell records.

    Raises:
        Unfit: a shard that has another hash.
    """
    together = ContentHash()
    hashes = {
        split: Levels(folder / name).seal(together, shards=shards.get(split))
        for split, name in SPLIT_ARRAYS.items()
    }
    _write_seal(folder, hashes, together.digest())
    return together.digest()


def open_levels(folder: Path, recorded: str) -> dict[str, Levels]:
    """The levels of each split, if they are those that their cell recorded.

    Their shards are checked when they are unpacked. Levels from before there were seals are hashed
    here once.

    Args:
        folder: the folder.
        recorded: the hash of the maps, as their cell recorded it.

    Raises:
        FileNotFoundError: no levels.
        Unfit: other levels.
    """
    if not (folder / _SEAL).exists():
        check_levels(folder, recorded)
    said = read_sealed(folder / _SEAL)
    if said.get(_MAPS) != recorded:
        raise Unfit(
            folder,
            f"has maps of hash {said.get(_MAPS)}: expected {recorded}, which their cell recorded",
        )
    levels = {split: Levels(folder / name) for split, name in SPLIT_ARRAYS.items()}
    for split, array in levels.items():
        if array.content_hash != said.get(split):
            raise Unfit(
                array.path, f"has the hash {array.content_hash}: expected {said.get(split)}"
            )
    return levels


def check_levels(folder: Path, recorded: str) -> None:
    """Hash all levels of a folder, and seal them if that was not done.

    Args:
        folder: the folder.
        recorded: the hash of the maps, as their cell recorded it.

    Raises:
        FileNotFoundError: no levels.
        Unfit: other levels.
    """
    together, hashes = ContentHash(), {}
    for split, name in SPLIT_ARRAYS.items():
        levels = Levels(folder / name)
        found = hashes[split] = levels.hash(together)
        if found != levels.content_hash:
            raise Unfit(
                levels.path, f"has levels of hash {found}: expected those of {levels.content_hash}"
            )
    if together.digest() != recorded:
        raise Unfit(
            folder,
            f"has maps of hash {together.digest()}: expected {recorded}, which their cell recorded",
        )
    if not (folder / _SEAL).exists():
        _write_seal(folder, hashes, recorded)


def _write_seal(folder: Path, hashes: Mapping[str, str], maps: str) -> None:
    text = sealed({**hashes, _MAPS: maps}).encode()
    write_atomically(folder / _SEAL, lambda file: file.write(text))
