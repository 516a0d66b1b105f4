"""Rank correlation of SMOE Scale to the Gamma scale on ImageNet's photographs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from comparisons.methods import Batch, get_method
from evaluation.datasets.listing import Request
from evaluation.datasets.load import load_dataset
from evaluation.metrics.randomisation import rank_correlation
from fastsal.files import written_whole

__all__ = ["photographs"]

SIZE = 224
_COMPARED = ("smoe-linear", "gamma_scale-linear")
_TOGETHER = 8
_DIGITS = 4


def photographs(data: str, count: int, path: Path, say: Callable[[str], object]) -> list[float]:
    """Return Spearman's correlation of both maps of EfficientNet-Lite0 on each photograph.

    Args:
        data: The photographs as ``--data`` names them, such as ``imagenet:PATH``.
        count: The number of photographs of the validation split, equally many a class.
        path: Of the JSON file; photographs in it are not measured again.
        say: Called with a line when all are.
    """
    from reports.pictures.photographs import efficientnet_lite0

    network = efficientnet_lite0()
    request = Request(train_images=count, test_images=count, image_size=SIZE)
    images = load_dataset(data, request).test.images
    ranks: list[float] = []
    if path.exists():
        ranks = json.loads(path.read_text(encoding="utf-8"))["ranks"]
    prepared = [get_method(name).prepare(network) for name in _COMPARED]
    for start in range(len(ranks), len(images), _TOGETHER):
        indices = np.arange(start, min(start + _TOGETHER, len(images)))
        pixels = torch.from_numpy(np.asarray(images[indices]))
        # As the network was trained.
        inputs = 2 * pixels.permute(0, 3, 1, 2).float() / 255 - 1
        with torch.inference_mode():
            target = network(inputs).argmax(1)
        batch = Batch(inputs, target, torch.from_numpy(indices), 2.0, (-1.0, -1.0, -1.0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            ours, gamma = (explain(batch).detach().float().numpy() for explain in prepared)
        ranks += [round(float(value), _DIGITS) for value in rank_correlation(ours, gamma)]
        with written_whole(path) as partial:
            partial.write_text(json.dumps({"ranks": ranks}) + "\n", encoding="utf-8")
    say(f"photographs: {len(ranks)} of {len(images)}")
    return ranks
