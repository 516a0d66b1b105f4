"""Frames a second of maps of a video, and of the network alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import torch

from comparisons.deployment.exported import patches
from evaluation.hardware import machine_facts
from evaluation.networks.build import build_network
from evaluation.profiling.timing import added_time
from fastsal import SMOEScale
from fastsal.attribution import video

NETWORKS, SIZE, FRAMES, ROUNDS, SMOOTHING = ("resnet50", "mobilenet_v3_large"), 224, 30, 25, 0.8
# One thread: others would spin while they wait, which counts as processor time.
THREADS = (1,)
PACKAGES = ("fastsal", "torch", "numba")


def rows() -> Iterator[dict[str, object]]:
    """Yield a row for each network and number of threads, for one frame at a time."""
    facts = machine_facts(PACKAGES)
    frames = patches(FRAMES, SIZE, 0)
    before = torch.get_num_threads()
    for name in NETWORKS:
        network = build_network(name, 1000, 0, size=(SIZE, SIZE)).eval()
        for threads in THREADS:
            torch.set_num_threads(threads)
            shown = cycle(frames[:, None])
            maps = video.maps(cycle(frames), SMOEScale(network), smoothing=SMOOTHING)

            def alone() -> object:
                with torch.inference_mode():
                    return network(next(shown))  # noqa: B023

            taken = added_time(alone, maps.__next__, ROUNDS)
            yield {
                "network": name,
                "size": SIZE,
                "threads": threads,
                "rounds": ROUNDS,
                "smoothing": SMOOTHING,
                "network_fps": round(1000 / taken.first_ms, 1),
                "network_processor_ms": round(taken.first_processor_ms, 2),
                **{
                    f"{kind}_{end}_percent": round(getattr(interval, end), 2)
                    for kind, interval in (("clock", taken.clock), ("processor", taken.processor))
                    for end in ("median", "low", "high")
                },
                **facts,
            }
    torch.set_num_threads(before)
