"""The explained network: trained in this run, with pretrained weights, or fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from comparisons.cells.cell import Cell, Outcome, cell_kind, record
from comparisons.cells.trained import (
    keep_network,
    new_network,
    tested,
    train_cell,
    trained,
    whole_views,
)
from evaluation.datasets.dataset import Dataset, open_staged
from evaluation.networks.build import state_hash
from evaluation.networks.class_places import class_places
from evaluation.networks.grid_networks import channels_last_of
from evaluation.networks.pretrained import OWN_CLASSES, Weights, empty_network
from evaluation.storage.store import Store
from evaluation.training.removal import removal
from evaluation.training.retraining import correctness

__all__ = ["explained_spec", "fine_tuned", "frozen", "known_labels"]


def explained_spec(cell: Cell, store: Store) -> Mapping[str, Any]:
    """Return the specification of the cell that left the network that a cell explains."""
    base = store.result(cell.spec["base"])
    return {} if base is None else base.spec


def frozen(
    cell: Cell, store: Store, device: str
) -> tuple[Dataset, nn.Module, dict[str, NDArray[np.int64]]]:
    """Load the explained network of a cell, with its images and predictions.

    Returns:
        The images in the normalisation that the network expects, the network, and what it predicts
        for each split.
    """
    spec = explained_spec(cell, store)
    dataset = _as_expected(open_staged(store.local_data(cell.spec["data"])), spec)
    if "weights" in spec:
        network = empty_network(
            spec["weights"],
            spec["model"],
            _outputs(spec, dataset),
            dataset.size,
            dataset.channels,
        )
    else:
        network = new_network(cell, dataset)
    network.load_state_dict(store.load_model(cell.spec["base"]))
    targets = store.load_predictions(cell.spec["base"])
    return dataset, network.to(device).eval(), targets


@cell_kind("pretrained")
def take_weights(cell: Cell, store: Store, device: str) -> Outcome:
    """Save the network with pretrained weights, and test it if it knows the images' classes."""
    spec = cell.spec
    dataset = _as_expected(open_staged(store.local_data(spec["data"])), spec)
    # The images are normalised already: the weights are all that is asked for.
    weights = Weights(spec["model"], spec["weights"], expect="data")
    network = weights.network(_outputs(spec, dataset), dataset.size, dataset.channels)
    hashes = {"model": state_hash(network)}
    hashes["predictions"] = keep_network(cell, network, whole_views(dataset), store, device)
    labels = known_labels(network, spec, dataset)
    if labels is None:
        return {"records": (), "hashes": hashes}
    correct = store.load_predictions(cell.id)["test"] == labels
    accuracy = record(cell, dataset.name, "pretrained_accuracy", float(correct.mean()))
    return tested(correct, (accuracy,)) | {"hashes": hashes}


@cell_kind("fine_tuned")
def fine_tune(cell: Cell, store: Store, device: str) -> Outcome:
    """Fine-tune the explained network behind random removal, and test it on whole images.

    Raises:
        ValueError: images of classes that the network does not have.
    """
    dataset, network, _ = frozen(cell, store, device)
    base = explained_spec(cell, store)
    labels, test_labels = (
        known_labels(network, base, dataset, split) for split in ("train", "test")
    )
    if labels is None or test_labels is None:
        raise ValueError(
            f"the network {cell.spec['model']} cannot be fine-tuned on {dataset.name}: not all "
            f"classes of the images ({', '.join(dataset.classes[:3])}, ...) are among its own; "
            "leave f-fidelity and idsds out of --measures"
        )
    train_view, test_view = whole_views(dataset)
    behind = nn.Sequential(removal(cell.spec["removal"]), network)
    training = train_cell(cell, behind, train_view, labels, store, device)
    correct = correctness(network, test_view, test_labels, device=device)
    store.save_model(cell.id, network.state_dict())
    accuracy = record(cell, dataset.name, cell.spec["accuracy"], float(np.mean(correct)))
    outcome = trained(training, correct, (accuracy,))
    # Of the network that is kept, without the layer in front of it.
    outcome["hashes"]["model"] = state_hash(network)
    return outcome


def fine_tuned(cell: Cell, store: Store, device: str) -> nn.Module | None:
    """Return the fine-tuned network that a cell reads, or None if it names none."""
    if "fine_tuned" not in cell.spec:
        return None
    dataset, network, _ = frozen(cell, store, device)
    network.load_state_dict(store.load_model(cell.spec["fine_tuned"]))
    return network.to(memory_format=channels_last_of(len(dataset.size))).eval()


def known_labels(
    network: nn.Module, spec: Mapping[str, Any], dataset: Dataset, split: str = "test"
) -> NDArray[np.int64] | None:
    """Return the classes of images as outputs of the explained network.

    Args:
        network: the explained network.
        spec: of the cell that took or trained its weights.
        dataset: the images.
        split: of the images.

    Returns:
        ``(N,)``; None if the network has classes of its own and not all of the images' are among
        them by name.
    """
    labels = np.asarray(dataset.split(split).labels)
    if spec.get("classes") != OWN_CLASSES:
        return labels
    places = class_places(dataset.classes, network, spec["model"])
    return None if places is None else np.asarray(places, np.int64)[labels]


def _outputs(spec: Mapping[str, Any], dataset: Dataset) -> int | None:
    """Return the number of outputs that a network is built with; None for its own."""
    return None if spec.get("classes") == OWN_CLASSES else len(dataset.classes)


def _as_expected(dataset: Dataset, spec: Mapping[str, Any]) -> Dataset:
    """Return the images in the normalisation of a specification."""
    if "normalisation" not in spec:
        return dataset
    mean, std = (tuple(values) for values in spec["normalisation"])
    return replace(dataset, mean=mean, std=std)
