"""What a run that measures costs is, and the cells it means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from comparisons.cells import Cell
from comparisons.costs.cells import NETWORK_ALONE
from comparisons.costs.methods import costed

__all__ = ["PRECISIONS", "CostPlan"]

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class CostPlan:
    """Every option that a cost depends on.

    Args:
        model: as `evaluation.networks.build_network` takes it; its weights are random, since the
            cost does not depend on them.
        methods: names that `comparisons.costs.methods` knows.
        batches: how many images at once.
        size: height and width of the images.
        classes: of the network.
        threads: that PyTorch may use.
        rounds: pairs of samples at most.
        limit_s: seconds after which no further round of a method starts, once there are three.
        precision: ``float32`` or ``bfloat16``, of weights and images.
        memory_budget_mib: what one pass of a method may hold.
        device: where the network is.
    """

    model: str
    methods: tuple[str, ...]
    batches: tuple[int, ...] = (1, 8)
    size: int = 224
    classes: int = 1000
    threads: int = 1
    rounds: int = 21
    limit_s: float = 60.0
    precision: str = "float32"
    memory_budget_mib: int = 4096
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse what cannot be run, at the edge."""
        if not self.batches:
            raise ValueError("no batch sizes given: expected at least one, such as 1,8")
        numbers = {
            **{"--batch": min(self.batches), "--size": self.size, "--classes": self.classes},
            **{"--threads": self.threads, "--rounds": self.rounds},
        }
        for option, value in numbers.items():
            if value < 1:
                raise ValueError(f"{option} {value}: expected at least 1")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"unknown precision {self.precision!r}: expected one of {', '.join(PRECISIONS)}"
            )

    def cells(self) -> Iterator[tuple[str, Cell]]:
        """Each cell and how people call it: the steps, then the network alone, then the methods."""
        common = {
            "model": self.model,
            "size": self.size,
            "classes": self.classes,
            "precision": self.precision,
        }
        yield "operations of each step", Cell("steps", common)
        known = costed()
        for batch in self.batches:
            for name in (NETWORK_ALONE, *self.methods):
                parameters = {} if name == NETWORK_ALONE else dict(known[name].parameters)
                spec = {
                    **common,
                    "method": name,
                    "parameters": parameters,
                    "batch": batch,
                    "threads": self.threads,
                    "rounds": self.rounds,
                    "limit_s": self.limit_s,
                    "memory_budget_mib": self.memory_budget_mib,
                    "device": self.device,
                    # What was measured on another machine is no measurement of this one.
                    "hardware": _hardware(self.device),
                }
                title = "the network alone" if name == NETWORK_ALONE else name
                yield f"{title}, {batch} at once", Cell("cost", spec)


def _hardware(device: str) -> str:
    """The accelerator's name; processors are told apart by the cell's environment."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu"
