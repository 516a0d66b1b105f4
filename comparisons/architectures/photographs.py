"""Insertion less deletion of EfficientNet-Lite0, trained on ImageNet, on its photographs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from comparisons.architectures.measuring import METHODS
from comparisons.methods import Batch, get_method
from evaluation.datasets.listing import Request
from evaluation.datasets.load import load_dataset
from evaluation.masking.levels import by_saliency, tie_orders
from evaluation.metrics.perturbation import perturbation_curves, with_channel_mean
from evaluation.metrics.randomisation import rank_correlation
from fastsal.files import written_whole

__all__ = ["Photographs", "photographs"]

SIZE = 224
_SHARES = tuple(round(step / 10, 10) for step in range(11))
_TOGETHER = 8
_DIGITS = 4


@dataclass(frozen=True)
class Photographs:
    """The measurements of the photographs so far.

    Attributes:
        difference: By method, insertion less deletion of each photograph.
        ranks: Of each photograph Spearman's correlation of the maps of SMOE Scale and Gamma scale.
    """

    difference: Mapping[str, tuple[float, ...]]
    ranks: tuple[float, ...]


def photographs(data: str, count: int, path: Path, say: Callable[[str], object]) -> Photographs:
    """Return insertion less deletion of photographs, those of earlier runs among them.

    Args:
        data: The photographs as ``--data`` names them, such as ``imagenet:PATH``.
        count: The number of photographs of the validation split, equally many a class.
        path: Of the JSON file, written after every few photographs.
        say: Called with a line after every few.
    """
    from reports.pictures.photographs import efficientnet_lite0

    network = efficientnet_lite0()
    images = load_dataset(
        data, Request(train_images=1, test_images=count, image_size=SIZE)
    ).test.images
    found: dict[str, list[float]] = {name: [] for name in METHODS}
    ranks: list[float] = []
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        found, ranks = stored["difference"], stored["ranks"]
    prepared = {name: get_method(name).prepare(network) for name in METHODS}
    for start in range(len(ranks), len(images), _TOGETHER):
        indices = np.arange(start, min(start + _TOGETHER, len(images)))
        pixels = torch.from_numpy(np.asarray(images[indices]))
        # As the network was trained.
        inputs = 2 * pixels.permute(0, 3, 1, 2).float() / 255 - 1
        with torch.inference_mode():
            target = network(inputs).argmax(1)
        batch = Batch(inputs, target, torch.from_numpy(indices), 2.0, (-1.0, -1.0, -1.0))
        maps: dict[str, Tensor] = {}
        for name, explain in prepared.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                maps[name] = explain(batch).detach().float()
            flat = maps[name].flatten(1).numpy()
            ranked = by_saliency(flat, tie_orders(flat.shape[1], indices, 0))
            most, least = (
                perturbation_curves(
                    network,
                    with_channel_mean(inputs),
                    target,
                    ranked,
                    (SIZE, SIZE),
                    _SHARES,
                    first=first,
                ).area
                for first in ("most", "least")
            )
            found[name] += [round(float(value), _DIGITS) for value in least - most]
        ranks += [
            round(float(value), _DIGITS)
            for value in rank_correlation(
                maps["smoe-linear"].numpy(), maps["gamma_scale-linear"].numpy()
            )
        ]
        kept = Photographs({name: tuple(values) for name, values in found.items()}, tuple(ranks))
        with written_whole(path) as partial:
            partial.write_text(json.dumps(asdict(kept)) + "\n", encoding="utf-8")
        say(f"photographs: {len(ranks)} of {len(images)}")
    return Photographs({name: tuple(values) for name, values in found.items()}, tuple(ranks))
