"""The plan of a run that measures costs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PRECISIONS", "CostPlan"]

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class CostPlan:
    """Every option that a cost depends on.

    Args:
        models: as `evaluation.training.networks.build_network` takes them; their weights are
            random, since the cost does not depend on them.
        methods: names that `comparisons.methods.costed` knows.
        batches: numbers of images at once.
        size: height and width of the images.
        classes: of the networks.
        threads: that PyTorch may use.
        rounds: pairs of samples at most.
        limit_s: seconds after which no further round of a method starts, once there are three.
        precisions: ``float32``, ``bfloat16``, of weights and images.
        compiled: time the networks as `torch.compile` makes them too, beside the eager ones.
        cuda_graphs: the same with CUDA graphs, `torch.compile`'s mode "reduce-overhead".
        memory_budget_mib: memory budget of one pass of a method.
        device: of the networks.
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
    cuda_graphs: bool = False
    memory_budget_mib: int = 4096
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check every option."""
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
        if self.cuda_graphs and not self.device.startswith("cuda"):
            raise ValueError(f"--cuda-graphs is for --device cuda, got {self.device}")
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise ValueError(
                    f"unknown precision {precision!r}: expected some of {', '.join(PRECISIONS)}"
                )
