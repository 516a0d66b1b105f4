"""Cells of maps, and of their parts, which several workers make at a time."""

from __future__ import annotations

from torch import nn

from comparisons.cells.cell import Cell, Outcome, cell_kind, record
from comparisons.cells.explained import frozen
from comparisons.cells.folds import crossfitted_targets
from comparisons.cells.trained import masked_views
from comparisons.methods import get_method
from comparisons.methods.examples import write_gallery
from comparisons.methods.map_set import MapSet
from evaluation.datasets.dataset import SPLITS
from evaluation.masking.level_folder import check_levels
from evaluation.masking.variants import Variant
from evaluation.networks.grid_networks import channels_last_of
from evaluation.storage.store import Store

__all__ = ["restore_gallery", "whole_of"]


def whole_of(part: Cell) -> Cell:
    """Return the cell of all the maps that a part belongs to; all maps are their own whole."""
    spec = {name: value for name, value in part.spec.items() if name != "shards"}
    return Cell("maps", spec)


@cell_kind("part")
def make_part(cell: Cell, store: Store, device: str) -> Outcome:
    """Make the maps of some shards of an image set; shards that exist are kept."""
    _map_set(whole_of(cell), store, device, cell.title)[0].write(range(*cell.spec["shards"]))
    return {"records": ()}


@cell_kind("maps")
def make_maps(cell: Cell, store: Store, device: str) -> Outcome:
    """Make the maps of every image that no part has made, and hash all maps."""
    maps, network = _map_set(cell, store, device, cell.title)
    cost = maps.finish()
    if Variant.of_spec(cell.spec) == Variant():
        _write_gallery(cell, maps, network, store, device)
    # The cost of an image is that of whole images.
    metrics = cost.metrics() if maps.before is None else {}
    records = (record(cell, maps.dataset.name, name, value) for name, value in metrics.items())
    return {"records": tuple(records), "hashes": {"maps": cost.hash}}


def restore_gallery(cell: Cell, store: Store, device: str) -> None:
    """Write the gallery of finished maps again, which was set aside.

    Args:
        cell: the finished cell.
        store: the run's folder.
        device: of the network.
    """
    recorded = store.result(cell.id)
    if recorded is not None:
        check_levels(store.maps(cell.id), recorded.hashes["maps"])
    _write_gallery(cell, *_map_set(cell, store, device, cell.title), store, device)


def _write_gallery(cell: Cell, maps: MapSet, network: nn.Module, store: Store, device: str) -> None:
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


def _map_set(cell: Cell, store: Store, device: str, title: str) -> tuple[MapSet, nn.Module]:
    spec = cell.spec
    dataset, network, targets = frozen(cell, store, device)
    if "folds" in spec:
        targets["train"] = crossfitted_targets(spec["folds"], store)
    # Channels-last gradients of ResNet-9: 0.085 s instead of 0.116 s for 128 images.
    network.to(memory_format=channels_last_of(len(dataset.size)))
    unit = spec.get("unit", "pixel")
    entry = get_method(spec["method"])
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
        store.progress(title).tell_if_due,
    ), network
