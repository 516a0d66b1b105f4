"""Cells of a run inside the network: activations, salient locations and fine-tuning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from comparisons.cells.cell import Cell, Outcome, cell_kind, record
from comparisons.cells.trained import tested, train_cell, trained, whole_views
from comparisons.plans.layers import AS_BUILT
from evaluation.datasets.dataset import SPLITS, Dataset, choose_balanced, open_staged
from evaluation.layers.layer_arrays import (
    RANDOM,
    cache_activations,
    open_array,
    scales_named,
    write_locations,
)
from evaluation.layers.layerwise import ActivationView, Locations
from evaluation.layers.tails import tail_of
from evaluation.masking.views import InputView
from evaluation.networks.build import build_network, state_hash
from evaluation.storage.hashes import content_hash, spec_id
from evaluation.storage.local_copies import locked
from evaluation.storage.store import Store
from evaluation.training.retraining import correctness
from fastsal.networks.checkpoints import load_weights
from fastsal.networks.scales import Scale


@cell_kind("given")
def given(cell: Cell, store: Store, device: str) -> Outcome:
    """Save a network with given weights, and test it."""
    dataset = open_staged(store.local_data(cell.spec["data"]))
    network = _built(cell, dataset)
    if cell.spec["start"] != AS_BUILT:
        load_weights(network, cell.spec["model"], cell.spec["start"])
    _, test = whole_views(dataset)
    correct = correctness(network, test, dataset.test.labels, device=device)
    store.save_model(cell.id, network.state_dict())
    accuracy = record(cell, dataset.name, "accuracy", float(correct.mean()))
    return tested(correct, (accuracy,)) | {"hashes": {"model": state_hash(network)}}


@cell_kind("activations")
def activations(cell: Cell, store: Store, device: str) -> Outcome:
    """Write every scale's activations of a frozen network to disk."""
    _keep_activations(cell, cell.id, store, device)
    return {"records": ()}


@cell_kind("locations")
def locations(cell: Cell, store: Store, device: str) -> Outcome:
    """Write the salient locations by every statistic; locations that exist are kept."""
    dataset = open_staged(store.local_data(cell.spec["data"]))
    network, scales = _frozen(cell, dataset, store, device)
    names, places = [*cell.spec["statistics"], RANDOM], range(len(scales))
    share = Locations(**cell.spec["locations"])
    paths = {
        split: {
            name: [_locations_path(store, cell, name, split, place) for place in places]
            for name in names
        }
        for split in SPLITS
    }
    for split in SPLITS:
        chosen = _chosen(cell, dataset, split)
        absent = [name for name in names if not all(path.exists() for path in paths[split][name])]
        if not absent:
            continue
        write_locations(
            network,
            scales,
            absent,
            InputView(dataset.split(split).images, dataset.mean, dataset.std),
            chosen,
            dataset.first_index(split) + chosen,
            {name: paths[split][name] for name in absent},
            share,
            device=device,
        )
    hashes = {
        f"{name} {scales[place].name}": content_hash(
            *(open_array(paths[split][name][place]) for split in SPLITS)
        )
        for name in names
        for place in places
    }
    return {"records": (), "hashes": hashes}


@cell_kind("tune")
def tune(cell: Cell, store: Store, device: str) -> Outcome:
    """Fine-tune the part of the network after a masked scale, and test it."""
    dataset = open_staged(store.local_data(cell.spec["data"]))
    network, scales = _frozen(cell, dataset, store, device)
    place = cell.spec["layers"].index(cell.spec["layer"])
    _restore_arrays(cell, store, place, device)
    tail = tail_of(network, scales[place], _example(dataset).to(device))
    views = {split: _masked(cell, store, split, scales[place], place) for split in SPLITS}
    labels = np.asarray(dataset.train.labels)[_chosen(cell, dataset, "train")]
    training = train_cell(cell, tail, views["train"], labels, store, device)
    correct = correctness(tail, views["test"], dataset.test.labels, device=device)
    records = (
        record(cell, dataset.name, "accuracy", float(correct.mean())),
        record(cell, dataset.name, "data_wait_share", training.wait_share),
    )
    outcome = trained(training, correct, records)
    outcome["hashes"]["before"] = _hash_before(network, tail)
    return outcome


