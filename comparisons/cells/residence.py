"""Image sets that a worker keeps in its device's memory from one cell to the next."""

from __future__ import annotations

from evaluation.masking.resident import FREE_SHARE, Residence, ResidentView, stored_bytes
from evaluation.masking.views import View
from evaluation.storage.store import Store

__all__ = ["resident", "too_large"]

# By device: what this process keeps there.
_RESIDENCES: dict[str, Residence] = {}
_SAID: set[str] = set()


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
