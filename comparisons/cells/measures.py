"""Cells of measures without retraining."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from comparisons.budget import memory_budget_bytes
from comparisons.cells.cell import Cell, Outcome, cell_kind, record
from comparisons.cells.explained import explained_spec, fine_tuned, frozen, known_labels
from comparisons.cells.trained import new_network, resident, train_and_test, whole_views
from comparisons.measures import MEASURES, USUAL_STEPS, Finding, Sample
from comparisons.methods import Batch, Explain, get_method
from comparisons.methods.examples import example_batch
from evaluation.datasets.dataset import Dataset, choose_balanced, open_staged
from evaluation.metrics.passes import Forward, forward_in
from evaluation.metrics.randomisation import permuted_labels
from evaluation.networks.build import build_network, initialised_anew
from evaluation.networks.grid_networks import channels_last_of
from evaluation.networks.pretrained import AS_BUILT, OWN_CLASSES
from evaluation.storage.checkpoint import Checkpoint
from evaluation.storage.store import Store

__all__ = ["chosen_images"]

# Added to a cell's seed: the weights that randomise a network are not those it started from.
_UNTRAINED = 1_000_000
# Of the images that are explained and shown to the network together: 1,024 of 32x32, 20 of 224x224.
_PIXELS_AT_ONCE = 2**20
# What the cell's id, in the name of its checkpoint, does not say: the size of the parts.
_OF = f"{_PIXELS_AT_ONCE} pixels at once"
# What of a specification decides a method's maps of the explained network.
_OF_MAPS = ("data", "base", "base_hash", "model", "method", "parameters", "seed")
# The maps of one method by the numbers of their images: its next measure takes them.
_MAPS: dict[tuple[str, ...], dict[bytes, Tensor]] = {}
# In another engine, by the hash of the weights, the shape of an image, and the threads.
_FORWARDS: dict[tuple[object, ...], Forward] = {}


@cell_kind("measure")
def take_measure(cell: Cell, store: Store, device: str) -> Outcome:
    """Take one measure of one method's maps, on some test images and the frozen network."""
    dataset, network, targets = frozen(cell, store, device)
    base = explained_spec(cell, store)
    network.to(memory_format=channels_last_of(len(dataset.size)))
    chosen = chosen_images(np.asarray(dataset.test.labels), cell.spec["images"])
    labels = known_labels(network, base, dataset)
    entry, permuted = get_method(cell.spec["method"]), _permuted(cell, dataset, store, device)
    tuned = fine_tuned(cell, store, device)
    # Prepared once, for all images.
    explain = _remembered(entry.prepare(network), cell)
    forward = None
    if "passes_in" in cell.spec:
        shown = example_batch(dataset, "test", targets["test"], chosen[:1], device)
        forward = _forward(cell, network, shown.inputs)

    def prepare(model: nn.Module) -> Explain:
        return explain if model is network else entry.prepare(model)

    def sample(images: NDArray[np.int64]) -> Sample:
        return Sample(
            prepare=prepare,
            network=network,
            untrained=partial(_untrained, cell, base, network, dataset),
            permuted=permuted,
            batch=example_batch(dataset, "test", targets["test"], images, device),
            labels=None if labels is None else labels[images],
            pixels=np.asarray(dataset.test.images[images]),
            mean=dataset.mean,
            std=dataset.std,
            steps=cell.spec.get("steps", USUAL_STEPS),
            forward=forward,
            fine_tuned=tuned,
        )

    measure = MEASURES[cell.spec["measure"]]
    few = list(_few(chosen, dataset.size))
    checkpoint = store.checkpoint(cell.id, cell.title)
    parts = _loaded(checkpoint)
    for images in few[len(parts) :]:
        parts.append(list(measure.take(sample(images))))
        if checkpoint.due:
            checkpoint.save(_OF, _as_state(parts), len(parts) / len(few))
    findings = _joined(parts)
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
        "earlier_seconds": checkpoint.earlier_seconds,
    }