def _built(cell: Cell, dataset: Dataset) -> nn.Module:
    return build_network(cell.spec["model"], len(dataset.classes), 0, size=dataset.size)


def _frozen(
    cell: Cell, dataset: Dataset, store: Store, device: str
) -> tuple[nn.Module, tuple[Scale, ...]]:
    network = _built(cell, dataset)
    network.load_state_dict(store.load_model(cell.spec["base"]))
    network.to(device).eval()
    example = _example(dataset).to(device)
    return network, scales_named(network, cell.spec["layers"], example)


def _keep_activations(cell: Cell, activations_id: str, store: Store, device: str) -> None:
    dataset = open_staged(store.local_data(cell.spec["data"]))
    network, scales = _frozen(cell, dataset, store, device)
    for split in SPLITS:
        images = dataset.split(split).images
        cache_activations(
            network,
            scales,
            InputView(images, dataset.mean, dataset.std),
            _chosen(cell, dataset, split),
            [
                _activations_path(store, activations_id, split, place)
                for place in range(len(scales))
            ],
            device=device,
        )


def _example(dataset: Dataset) -> torch.Tensor:
    return InputView(dataset.test.images, dataset.mean, dataset.std)(
        np.arange(min(2, len(dataset.test.labels)))
    ).contiguous()


def _chosen(cell: Cell, dataset: Dataset, split: str) -> NDArray[np.int64]:
    """Return the images of fine-tuning: all for testing, balanced ones for training."""
    labels = np.asarray(dataset.split(split).labels)
    if split == "test":
        return np.arange(len(labels))
    return choose_balanced(labels, cell.spec["tuning_images"], cell.spec["data_seed"])


def _activations_path(store: Store, activations_id: str, split: str, place: int) -> Path:
    return store.activations(activations_id) / f"{split}-{place}.npy"


def _locations_path(store: Store, cell: Cell, method: str, split: str, place: int) -> Path:
    # Not under this cell's id, so that a run with one more statistic finds the others' files.
    key = spec_id({"method": method, "locations": cell.spec["locations"]})
    return store.activations(cell.spec["activations"]) / method / key / f"{split}-{place}.npy"


def _masked(cell: Cell, store: Store, split: str, scale: Scale, place: int) -> ActivationView:
    return ActivationView(
        open_array(_activations_path(store, cell.spec["activations"], split, place)),
        open_array(_locations_path(store, cell, cell.spec["method"], split, place)),
        cell.spec["mode"],
        channels_last=scale.channels_last,
    )


def _restore_arrays(cell: Cell, store: Store, place: int, device: str) -> None:
    """Write the arrays that a fine-tuning reads again, if a complete run has removed them."""
    activations_id, method = cell.spec["activations"], cell.spec["method"]
    read = [_activations_path(store, activations_id, split, place) for split in SPLITS]
    salient = [_locations_path(store, cell, method, split, place) for split in SPLITS]
    if all(path.exists() for path in (*read, *salient)):
        _check_locations(cell, salient)
        return
    with locked(store.activations(activations_id)):
        if not all(path.exists() for path in read):
            _keep_activations(cell, activations_id, store, device)
        if not all(path.exists() for path in salient):
            statistics = [] if method == RANDOM else [method]
            spec = {**cell.spec, "statistics": statistics}
            locations(replace(cell, kind="locations", spec=spec), store, device)
        _check_locations(cell, salient)


def _check_locations(cell: Cell, salient: list[Path]) -> None:
    """Refuse locations that differ from those recorded: another machine may round otherwise."""
    found = content_hash(*(open_array(path) for path in salient))
    expected = cell.spec["locations_hash"]
    if found == expected:
        return
    for path in salient:
        path.unlink()
    raise ValueError(
        f"the locations of {cell.spec['method']} at {cell.spec['layer']} on this machine are not "
        f"those of the run (hash {found}, recorded {expected}): continue it where it was made, or "
        "start another run"
    )


def _hash_before(network: nn.Module, tail: nn.Module) -> str:
    """Return a hash of the weights and buffers before the tail."""
    after = set(tail.state_dict())
    before = {name: t for name, t in network.state_dict().items() if name not in after}
    return content_hash(*(tensor.detach().cpu().numpy() for tensor in before.values()))
