"""What a run that measures costs is, and the cells it means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from comparisons.cells.cell import Cell
from comparisons.cells.costs import NETWORK_ALONE
from comparisons.methods.costed import costed

__all__ = ["PRECISIONS", "CostPlan"]

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class CostPlan:
    """Every option that a cost depends on.

    Args:
        models: as `evaluation.training.networks.build_network` takes them; their weights are
            random, since the cost does not depend on them.
        methods: names that `comparisons.methods.costed` knows.
        batches: how many images at once.
        size: height and width of the images.
        classes: of the networks.
        threads: that PyTorch may use.
        rounds: pairs of samples at most.
        limit_s: seconds after which no further round of a method starts, once there are three.
        precisions: ``float32``, ``bfloat16``, of weights and images.
        compiled: time the networks as `torch.compile` makes them too, beside the eager ones.
        memory_budget_mib: what one pass of a method may hold.
        device: where the networks are.
    """

    models: tuple[str, ...]
    methods: tuple[str, ...]
    batches: tuple[int, ...] = (1, 8)
    size: int = 224
    classes: int = 1000
    threads: int = 1
    rounds: int = 101
    limit_s: float = 30.0
    precisions: tuple[str, ...] = ("float32",)
    compiled: bool = False
    memory_budget_mib: int = 4096
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse what cannot be run, at the edge."""
        given: dict[str, tuple[tuple[object, ...], str]] = {
            "models": (self.models, "resnet50"),
            "batch sizes": (self.batches, "1,8"),
            "precisions": (self.precisions, "float32"),
        }
        for what, (values, example) in given.items():
            if not values:
                raise ValueError(f"no {what} given: expected at least one, such as {example}")
            repeated = [value for value in values if values.count(value) > 1]
            if repeated:
                raise ValueError(f"{what}: {repeated[0]} is given twice, give it once")
        numbers = {
            **{"--batch": min(self.batches), "--size": self.size, "--classes": self.classes},
            **{"--threads": self.threads, "--rounds": self.rounds},
        }
        for option, value in numbers.items():
            if value < 1:
                raise ValueError(f"{option} {value}: expected at least 1")
        if not self.limit_s > 0:
            raise ValueError(f"--limit {self.limit_s:g}: expected more than 0 seconds")
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise ValueError(
                    f"unknown precision {precision!r}: expected some of {', '.join(PRECISIONS)}"
                )

    def cells(self) -> Iterator[tuple[str, Cell]]:
        """Each cell and how people call it.

        Of each network the times first, so that a method's first call is the first one there,
        then what is counted.
        """
        for model in self.models:
            before = f"{model}, " if len(self.models) > 1 else ""
            for precision in self.precisions:
                of = f"{before}{precision}, " if len(self.precisions) > 1 else before
                yield from self._of_network(model, precision, of)

    def _of_network(self, model: str, precision: str, of: str) -> Iterator[tuple[str, Cell]]:
        common = {
            "model": model,
            "size": self.size,
            "classes": self.classes,
            "precision": precision,
        }
        place = {
            "device": self.device,
            # What was measured on another machine is no measurement of this one.
            "hardware": _hardware(self.device),
        }
        timed = {
            **common,
            **place,
            "threads": self.threads,
            "rounds": self.rounds,
            "limit_s": self.limit_s,
        }
        budget = {"memory_budget_mib": self.memory_budget_mib}
        for compiled in (False, True) if self.compiled else (False,):
            for batch in self.batches:
                for name, method in self._rows():
                    spec = {**timed, **budget, **method, "batch": batch, "compiled": compiled}
                    title = f"{of}{'compiled, ' if compiled else ''}{name}, {batch} at once"
                    yield title, Cell("cost", spec)
        for batch in self.batches:
            title = f"{of}the statistic over one reading, {batch} at once"
            yield title, Cell("reading", {**timed, "batch": batch})
        for name, method in self._rows():
            yield f"{of}{name}, counted", Cell("counts", {**common, **place, **budget, **method})
        yield f"{of}operations of each step", Cell("steps", common)

    def _rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The network alone and each method: what people call it, and its part of a cell."""
        yield "the network alone", {"method": NETWORK_ALONE, "parameters": {}}
        known = costed()
        for name in self.methods:
            yield name, {"method": name, "parameters": dict(known[name].parameters)}


def _hardware(device: str) -> str:
    """The accelerator's name; processors are told apart by the cell's environment."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu"
