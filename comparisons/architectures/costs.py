"""Cost of a map on the published network of each family."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from comparisons.architectures.networks import ARCHITECTURES
from evaluation.hardware import machine_facts
from evaluation.profiling.timing import added_time
from fastsal import SMOEScale
from fastsal.files import written_whole
from fastsal.networks.by_name import build_network

__all__ = ["costs"]

_ROUNDS = 11
_CLASSES_ALONE = ("torch", "torchvision", "timm")


def costs(path: Path, names: list[str], say: Callable[[str], object]) -> dict[str, dict[str, Any]]:
    """Return the time that a map adds to a forward pass of one image, by family.

    One thread, random weights, in processor time, which other processes do not add to.

    Args:
        path: Of the JSON file; families in it are not measured again.
        names: Keys of `comparisons.architectures.networks.ARCHITECTURES`.
        say: Called with a line for each.
    """
    found: dict[str, dict[str, Any]] = {}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    for name in names:
        if name in found:
            continue
        one = ARCHITECTURES[name]
        torch.manual_seed(0)
        network = build_network(one.published).eval()
        image = torch.rand(1, 3, one.size, one.size)
        smoe = SMOEScale(network)

        def forward(network: Any = network, image: Any = image) -> object:
            with torch.inference_mode():
                return network(image)

        def explain(smoe: Any = smoe, image: Any = image) -> object:
            with torch.inference_mode():
                return smoe.attribute(image)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            time = added_time(forward, explain, _ROUNDS)
        found[name] = {
            "network": one.published,
            "size": one.size,
            "forward_ms": round(time.first_processor_ms, 2),
            "median": round(time.processor.median, 2),
            "low": round(time.processor.low, 2),
            "high": round(time.processor.high, 2),
            "rounds": _ROUNDS,
            **machine_facts(_CLASSES_ALONE),
        }
        with written_whole(path) as partial:
            partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        say(f"{one.published}: {time.processor.median:.1f} % added to {time.first_ms:.0f} ms")
    return found
