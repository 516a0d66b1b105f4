"""Checks that compared trainings share initial weights and order of images, by their hashes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evaluation.storage.records import CellResult

__all__ = ["starts", "tuning_starts", "unequal_trainings", "unequal_tunings"]


def starts(trainings: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Trainings by seed: how many, and the hashes that all of them share; None if they differ."""
    rows = []
    for seed in sorted({_seed(cell) for cell in trainings}, key=str):
        own = [cell for cell in trainings if _seed(cell) == seed]
        shared = {key: _shared(own, key) for key in ("init", "order")}
        rows.append({"seed": seed, "trainings": len(own), **shared})
    return rows


def tuning_starts(tunings: Iterable[CellResult], layers: Sequence[str]) -> list[dict[str, Any]]:
    """Fine-tunings by seed and layer: how many, and the hashes that all share; None if they differ.

    Args:
        tunings: cells that fine-tuned the network after a layer.
        layers: in the order of the rows.
    """
    by_place: dict[tuple[int, int], list[CellResult]] = {}
    for cell in tunings:
        place = int(cell.spec["seed"]), layers.index(cell.spec["layer"])
        by_place.setdefault(place, []).append(cell)
    return [
        {
            "seed": seed,
            "layer": layers[place],
            "trainings": len(own),
            **{key: _shared(own, key) for key in ("init", "order", "before")},
        }
        for (seed, place), own in sorted(by_place.items())
    ]


def unequal_trainings(trainings: Sequence[CellResult]) -> list[str]:
    """Warnings about trainings of one seed with different initial weights or batches."""
    found = []
    for key, what in (("init", "initial weights"), ("order", "order of batches, crops and flips")):
        by_seed: dict[int | None, dict[str, list[str]]] = {}
        for cell in trainings:
            value = cell.hashes.get(key, "no hash")
            by_seed.setdefault(_seed(cell), {}).setdefault(value, []).append(cell.id)
        for seed, hashes in by_seed.items():
            if len(hashes) > 1:
                odd = [name for cells in sorted(hashes.values(), key=len)[:-1] for name in cells]
                found.append(
                    f"The trainings of seed {seed} do not share their {what} "
                    f"({len(hashes)} different hashes): their accuracies must not be compared. "
                    f"Cells that differ from the most common hash: {', '.join(odd[:12])}"
                    f"{' and more' if len(odd) > 12 else ''}."
                )
    return found


def unequal_tunings(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Warnings about rows of `tuning_starts` whose fine-tunings differ in a hash."""
    return [
        f"The fine-tunings after {row['layer']} of seed {row['seed']} do not share their initial "
        "weights, their order, or the weights before the mask: their accuracies must not be "
        "compared."
        for row in rows
        if None in (row["init"], row["order"], row["before"])
    ]


def _shared(cells: Sequence[CellResult], key: str) -> str | None:
    hashes = {cell.hashes.get(key) for cell in cells}
    return hashes.pop() if len(hashes) == 1 else None


def _seed(cell: CellResult) -> int | None:
    return cell.records[0].seed if cell.records else cell.spec.get("seed")
