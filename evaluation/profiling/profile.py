"""Cost of a map beyond the plain forward pass, as metrics: time, operations, memory.

Times come from `evaluation.profiling.timing`, operations from `evaluation.profiling.operations` and
bytes from `evaluation.profiling.memory`; all recorded costs are computed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from evaluation.profiling.memory import Memory, count_memory
from evaluation.profiling.operations import Operations, count_operations
from evaluation.profiling.timing import Call, Timing

__all__ = ["Counts", "count", "time_metrics"]


@dataclass(frozen=True)
class Counts:
    """Counts of a map and of the plain forward pass, equal in every run.

    Args:
        forward: operations of the forward pass.
        map: operations of the map, its own forward passes included.
        forward_memory: bytes of the forward pass.
        map_memory: bytes of the map.
    """

    forward: Operations
    map: Operations
    forward_memory: Memory
    map_memory: Memory

    @property
    def extra_peak_bytes(self) -> int:
        """Peak of live storages beyond that of the forward pass; at least 0."""
        return max(0, self.map_memory.peak_bytes - self.forward_memory.peak_bytes)

    @property
    def extra_scratch_bytes(self) -> int:
        """Peak beyond that of the forward pass, without returned storages; at least 0."""
        return max(0, self.map_memory.scratch_bytes - self.forward_memory.scratch_bytes)

    def metrics(self) -> dict[str, float]:
        """The counts by metric."""
        return {
            "map_flops": self.map.flops,
            "map_elementwise": self.map.elementwise,
            "map_transcendental": self.map.transcendental,
            "map_reduction": self.map.reduction,
            "peak_bytes": self.extra_peak_bytes,
            "scratch_bytes": self.extra_scratch_bytes,
        }

    @property
    def not_counted(self) -> dict[str, str]:
        """The names of the map's uncounted operations, if any, as an entry of a cell's hashes."""
        return {"not_counted": ", ".join(self.map.unknown)} if self.map.unknown else {}


def count(forward: Call, explain: Call) -> Counts:
    """Count operations and memory of a map beside the plain forward pass.

    Args:
        forward: runs the network on a batch, without gradients.
        explain: makes the maps of the same batch; called once before, so that the setup of its
            first call does not count.

    >>> import torch
    >>> square = torch.ones(8, 8)
    >>> counts = count(lambda: square @ square, lambda: square @ square @ square)
    >>> (counts.map - counts.forward).flops, counts.extra_peak_bytes
    (1024, 256)
    """
    forward(), explain()
    return Counts(
        forward=count_operations(forward),
        map=count_operations(explain),
        forward_memory=count_memory(forward),
        map_memory=count_memory(explain),
    )


def time_metrics(timing: Timing, images: int) -> dict[str, float]:
    """The times of a batch by metric, in milliseconds an image.

    Args:
        timing: timing of the batch.
        images: number of images in the batch.

    >>> time_metrics(Timing((10.0,), (12.0,), 50.0, 1), 2)["map_ms"]
    6.0
    """
    return {
        "forward_ms": median(timing.forward_ms) / images,
        "map_ms": median(timing.map_ms) / images,
        "overhead_percent": timing.overhead_percent.median,
        "first_ms": timing.first_ms,
    }
