"""Maps of one method over a whole image set, written shard by shard."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from comparisons.methods import METHODS, Batch, Explain
from evaluation.images import SPLITS, Dataset, Split
from evaluation.localisation import peaks as most_salient
from evaluation.localisation import pointing_game
from evaluation.maps import CHUNK_IMAGES, Levels
from evaluation.masking import as_elements, continued_levels, saliency_levels
from evaluation.store import Store, content_hash, write_atomically
from evaluation.views import InputView, View

__all__ = ["GALLERY_IMAGES", "MapCost", "example_batch", "write_gallery", "write_maps"]

GALLERY_IMAGES = 8


@dataclass(frozen=True)
class MapCost:
    """What writing the maps of a method took and gave.

    Args:
        hash: content hash of the levels of both splits.
        stored_bytes: bytes on disk an image.
        attribution_ms: milliseconds an image, as it ran; None if all maps were there already.
        pointing_game: share of test images whose most salient pixel is in the object; None
            where the object is unknown.
    """

    hash: str
    stored_bytes: float
    attribution_ms: float | None
    pointing_game: float | None

    def metrics(self) -> dict[str, float]:
        """The measured numbers by the name of their metric."""
        named = {
            "stored_bytes": self.stored_bytes,
            "attribution_ms": self.attribution_ms,
            "attribution_images_per_s": self.attribution_ms and 1000.0 / self.attribution_ms,
            "pointing_game": self.pointing_game,
        }
        return {name: value for name, value in named.items() if value is not None}


def write_maps(
    explain: Explain,
    dataset: Dataset,
    targets: Mapping[str, NDArray[np.int64]],
    folder: Path,
    *,
    cuts: tuple[float, ...],
    seed: int,
    device: str = "cpu",
    unit: str = "pixel",
    before: Mapping[str, InputView] | None = None,
) -> MapCost:
    """Write the levels of every training and test image.

    Shards that are there already are kept: an interrupted call continues.

    Args:
        explain: a prepared method.
        dataset: the images.
        targets: the class to explain for each image, by split.
        folder: gets ``train.zarr`` and ``test.zarr``, and the peaks of each shard.
        cuts: fractions at which levels change.
        seed: seed of the order of tied pixels.
        device: where the network is.
        unit: what is ranked: ``pixel``, or ``element``, a channel of a pixel.
        before: images masked at a smaller fraction, by split, where the maps are of those; what
            they miss goes first within the one cut. None for whole images.

    Raises:
        ValueError: a map of the wrong shape, or one with NaN or infinity.
    """
    seconds, explained, stored = 0.0, 0, 0
    shards: list[NDArray[np.uint8]] = []
    peaks: list[NDArray[np.int64]] = []
    for name in SPLITS:
        split = dataset.split(name)
        n, height, width, channels = split.images.shape
        elements = channels if unit == "element" else 1
        levels = Levels.create(folder / f"{name}.zarr", (n, height, width * elements), cuts)
        view = None if before is None else before[name]
        shown = None if view is None else view.filled(dataset.first_index(name))
        for shard in levels.shards():
            peaks_file = folder / f"{name}-peaks-{shard.start}.npy"
            if not levels.has(shard):
                made = []
                started = time.perf_counter()
                for batch in _batches(dataset, name, targets[name], shard, device, shown):
                    maps = explain(batch).detach().cpu().numpy()
                    maps = _checked(maps, split, batch, of_channels=unit == "element")
                    made.append(as_elements(maps, channels) if unit == "element" else maps)
                seconds += time.perf_counter() - started
                explained += len(shard)
                saliency = np.concatenate(made)
                indices = dataset.first_index(name) + np.arange(shard.start, shard.stop)
                if view is None:
                    shard_levels = saliency_levels(saliency, cuts, indices, seed=seed)
                else:
                    removed = ~view.kept(np.arange(shard.start, shard.stop))
                    shard_levels = continued_levels(
                        saliency, removed.reshape(saliency.shape), cuts[0], indices, seed=seed
                    )
                # Peaks before levels: a shard that exists has both.
                _save(peaks_file, most_salient(saliency, indices, seed=seed) // elements)
                levels.write(shard, shard_levels)
            shards.append(levels.read(shard.start, shard.stop))
            if name == "test":
                peaks.append(np.load(peaks_file, allow_pickle=False))
        stored += levels.stored_bytes()
    masks = dataset.test.object_masks
    return MapCost(
        hash=content_hash(*shards),
        stored_bytes=stored / (len(dataset.train.labels) + len(dataset.test.labels)),
        attribution_ms=1000.0 * seconds / explained if explained else None,
        pointing_game=None if masks is None else pointing_game(np.concatenate(peaks), masks),
    )


def write_gallery(
    method: str,
    model: nn.Module,
    explain: Explain,
    dataset: Dataset,
    targets: NDArray[np.int64],
    store: Store,
    cell: str,
    *,
    cuts: tuple[float, ...],
    device: str = "cpu",
) -> None:
    """Keep full-precision maps of a few test images, one of each class in turn, for reports.

    Their levels are those that networks are trained with: a method that draws noise would draw
    another for this batch.
    """
    labels = np.asarray(dataset.test.labels)
    per_class = [np.flatnonzero(labels == label)[0] for label in np.unique(labels)]
    chosen = np.asarray(per_class[:GALLERY_IMAGES], dtype=np.int64)
    batch = example_batch(dataset, "test", targets, chosen, device)
    saliency = explain(batch).detach().cpu().numpy()
    levels = Levels(store.maps(cell) / "test.zarr")
    arrays: dict[str, NDArray[Any]] = {
        "index": chosen,
        "saliency": saliency.astype(np.float32),
        "levels": np.concatenate([levels.read(index, index + 1) for index in chosen.tolist()]),
        "cuts": np.asarray(cuts),
    }
    scales = METHODS[method].scales
    if scales is not None:
        arrays["scales"] = scales(model)(batch).detach().cpu().numpy().astype(np.float32)
    store.save_arrays(store.gallery(cell), arrays)


def example_batch(
    dataset: Dataset,
    split_name: str,
    targets: NDArray[np.int64],
    indices: NDArray[np.int64],
    device: str = "cpu",
    view: View | None = None,
) -> Batch:
    """Some images of a split as methods get them.

    Args:
        dataset: the images.
        split_name: ``"train"`` or ``"test"``.
        targets: the class to explain for each image of the split.
        indices: which images.
        device: where the network is.
        view: the images of the split as methods see them; None for whole ones.
    """
    split = dataset.split(split_name)
    shown = InputView(split.images, dataset.mean, dataset.std) if view is None else view
    inputs = shown(indices, device).contiguous()
    masks = None
    if split.object_masks is not None:
        masks = torch.from_numpy(np.asarray(split.object_masks[indices]))
    return Batch(
        inputs=inputs.to(device),
        target=torch.from_numpy(targets[indices]).to(device),
        index=torch.from_numpy(dataset.first_index(split_name) + indices),
        input_range=1.0 / float(np.mean(dataset.std)),
        black=_black(dataset),
        object_mask=masks,
    )


def _batches(
    dataset: Dataset,
    name: str,
    targets: NDArray[np.int64],
    shard: range,
    device: str,
    view: View | None,
) -> Iterator[Batch]:
    for start in range(shard.start, shard.stop, CHUNK_IMAGES):
        indices = np.arange(start, min(start + CHUNK_IMAGES, shard.stop))
        yield example_batch(dataset, name, targets, indices, device, view)


def _black(dataset: Dataset) -> tuple[float, float, float]:
    red, green, blue = (-mean / std for mean, std in zip(dataset.mean, dataset.std, strict=True))
    return red, green, blue


def _checked(
    saliency: NDArray[np.floating], split: Split, batch: Batch, *, of_channels: bool
) -> NDArray[np.floating]:
    _, height, width, channels = split.images.shape
    expected = (len(batch.index), height, width)
    by_channel = (len(batch.index), channels, height, width)
    if saliency.shape != expected and not (of_channels and saliency.shape == by_channel):
        raise ValueError(
            f"the method gave maps of shape {saliency.shape}: expected {expected}, one number "
            "a pixel of each image"
        )
    return saliency


def _save(path: Path, array: NDArray[np.int64]) -> None:
    write_atomically(path, lambda file: np.save(file, array, allow_pickle=False))
