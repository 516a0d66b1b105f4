"""The explained network: trained in this run, or with pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from comparisons.cells.cell import Cell, Outcome, cell_kind, record
from comparisons.cells.trained import keep_network, new_network, tested, whole_views
from evaluation.datasets.dataset import Dataset, open_staged
from evaluation.storage.store import Store
from evaluation.training.networks import state_hash
from evaluation.training.pretrained import Weights, empty_network

__all__ = ["frozen"]


def frozen(
    cell: Cell, store: Store, device: str
) -> tuple[Dataset, nn.Module, dict[str, NDArray[np.int64]]]:
    """Load the explained network of a cell, with its images and predictions.

    Returns:
        The images in the normalisation that the network expects, the network, and what it predicts
        for each split.
    """
    base = store.result(cell.spec["base"])
    spec = {} if base is None else base.spec
    dataset = _as_expected(open_staged(store.local_data(cell.spec["data"])), spec)
    if "weights" in spec:
        classes = len(dataset.classes)
        network = empty_network(spec["weights"], spec["model"], classes, dataset.size)
    else:
        network = new_network(cell, dataset)
    network.load_state_dict(store.load_model(cell.spec["base"]))
    targets = store.load_predictions(cell.spec["base"])
    return dataset, network.to(device).eval(), targets


@cell_kind("pretrained")
def take_weights(cell: Cell, store: Store, device: str) -> Outcome:
    """Save the network with pretrained weights, and test it."""
    spec = cell.spec
    dataset = _as_expected(open_staged(store.local_data(spec["data"])), spec)
    network = Weights(spec["model"], spec["weights"]).network(len(dataset.classes), dataset.size)
    hashes = {"model": state_hash(network)}
    hashes["predictions"] = keep_network(cell, network, whole_views(dataset), store, device)
    correct = store.load_predictions(cell.id)["test"] == dataset.test.labels
    accuracy = record(cell, dataset.name, "pretrained_accuracy", float(correct.mean()))
    return tested(correct, (accuracy,)) | {"hashes": hashes}


def _as_expected(dataset: Dataset, spec: Mapping[str, Any]) -> Dataset:
    """Return the images in the normalisation of a specification."""
    if "normalisation" not in spec:
        return dataset
    mean, std = (tuple(values) for values in spec["normalisation"])
    return replace(dataset, mean=mean, std=std)
