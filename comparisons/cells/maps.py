"""The cells of maps, and of their parts, which several workers make at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from comparisons.cells.explained import frozen
from comparisons.cells.folds import crossfitted_targets
from comparisons.cells.trained import masked_views, record
from comparisons.methods.controls import METHODS
from comparisons.methods.examples import write_gallery
from comparisons.methods.map_set import MapSet
from evaluation.datasets.dataset import SPLITS
from evaluation.masking.level_files import shards_of
from evaluation.masking.variants import Variant
from evaluation.storage.store import Store

if TYPE_CHECKING:
    from comparisons.cells.run import Cell

__all__ = ["PART_SHARDS", "make_maps", "make_part", "part_of", "parts_of"]

# Shards that one worker makes at a time, where there are more: 16,384 images.
PART_SHARDS = 16


def parts_of(train_images: int, test_images: int) -> list[range]:
    """The shards of each part that the maps of an image set are made in.

    Args:
        train_images: how many training images there are.
        test_images: how many test images there are.

    Returns:
        Shards counted through the training images first and then the test images; nothing where
        there are too few for parts.

    >>> parts_of(30_000, 10_000)
    [range(0, 16), range(16, 32), range(32, 40)]
    """
    shards = len(shards_of(train_images)) + len(shards_of(test_images))
    if shards <= PART_SHARDS:
        return []
    starts = range(0, shards, PART_SHARDS)
    return [range(start, min(start + PART_SHARDS, shards)) for start in starts]


def part_of(maps: Cell, shards: range) -> Cell:
    """The cell that makes some shards of the maps of another.

    The whole does not depend on its parts: its id is the same, however many workers make it.
    """
    return replace(maps, kind="part", spec={**maps.spec, "shards": [shards.start, shards.stop]})


def make_part(cell: Cell, store: Store, device: str) -> dict[str, Any]:
    """Make the maps of some shards of an image set, those that are there left as they are."""
    spec = {name: value for name, value in cell.spec.items() if name != "shards"}
    maps = replace(cell, kind="maps", spec=spec)
    _map_set(maps, store, device)[0].write(range(*cell.spec["shards"]))
    return {"records": ()}


def make_maps(cell: Cell, store: Store, device: str) -> dict[str, Any]:
    """Make the maps of every image, those that parts made taken, and hash them."""
    maps, network = _map_set(cell, store, device)
    cost = maps.finish()
    if Variant.of_spec(cell.spec) == Variant():
        write_gallery(
            cell.spec["method"],
            network,
            maps.explain,
            maps.dataset,
            maps.targets["test"],
            store,
            cell.id,
            cuts=maps.cuts,
            device=device,
        )
    # What an image costs is said by the maps of whole images.
    metrics = cost.metrics() if maps.before is None else {}
    records = (record(cell, maps.dataset, name, value) for name, value in metrics.items())
    return {"records": tuple(records), "hashes": {"maps": cost.hash}}


def _map_set(cell: Cell, store: Store, device: str) -> tuple[MapSet, nn.Module]:
    spec = cell.spec
    dataset, network, targets = frozen(cell, store, device)
    if "folds" in spec:
        targets["train"] = crossfitted_targets(spec["folds"], store)
    # Gradients of ResNet-9 take a quarter less time so: 0.085 s against 0.116 s for 128 images.
    network.to(memory_format=torch.channels_last)
    unit = spec.get("unit", "pixel")
    entry = METHODS[spec["method"]]
    prepare = entry.by_channel if unit == "element" and entry.by_channel else entry.prepare
    before = None
    if "before" in spec:
        before = dict(zip(SPLITS, masked_views(dataset, spec["before"], store), strict=True))
    return MapSet(
        prepare(network),
        dataset,
        targets,
        store.maps(cell.id),
        tuple(spec["cuts"]),
        spec["tie_seed"],
        device,
        unit,
        before,
    ), network
