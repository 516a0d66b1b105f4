"""What cells that use a network share: it trained and tested, or as it was trained; and records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.datasets.dataset import SPLITS, Dataset
from evaluation.masking.level_files import Levels, unpack_levels
from evaluation.masking.levels import Masking
from evaluation.masking.variants import Variant
from evaluation.masking.views import InputView, View
from evaluation.storage.records import METRICS, Record, pack_bits
from evaluation.storage.store import Store, content_hash
from evaluation.training.networks import build_network
from evaluation.training.retraining import Recipe, Training, correctness, predictions, train
from fastsal import __version__

if TYPE_CHECKING:
    from comparisons.cells.run import Cell

__all__ = [
    "TrainingDone",
    "keep_network",
    "masked_views",
    "new_network",
    "record",
    "train_and_test",
    "train_cell",
]


class TrainingDone(Exception):
    """Raised in every rank but the first once the network that they train together is trained."""


def new_network(cell: Cell, dataset: Dataset) -> torch.nn.Module:
    """A cell's network as its seed makes it, not trained."""
    # Maps come from trained weights, so that their initial ones do not matter.
    seed = cell.spec.get("seed", 0)
    return build_network(cell.spec["model"], len(dataset.classes), seed, size=dataset.size)


def keep_network(
    cell: Cell,
    network: torch.nn.Module,
    views: tuple[InputView, InputView],
    store: Store,
    device: str,
) -> str:
    """Leave a trained network to be explained, and what it predicts for the images it is shown.

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
    """Training and test images, masked as a specification says; `filled` fills the holes.

    Args:
        dataset: the images.
        spec: ``maps``, their ``cuts``, and ``mode``, ``fraction`` and ``fill``.
        store: where the maps are.
        mask_only: show the masks in place of the images.
    """
    masking = Masking(spec["mode"], spec["fraction"], tuple(spec["cuts"]), spec["fill"])
    folder = store.maps(spec["maps"])

    def view(name: str) -> InputView:
        return InputView(
            dataset.split(name).images,
            dataset.mean,
            dataset.std,
            unpack_levels(Levels(folder / f"{name}.zarr"), store.local_levels(spec["maps"], name)),
            masking,
            mask_only,
        )

    return view("train"), view("test")


def train_and_test(
    cell: Cell, dataset: Dataset, device: str, train_view: InputView, test_view: InputView
) -> tuple[dict[str, Any], torch.nn.Module]:
    """Train a cell's network, and its accuracy on the test images.

    Args:
        cell: what to train, with which recipe and seed.
        dataset: for the labels.
        device: where to train.
        train_view: training images.
        test_view: test images.

    Returns:
        What a training leaves in its cell's result, and the network.
    """
    network = new_network(cell, dataset)
    training = train_cell(cell, network, train_view, dataset.train.labels, device)
    correct = correctness(network, test_view, dataset.test.labels, device=device)
    metric = "mask_only_accuracy" if cell.kind == "mask_only" else "accuracy"
    accuracy = float(correct.mean())
    records = [
        record(cell, dataset, metric, accuracy),
        record(cell, dataset, "data_wait_share", training.wait_share),
    ]
    if cell.spec.get("dual"):
        records.append(_dual_record(cell, dataset, metric, accuracy))
    outcome = {
        "records": tuple(records),
        "correct": pack_bits(correct),
        "images": len(correct),
        "history": training.history,
        "hashes": {
            "init": training.init_hash,
            "order": training.order_hash,
            "model": training.model_hash,
        },
    }
    return outcome, network


def train_cell(
    cell: Cell,
    network: torch.nn.Module,
    view: View,
    labels: NDArray[np.int64],
    device: str,
) -> Training:
    """Train a cell's network, alone or as one of the ranks of a gang.

    Args:
        cell: with which recipe and seed.
        network: trained in place.
        view: training images.
        labels: their classes.
        device: where to train.

    Raises:
        TrainingDone: this is not the first rank, which alone goes on.
    """
    recipe = Recipe(**cell.spec["recipe"])
    training = train(network, view, labels, recipe, cell.spec["seed"], device=device)
    if cell.ranks > 1 and torch.distributed.get_rank() > 0:
        raise TrainingDone
    return training


def record(
    cell: Cell,
    dataset: Dataset,
    metric: str,
    value: float,
) -> Record:
    """One number of a cell, with everything that its specification says of it."""
    spec = cell.spec
    return Record(
        method=spec.get("method", "none"),
        parameters=spec.get("parameters", {}),
        dataset=dataset.name,
        model=spec["model"],
        mode=spec.get("mode", "unmasked"),
        fraction=spec.get("fraction"),
        layer=None,
        metric=metric,
        value=value,
        unit=METRICS[metric].unit,
        seed=spec.get("seed"),
        version=__version__,
        cell=cell.id,
        **asdict(Variant.of_spec(spec)),
    )


def _dual_record(cell: Cell, dataset: Dataset, metric: str, value: float) -> Record:
    """Removing a random share leaves a random rest: the same experiment seen from the other end."""
    fields = asdict(record(cell, dataset, metric, value))
    share = fields["fraction"]
    fields |= {
        "mode": "kar",
        "fraction": round(1.0 - share, 10),
        "derived_from": f"roar at {100 * share:g} %: this method is its own dual",
    }
    return Record(**fields)
