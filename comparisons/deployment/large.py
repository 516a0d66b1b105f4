"""Peak memory and time of the map of a large image, in tiles and whole."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from evaluation.hardware import machine_facts
from fastsal import SMOEScale
from reports.pictures.photographs import efficientnet_lite0

TILE, OVERLAP, THREADS = 1024, 128, 2
# Sides of the image, and True for tiles. The whole image of 8192 would take some 14 GB.
RUNS = ((2048, True), (4096, True), (8192, True), (2048, False), (4096, False))
PACKAGES = ("fastsal", "torch", "numba")


def rows() -> Iterator[dict[str, object]]:
    """Yield a row for each side, in tiles and whole, each measured in a process of its own."""
    facts = machine_facts(PACKAGES)
    for side, tiled in RUNS:
        command = [sys.executable, "-m", "comparisons.deployment.large", str(side)]
        done = subprocess.run(
            [*command, *(["--tiled"] if tiled else [])], check=True, capture_output=True, text=True
        )
        yield {**json.loads(done.stdout.splitlines()[-1]), **facts}


def measured(side: int, tiled: bool) -> dict[str, Any]:
    """Make the map of one image in this process; return its time and memory.

    Args:
        side: Of the image, in pixels.
        tiled: True for tiles, False for the whole image.

    Returns:
        Seconds and megabytes: the rise of the process's peak above that with the network, the
        image and a first map of a small image, with the search for the scales of an image of this
        size, which a first call makes; the maps of all scales with the combined map; the
        image itself.
    """
    torch.set_num_threads(THREADS)
    options: dict[str, Any] = {"tile": (TILE, TILE), "overlap": OVERLAP} if tiled else {}
    attributor = SMOEScale(efficientnet_lite0(), **options)
    # Compile and load everything that is compiled or loaded once.
    attributor.maps(torch.rand(1, 3, 224, 224))
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    before = _peak_bytes()
    started = time.perf_counter()
    found = attributor.maps(image)
    seconds = time.perf_counter() - started
    after = _peak_bytes()
    maps = (found.combined, *found.per_scale)
    if not all(one.isfinite().all() for one in maps):
        raise ValueError(f"the maps of {side} x {side} pixels are not finite")
    return {
        "network": "efficientnet_lite0",
        "side": side,
        "tile": TILE if tiled else 0,
        "overlap": OVERLAP if tiled else 0,
        "threads": THREADS,
        "seconds": round(seconds, 1),
        "peak_megabytes": round((after - before) / 1e6),
        "maps_megabytes": round(sum(one.nbytes for one in maps) / 1e6),
        "image_megabytes": round(image.nbytes / 1e6),
    }


def _peak_bytes() -> int:
    import resource  # not on Windows, where the other commands run all the same

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", type=int)
    parser.add_argument("--tiled", action="store_true")
    given = parser.parse_args()
    print(json.dumps(measured(given.side, given.tiled)))
