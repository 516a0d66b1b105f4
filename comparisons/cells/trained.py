"""Cells that train a network, and the training, testing and saving that other cells share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from comparisons.cells.cell import Cell, Outcome, cell_kind, record
from evaluation.datasets.dataset import SPLITS, Dataset, open_staged
from evaluation.masking.level_files import unpack_levels
from evaluation.masking.level_folder import open_levels
from evaluation.masking.levels import Masking
from evaluation.masking.resident import FREE_SHARE, Residence, ResidentView, stored_bytes
from evaluation.masking.views import InputView, View
from evaluation.networks.build import build_network
from evaluation.storage.hashes import content_hash
from evaluation.storage.records import Record, pack_bits
from evaluation.storage.store import Store
from evaluation.training.retraining import Recipe, Training, correctness, predictions, train

__all__ = [
    "TrainingDone",
    "keep_network",
    "masked_views",
    "new_network",
    "resident",
    "tested",
    "too_large",
    "train_and_test",
    "train_cell",
    "trained",
    "whole_views",
]

# By device: what this process keeps there from one cell to the next.
_RESIDENCES: dict[str, Residence] = {}
# Sentences on what does not fit, each said once.
_SAID: set[str] = set()


class TrainingDone(Exception):
    """The end of a training in every rank but the first, which goes on alone."""


@cell_kind("base")
def train_on_whole(cell: Cell, store: Store, device: str) -> Outcome:
    """Train on whole images, test, and save the predictions for every image."""
    dataset = open_staged(store.local_data(cell.spec["data"]))
    views = resident(store, device, *whole_views(dataset))
    outcome, network = train_and_test(cell, dataset, store, device, *views)
    outcome["hashes"]["predictions"] = keep_network(cell, network, views, store, device)
    return outcome


@cell_kind("retrain", "mask_only")
def train_on_masked(cell: Cell, store: Store, device: str) -> Outcome:
    """Train and test on masked images, or on the masks alone."""
    dataset = open_staged(store.local_data(cell.spec["data"]))
    train_view, test_view = masked_views(
        dataset, cell.spec, store, mask_only=cell.kind == "mask_only"
    )
    first, folder = dataset.first_index("test"), store.local()
    filled = train_view.filled(0, folder), test_view.filled(first, folder)
    views = resident(store, device, *filled)
    outcome, network = train_and_test(cell, dataset, store, device, *views)
    if cell.spec.get("keep"):
        outcome["hashes"]["predictions"] = keep_network(cell, network, views, store, device)
    return outcome


def whole_views(dataset: Dataset) -> tuple[InputView, InputView]:
    """Return the training and the test images with nothing removed."""
    train, test = (
        InputView(dataset.split(name).images, dataset.mean, dataset.std) for name in SPLITS
    )
    return train, test


def resident(store: Store, device: str, *views: View) -> tuple[View, ...]:
    """Return views with their images in the device's memory, uploaded unless an earlier cell did.

    Where they do not fit they are read batch by batch, as they are given. The run's notes say so
    once a process.

    Args:
        store: the run's folder.
        device: of the training.
        views: all that the cell reads.
    """
    placed = _RESIDENCES.setdefault(device, Residence(device)).views(*views)
    if not all(isinstance(view, ResidentView) for view in placed):
        sentence = too_large(stored_bytes(*views), device)
        if sentence not in _SAID:
            _SAID.add(sentence)
            store.notes.add(sentence)
    return placed


def too_large(needed: float, device: str) -> str:
    """Return the sentence on images that do not fit into a device's memory.

    >>> print(too_large(20e9, "cuda").partition(":")[0])
    the images of a training take 20.0 GB, more than 50 % of the free memory of cuda
    """
    return (
        f"the images of a training take {needed / 1e9:.1f} GB, more than {100 * FREE_SHARE:.0f} % "
        f"of the free memory of {device}: they are read batch by batch, with the same results"
    )


def new_network(cell: Cell, dataset: Dataset) -> torch.nn.Module:
    """Return the untrained network of a cell, with the weights of its seed."""
    # Cells of maps have no seed: they load trained weights.
    seed = cell.spec.get("seed", 0)
    return build_network(
        cell.spec["model"],
        len(dataset.classes),
        seed,
        size=dataset.size,
        channels=dataset.channels,
    )


def keep_network(
    cell: Cell,
    network: torch.nn.Module,
    views: tuple[View, ...],
    store: Store,
    device: str,
) -> str:
    """Save a trained network and its predictions, to be explained.

    Returns:
        Hash of the predictions.
    """
    store.save_model(cell.id, network.state_dict())
    predicted = {
        name: predictions(network, view, device=device)
        for name, view in zip(SPLITS, views, strict=True)
    }
    store.save_arrays(store.predictions(cell.id), predicted)
    return content_hash(predicted["train"], predicted["test"])


def masked_views(
    dataset: Dataset, spec: Mapping[str, Any], store: Store, *, mask_only: bool = False
) -> tuple[InputView, InputView]:
    """Return the training and the test images, masked as a specification says.

    Their `filled` fills the removed pixels.

    Args:
        dataset: the images.
        spec: ``maps``, their ``cuts``, and ``mode``, ``fraction`` and ``fill``.
        store: the run's folder.
        mask_only: show the masks in place of the images.
    """
    masking = Masking(spec["mode"], spec["fraction"], tuple(spec["cuts"]), spec["fill"])
    cell = spec["maps"]
    recorded = store.result(cell)
    if recorded is None:
        raise FileNotFoundError(f"cell {cell} has no result: run it before the cells that need it")
    levels = open_levels(store.maps(cell), recorded.hashes["maps"])

    def view(name: str) -> InputView:
        return InputView(
            dataset.split(name).images,
            dataset.mean,
            dataset.std,
            unpack_levels(levels[name], store.local_levels(cell, name)),
            masking,
            mask_only,
        )

    return view("train"), view("test")


def train_and_test(
    cell: Cell, dataset: Dataset, store: Store, device: str, train_view: View, test_view: View
) -> tuple[Outcome, torch.nn.Module]:
    """Train a cell's network, and test it.

    Args:
        cell: says the recipe and the seed.
        dataset: for the labels.
        store: the run's folder, for the checkpoint.
        device: of the training.
        train_view: training images.
        test_view: test images.

    Returns:
        The outcome of the cell, and the network.
    """
    network = new_network(cell, dataset)
    training = train_cell(cell, network, train_view, dataset.train.labels, store, device)
    correct = correctness(network, test_view, dataset.test.labels, device=device)
    metric = "mask_only_accuracy" if cell.kind == "mask_only" else "accuracy"
    accuracy = float(correct.mean())
    records = [
        record(cell, dataset.name, metric, accuracy),
        record(cell, dataset.name, "data_wait_share", training.wait_share),
    ]
    if cell.spec.get("dual"):
        records.append(_as_dual(records[0]))
    return trained(training, correct, tuple(records)), network


def trained(training: Training, correct: NDArray[np.bool_], records: tuple[Record, ...]) -> Outcome:
    """Return the outcome of a training that was tested.

    Args:
        training: its history and hashes.
        correct: ``(N,)``, for each test image.
        records: its numbers.
    """
    hashes = {
        "init": training.init_hash,
        "order": training.order_hash,
        "model": training.model_hash,
    }
    found = {"history": training.history, "hashes": hashes}
    return tested(correct, records) | found | {"earlier_seconds": training.earlier_seconds}


def tested(correct: NDArray[np.bool_], records: tuple[Record, ...]) -> Outcome:
    """Return the outcome of a test: its records and the correct images.

    Args:
        correct: ``(N,)``, for each test image.
        records: its numbers.
    """
    return {"records": records, "correct": pack_bits(correct), "images": len(correct)}


def train_cell(
    cell: Cell,
    network: torch.nn.Module,
    view: View,
    labels: NDArray[np.int64],
    store: Store,
    device: str,
) -> Training:
    """Train a cell's network, alone or as one of several ranks, from its checkpoint if it has one.

    Args:
        cell: says the recipe and the seed.
        network: trained in place.
        view: training images.
        labels: their classes.
        store: the run's folder, for the checkpoint.
        device: of the training.

    Raises:
        TrainingDone: this is not the first rank, which alone goes on.
    """
    recipe, seed = Recipe(**cell.spec["recipe"]), cell.spec["seed"]
    alone = cell.ranks == 1 or torch.distributed.get_rank() == 0
    checkpoint = store.checkpoint(cell.id, cell.title if alone else "")
    training = train(network, view, labels, recipe, seed, device=device, checkpoint=checkpoint)
    if not alone:
        raise TrainingDone
    return training


def _as_dual(measured: Record) -> Record:
    """Return a ROAR accuracy as the KAR accuracy of the complementary share.

    Removing a random share leaves a random rest: both are one experiment.
    """
    share = measured.fraction or 0.0
    return replace(
        measured,
        mode="kar",
        fraction=round(1.0 - share, 10),
        derived_from=f"roar at {100 * share:g} %: this method is its own dual",
    )
