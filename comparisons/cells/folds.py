"""Cells that only some variants need: folds of crossfitted targets, results taken over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from comparisons.cells.cell import Cell, Outcome, cell_kind, record
from comparisons.cells.trained import new_network, resident, train_cell
from evaluation.datasets.dataset import open_staged
from evaluation.masking.crossfit import SubsetView, fold_of
from evaluation.masking.variants import Variant
from evaluation.masking.views import InputView
from evaluation.storage.store import Store
from evaluation.training.retraining import predictions

__all__ = ["crossfitted_targets"]


@cell_kind("fold")
def train_without_fold(cell: Cell, store: Store, device: str) -> Outcome:
    """Train on all folds but one, and save the predictions for that one."""
    dataset = open_staged(store.local_data(cell.spec["data"]))
    labels, seed = np.asarray(dataset.train.labels), cell.spec["seed"]
    fold = fold_of(len(labels), cell.spec["folds"], seed)
    inside = np.flatnonzero(fold != cell.spec["fold"])
    held_out = np.flatnonzero(fold == cell.spec["fold"])
    images = InputView(dataset.train.images, dataset.mean, dataset.std)
    network = new_network(cell, dataset)
    subsets = SubsetView(images, inside), SubsetView(images, held_out)
    view, other = resident(store, device, *subsets)
    training = train_cell(cell, network, view, labels[inside], store, device)
    predicted = predictions(network, other, device=device)
    arrays = {"images": held_out, "classes": predicted}
    store.save_arrays(store.predictions(cell.id), arrays)
    hashes = {"init": training.init_hash, "model": training.model_hash}
    records = (record(cell, dataset.name, "data_wait_share", training.wait_share),)
    found = {"history": training.history, "earlier_seconds": training.earlier_seconds}
    return {"records": records, "hashes": hashes} | found


def crossfitted_targets(folds: Sequence[str], store: Store) -> NDArray[np.int64]:
    """Return the class of each training image, from the network that was not trained on it.

    Args:
        folds: ids of the cells that trained them.
        store: the run's folder.
    """
    images, classes = [], []
    for fold in folds:
        predicted = store.load_predictions(fold)
        images.append(predicted["images"])
        classes.append(predicted["classes"])
    everything = np.concatenate(images)
    targets = np.empty(len(everything), np.int64)
    targets[everything] = np.concatenate(classes)
    return targets


@cell_kind("same")
def take_over(cell: Cell, store: Store, device: str) -> Outcome:
    """Take over the result of the first variant's training on the same masks."""
    del device
    source = store.result(cell.spec["of"])
    if source is None:
        raise FileNotFoundError(f"cell {cell.spec['of']} has no result to take over")
    variant = asdict(Variant.of_spec(cell.spec))
    said = cell.spec["why"]
    records = tuple(
        replace(
            taken,
            cell=cell.id,
            derived_from="; ".join(filter(None, (said, taken.derived_from))),
            **variant,
        )
        for taken in source.records
        if not taken.timed and (taken.mode == cell.spec["mode"] or cell.spec["dual"])
    )
    return {
        "records": records,
        "correct": source.correct,
        "images": source.images,
        "hashes": source.hashes,
    }
