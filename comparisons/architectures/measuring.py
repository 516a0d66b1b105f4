"""Measurement of the maps of one trained network: mass in the object, and agreement of ranks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from comparisons.architectures.explainers import explainers
from comparisons.architectures.training import images, trained
from comparisons.methods import Batch
from comparisons.methods.examples import example_batch
from evaluation.masking.views import InputView
from evaluation.metrics.localisation import mass_in_object, object_ranking
from evaluation.metrics.randomisation import rank_correlation
from evaluation.training.retraining import predictions
from fastsal import find_scales
from fastsal.files import written_whole

__all__ = ["EXPLAINED", "Measured", "measured"]

# Test images that are explained, equally many a class.
EXPLAINED = 200
_DIGITS = 3


@dataclass(frozen=True)
class Measured:
    """The measurements of one trained network.

    Attributes:
        network: A key of `comparisons.architectures.networks.ARCHITECTURES`.
        seed: The training's seed.
        accuracy: The share of the test images that it classifies correctly.
        scales: The layers that SMOE Scale reads.
        mass: By method, the share of each image's map that lies in the object.
        ranking: By method, the share of pairs of a pixel in the object and one beside it in which
            the first is more salient, for each image.
        ranks: Of each image Spearman's correlation of the maps of SMOE Scale and the Gamma scale.
    """

    network: str
    seed: int
    accuracy: float
    scales: tuple[str, ...]
    mass: Mapping[str, tuple[float, ...]]
    ranking: Mapping[str, tuple[float, ...]]
    ranks: tuple[float, ...]

    @classmethod
    def read(cls, text: str) -> Measured:
        """Return a measurement from its line of JSON."""
        fields: dict[str, Any] = json.loads(text)
        for measure in ("mass", "ranking"):
            fields[measure] = {name: tuple(values) for name, values in fields[measure].items()}
        return cls(**fields | {name: tuple(fields[name]) for name in ("scales", "ranks")})

    def line(self) -> str:
        """Return the measurement as a line of JSON."""
        return json.dumps(asdict(self))


def measured(name: str, seed: int, folder: Path, say: Callable[[str], object]) -> Measured:
    """Return the measurements of a network, which is trained first if need be.

    Args:
        name: A key of `comparisons.architectures.networks.ARCHITECTURES`.
        seed: Of the training.
        folder: Of weights and measurements; what is there is not made again.
        say: Called with a line about the progress.
    """
    path = folder / f"{name}-{seed}.json"
    if path.exists():
        return Measured.read(path.read_text(encoding="utf-8"))
    network, accuracy = trained(name, seed, folder, say)
    batch = _batch(network)
    if batch.object_mask is None:
        raise RuntimeError("the images have the pixels of their objects")
    objects = batch.object_mask.numpy()
    mass, ranking, kept = {}, {}, {}
    for method, maps in explainers(name, network).items():
        saliency = maps(batch)
        mass[method] = _rounded(mass_in_object(saliency, objects))
        ranking[method] = _rounded(object_ranking(saliency, objects))
        kept[method] = saliency
    ranks = rank_correlation(kept["smoe-linear"], kept["gamma_scale-linear"])
    scales = tuple(scale.name for scale in find_scales(network, batch.inputs[:1]))
    found = Measured(name, seed, round(accuracy, _DIGITS), scales, mass, ranking, _rounded(ranks))
    with written_whole(path) as partial:
        partial.write_text(found.line() + "\n", encoding="utf-8")
    say(f"{name}, seed {seed}: accuracy {accuracy:.1%}, SMOE {np.mean(mass['smoe-linear']):.3f}")
    return found


def _batch(network: nn.Module) -> Batch:
    data = images()
    shown = InputView(data.test.images, data.mean, data.std)
    targets = predictions(network, shown)
    network.eval()
    # Classes take turns.
    return example_batch(data, "test", targets, np.arange(EXPLAINED))


def _rounded(values: NDArray[np.floating[Any]]) -> tuple[float, ...]:
    return tuple(round(float(value), _DIGITS) for value in values)
