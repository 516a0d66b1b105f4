"""The explained network, fine-tuned on images with random holes."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from comparisons.cells.cell import Cell, Outcome, cell_kind, record
from comparisons.cells.explained import explained_spec, frozen, known_labels
from comparisons.cells.trained import train_cell, trained, whole_views
from evaluation.storage.store import Store
from evaluation.training.removal import removal
from evaluation.training.retraining import correctness

__all__ = ["fine_tuned"]


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
    training = train_cell(cell, behind, train_view, labels, device)
    correct = correctness(network, test_view, test_labels, device=device)
    store.save_model(cell.id, network.state_dict())
    accuracy = record(cell, dataset.name, cell.spec["accuracy"], float(np.mean(correct)))
    return trained(training, correct, (accuracy,))


def fine_tuned(cell: Cell, store: Store, device: str) -> nn.Module | None:
    """Return the fine-tuned network that a cell reads, or None if it names none."""
    if "fine_tuned" not in cell.spec:
        return None
    _, network, _ = frozen(cell, store, device)
    network.load_state_dict(store.load_model(cell.spec["fine_tuned"]))
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[no-any-return,call-overload]
