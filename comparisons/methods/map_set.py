"""Maps of one method over a whole image set, written shard by shard by one worker or several."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparisons.methods.base import Batch, Explain
from comparisons.methods.examples import example_batch
from evaluation.datasets.dataset import SPLITS, Dataset, Split
from evaluation.masking.level_files import CHUNK_IMAGES, Levels, shards_of
from evaluation.masking.level_folder import seal_levels
from evaluation.masking.levels import as_elements, continued_levels, saliency_levels
from evaluation.masking.views import InputView
from evaluation.metrics.localisation import peaks as most_salient
from evaluation.metrics.localisation import pointing_game
from evaluation.storage.checked_arrays import mapped
from evaluation.storage.hashes import content_hash
from evaluation.storage.sealed import arrays_in, read_sealed, sealed, sealed_arrays
from evaluation.storage.writing import write_atomically

__all__ = ["MapCost", "MapSet"]


@dataclass(frozen=True)
class MapCost:
    """The cost of writing the maps of a method, and their hash.

    Args:
        hash: content hash of the levels of both splits.
        stored_bytes: bytes on disk an image.
        attribution_ms: milliseconds an image, the median over chunks, which a machine that sleeps
            or is busy for a while leaves as it is; None if all maps were there already.
        pointing_game: share of test images whose most salient pixel is in the object; None
            without object masks.
    """

    hash: str
    stored_bytes: float
    attribution_ms: float | None
    pointing_game: float | None

    def metrics(self) -> dict[str, float]:
        """Return the measured numbers by metric."""
        named = {
            "stored_bytes": self.stored_bytes,
            "attribution_ms": self.attribution_ms,
            "attribution_images_per_s": self.attribution_ms and 1000.0 / self.attribution_ms,
            "pointing_game": self.pointing_game,
        }
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class MapSet:
    """The maps of one method over every training and test image, as levels on disk.

    Shards that exist are kept, so that an interrupted set continues. Several workers may
    write shards of one set at a time; one of them finishes it. No more than the levels of a shard
    and the maps of a chunk are held.

    Args:
        explain: a prepared method.
        dataset: the images.
        targets: the class to explain for each image, by split.
        folder: gets ``train.zarr`` and ``test.zarr``, and of each shard the peaks and the hash.
        cuts: fractions at which levels change.
        seed: seed of the order of tied pixels.
        device: of the network.
        unit: that is ranked: ``pixel``, or ``element``, a channel of a pixel.
        before: images masked at a smaller fraction, by split, if the maps are of those; their
            removed pixels rank first within the one cut. None for whole images.
        told: called after each chunk with the share of the images that have maps; None for nobody.
    """

    explain: Explain
    dataset: Dataset
    targets: Mapping[str, NDArray[np.int64]]
    folder: Path
    cuts: tuple[float, ...]
    seed: int
    device: str = "cpu"
    unit: str = "pixel"
    before: Mapping[str, InputView] | None = None
    told: Callable[[float], object] | None = None

    def write(self, shards: range) -> None:
        """Write some shards, and the times of their chunks beside them.

        Args:
            shards: counted through the training images first, then the test images.

        Raises:
            ValueError: a map of the wrong shape, or one with NaN or infinity.
        """
        chosen = [shard for number, shard in enumerate(self._shards()) if number in shards]
        times = [ms for made in self._written(chosen) for ms in made]
        if times:
            text = sealed({"ms": times}).encode()
            path = self.folder / f"times-{shards.start}-{shards.stop}.json"
            write_atomically(path, lambda file: file.write(text))

    def finish(self) -> MapCost:
        """Write every missing shard, and seal the maps with their hash.

        Raises:
            ValueError: a map of the wrong shape, or one with NaN or infinity.
            evaluation.storage.sealed.Unfit: a shard that is not what was written.
        """
        times: list[float] = []
        shards = {name: dict[int, str]() for name in SPLITS}
        every = self._shards()
        for (name, shard), made in zip(every, self._written(every), strict=True):
            times += made
            said = self._note(name, shard).get("levels")
            if said is not None:
                shards[name][shard.start] = str(said)
        maps_hash = seal_levels(self.folder, shards)
        stored = sum(self._levels(name).stored_bytes() for name in SPLITS)
        for path in sorted(self.folder.glob("times-*.json")):
            times += read_sealed(path)["ms"]
        images = sum(len(self.dataset.split(name).labels) for name in SPLITS)
        return MapCost(
            hash=maps_hash,
            stored_bytes=stored / images,
            attribution_ms=median(times) if times else None,
            pointing_game=self._pointing_game(),
        )

    def _written(self, shards: Sequence[tuple[str, range]]) -> Iterator[list[float]]:
        """Write shards unless they are there; milliseconds an image of each chunk, by shard."""
        done, images = 0, sum(len(shard) for _, shard in shards)
        for name, shard in shards:
            times = []
            for ms, last in self._chunks_of(name, shard):
                times.append(ms)
                if self.told is not None:
                    self.told((done + last - shard.start) / images)
            done += len(shard)
            yield times

    def _shards(self) -> list[tuple[str, range]]:
        return [
            (name, shard)
            for name in SPLITS
            for shard in shards_of(len(self.dataset.split(name).labels))
        ]

    def _elements(self) -> int:
        """Return how many numbers of a pixel are ranked."""
        return self.dataset.channels if self.unit == "element" else 1

    def _levels(self, name: str) -> Levels:
        n, *others, last, _ = self.dataset.split(name).images.shape
        shape = (n, *others, last * self._elements())
        return Levels.create(self.folder / f"{name}.zarr", shape, self.cuts)

    def _chunks_of(self, name: str, shard: range) -> Iterator[tuple[float, int]]:
        """Write a shard unless it is there.

        Yields:
            Milliseconds an image of each chunk that is made, and the end of the chunk.
        """
        levels = self._levels(name)
        if levels.has(shard) and self._note(name, shard):
            return
        first = self.dataset.first_index(name)
        view = None if self.before is None else self.before[name]
        shown = None if view is None else view.filled_as_read(first)
        ranked = np.empty((len(shard), *levels.shape[1:]), np.uint8)
        peaks = np.empty(len(shard), np.int64)
        for chosen in _chunks(shard):
            started = time.perf_counter()
            batch = example_batch(
                self.dataset, name, self.targets[name], chosen, self.device, shown
            )
            saliency = self._saliency(batch, self.dataset.split(name))
            ms = 1000 * (time.perf_counter() - started) / len(chosen)
            rows = slice(chosen[0] - shard.start, chosen[-1] + 1 - shard.start)
            indices = first + chosen
            if view is None:
                ranked[rows] = saliency_levels(saliency, self.cuts, indices, seed=self.seed)
            else:
                removed = ~view.kept(chosen).reshape(saliency.shape)
                ranked[rows] = continued_levels(
                    saliency, removed, self.cuts[0], indices, seed=self.seed
                )
            peaks[rows] = most_salient(saliency, indices, seed=self.seed) // self._elements()
            yield ms, int(chosen[-1]) + 1
        # The note is written before the levels, so that a shard that exists has both.
        path = self._note_path(name, shard)
        note = sealed_arrays(
            self._of(path), {"peaks": peaks, "levels": np.array(content_hash(ranked))}
        )
        write_atomically(path, lambda file: np.savez(file, allow_pickle=False, **note))
        levels.write(shard, ranked)

    def _saliency(self, batch: Batch, split: Split) -> NDArray[np.floating]:
        of_channels = self.unit == "element"
        maps = _checked(
            self.explain(batch).detach().cpu().numpy(), split, batch, of_channels=of_channels
        )
        if not of_channels:
            return maps
        return as_elements(maps, self.dataset.channels, axes=len(self.dataset.size))

    def _note_path(self, name: str, shard: range) -> Path:
        return self.folder / f"{name}-peaks-{shard.start}.npz"

    def _note(self, name: str, shard: range) -> dict[str, NDArray[Any]]:
        """Return the peaks of a shard and the hash of its levels; empty if it was not written.

        Peaks from before levels had hashes come without one.
        """
        path = self._note_path(name, shard)
        if path.exists():
            return arrays_in(path, self._of(path))
        before = path.with_suffix(".npy")
        return {"peaks": mapped(before)} if before.exists() else {}

    def _of(self, path: Path) -> str:
        return f"{self.folder.name}/{path.name}"

    def _pointing_game(self) -> float | None:
        masks = self.dataset.test.object_masks
        if masks is None:
            return None
        shards = (shard for name, shard in self._shards() if name == "test")
        peaks = [self._note("test", shard)["peaks"] for shard in shards]
        return pointing_game(np.concatenate(peaks), masks)


def _chunks(shard: range) -> Iterator[NDArray[np.int64]]:
    for start in range(shard.start, shard.stop, CHUNK_IMAGES):
        yield np.arange(start, min(start + CHUNK_IMAGES, shard.stop))


def _checked(
    saliency: NDArray[np.floating], split: Split, batch: Batch, *, of_channels: bool
) -> NDArray[np.floating]:
    _, *sides, channels = split.images.shape
    expected = (len(batch.index), *sides)
    by_channel = (len(batch.index), channels, *sides)
    if saliency.shape != expected and not (of_channels and saliency.shape == by_channel):
        raise ValueError(
            f"the method gave maps of shape {saliency.shape}: expected {expected}, one number "
            "a pixel of each image"
        )
    return saliency