def _as_state(parts: Sequence[Sequence[Finding]]) -> dict[str, Any]:
    """Return the findings of the first parts of the images, as a checkpoint keeps them."""
    return {
        "parts": [
            [(found.metric, torch.tensor(found.values), found.layer) for found in part]
            for part in parts
        ]
    }


def _loaded(checkpoint: Checkpoint) -> list[list[Finding]]:
    """Return the findings of the parts of the images that an earlier start has measured."""
    state = checkpoint.load(_OF) or {"parts": []}
    return [
        [Finding(metric, values.numpy(), layer) for metric, values, layer in part]
        for part in state["parts"]
    ]


def _remembered(explain: Explain, cell: Cell) -> Explain:
    """Return a prepared method that makes each map once for all measures of this process."""
    key = tuple(str(cell.spec.get(name)) for name in _OF_MAPS)
    if key not in _MAPS:
        _MAPS.clear()
    made = _MAPS.setdefault(key, {})

    def remembered(batch: Batch) -> Tensor:
        name = batch.index.numpy().tobytes()
        if name in made:
            return made[name].clone()
        maps = explain(batch).detach().float().cpu()
        held = sum(other.nbytes for other in made.values())
        if held + maps.nbytes <= memory_budget_bytes():
            made[name] = maps.clone()
        return maps

    return remembered


def _forward(cell: Cell, network: nn.Module, example: Tensor) -> Forward:
    """Return the forward pass in another engine; the last one made serves the next cells."""
    key = cell.spec["base_hash"], tuple(example.shape), torch.get_num_threads()
    if key not in _FORWARDS:
        _FORWARDS.clear()
        _FORWARDS[key] = forward_in(cell.spec["passes_in"], network, example)
    return _FORWARDS[key]


def _few(chosen: NDArray[np.int64], size: tuple[int, ...]) -> Iterator[NDArray[np.int64]]:
    """Yield some of the images at a time, so that memory does not grow with their number."""
    at_once = max(1, _PIXELS_AT_ONCE // math.prod(size))
    for start in range(0, len(chosen), at_once):
        yield chosen[start : start + at_once]


def _joined(parts: Iterable[Sequence[Finding]]) -> list[Finding]:
    """Return the findings of parts of the images, each the same in number, as those of all."""
    return [
        replace(found[0], values=np.concatenate([part.values for part in found]))
        for found in zip(*parts, strict=True)
    ]


def _untrained(
    cell: Cell, base: Mapping[str, Any], network: nn.Module, dataset: Dataset
) -> nn.Module:
    """Return the explained network with initial weights."""
    seed = _UNTRAINED + cell.spec["seed"]
    if base.get("weights") == AS_BUILT:
        return initialised_anew(network, seed)
    outputs = None if base.get("classes") == OWN_CLASSES else len(dataset.classes)
    return build_network(
        cell.spec["model"], outputs, seed, size=dataset.size, channels=dataset.channels
    )


@cell_kind("permuted")
def train_on_permuted(cell: Cell, store: Store, device: str) -> Outcome:
    """Train the network on permuted labels, with the recipe of all others."""
    dataset = open_staged(store.local_data(cell.spec["data"]))
    labels = permuted_labels(np.asarray(dataset.train.labels), cell.spec["seed"])
    shuffled = replace(dataset, train=replace(dataset.train, labels=labels))
    views = resident(store, device, *whole_views(dataset))
    outcome, network = train_and_test(cell, shuffled, store, device, *views)
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


def _permuted(cell: Cell, dataset: Dataset, store: Store, device: str) -> nn.Module | None:
    """Return the network trained on permuted labels, or None if the cell names none."""
    if "permuted" not in cell.spec:
        return None
    network = new_network(cell, dataset)
    network.load_state_dict(store.load_model(cell.spec["permuted"]))
    memory_format = channels_last_of(len(dataset.size))
    return network.to(device, memory_format=memory_format).eval()  # type: ignore[call-overload,no-any-return]
