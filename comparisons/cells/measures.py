"""Cells of measures without retraining."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from comparisons.cells.cell import Cell, Outcome, cell_kind, record
from comparisons.cells.explained import frozen
from comparisons.cells.trained import new_network, resident, train_and_test, whole_views
from comparisons.measures import MEASURES, Sample
from comparisons.methods import get_method
from comparisons.methods.examples import example_batch
from evaluation.datasets.dataset import Dataset, choose_balanced, open_staged
from evaluation.metrics.randomisation import permuted_labels
from evaluation.storage.store import Store
from evaluation.training.networks import build_network

__all__ = ["chosen_images"]

# Added to a cell's seed: the weights that randomise a network are not those it started from.
_UNTRAINED = 1_000_000


@cell_kind("measure")
def measure(cell: Cell, store: Store, device: str) -> Outcome:
    """Take one measure of one method's maps, on some test images and the frozen network."""
    dataset, network, targets = frozen(cell, store, device)
    network.to(memory_format=torch.channels_last)
    chosen = chosen_images(np.asarray(dataset.test.labels), cell.spec["images"])
    sample = Sample(
        prepare=get_method(cell.spec["method"]).prepare,
        network=network,
        untrained=partial(
            build_network,
            cell.spec["model"],
            len(dataset.classes),
            _UNTRAINED + cell.spec["seed"],
            size=dataset.size,
        ),
        permuted=_permuted(cell, dataset, store, device),
        batch=example_batch(dataset, "test", targets["test"], chosen, device),
        labels=np.asarray(dataset.test.labels)[chosen],
        pixels=np.asarray(dataset.test.images[chosen]),
        mean=dataset.mean,
        std=dataset.std,
    )
    findings = list(MEASURES[cell.spec["measure"]].take(sample))
    by_image = {
        finding.metric if finding.layer is None else f"{finding.metric} {finding.layer}": (
            finding.values
        )
        for finding in findings
    }
    return {
        "records": tuple(
            replace(
                record(cell, dataset.name, finding.metric, float(finding.values.mean())),
                layer=finding.layer,
            )
            for finding in findings
        ),
        "history": tuple(
            {
                "image": int(image),
                **{name: float(values[row]) for name, values in by_image.items()},
            }
            for row, image in enumerate(chosen)
        ),
    }


@cell_kind("permuted")
def train_on_permuted(cell: Cell, store: Store, device: str) -> Outcome:
    """Train the network on permuted labels, with the recipe of all others."""
    dataset = open_staged(store.local_data(cell.spec["data"]))
    labels = permuted_labels(np.asarray(dataset.train.labels), cell.spec["seed"])
    shuffled = replace(dataset, train=replace(dataset.train, labels=labels))
    views = resident(store, device, *whole_views(dataset))
    outcome, network = train_and_test(cell, shuffled, device, *views)
    store.save_model(cell.id, network.state_dict())
    learned = float(outcome["history"][-1]["accuracy"])
    timed = tuple(entry for entry in outcome["records"] if entry.timed)
    own = record(cell, dataset.name, "permuted_train_accuracy", learned)
    return outcome | {"records": (own, *timed)}


def chosen_images(labels: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """Choose the test images of a measure: equally many a class, if there are enough.

    Args:
        labels: ``(N,)``, of the test images.
        wanted: number of images at most.

    Returns:
        Their indices, rising; the same in every run.

    >>> chosen_images(np.array([0, 0, 0, 1, 1, 1]), 4).size
    4
    """
    if wanted >= len(np.unique(labels)):
        return choose_balanced(labels, wanted, 0)
    rng = np.random.default_rng(len(labels))
    return np.sort(rng.choice(len(labels), wanted, replace=False))


def _permuted(cell: Cell, dataset: Dataset, store: Store, device: str) -> torch.nn.Module | None:
    """Return the network trained on permuted labels, or None if the cell names none."""
    if "permuted" not in cell.spec:
        return None
    network = new_network(cell, dataset)
    network.load_state_dict(store.load_model(cell.spec["permuted"]))
    return network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]
