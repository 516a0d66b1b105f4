"""The plan of a run that measures costs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PRECISIONS", "CostPlan", "sides_of"]

PRECISIONS = ("float32", "bfloat16")


def sides_of(grid: str) -> tuple[int, ...]:
    """The sides of a grid that is written with an x between them; of one row, its length alone.

    Raises:
        ValueError: other words.

    >>> sides_of("16x112x112"), sides_of("1x4096")
    ((16, 112, 112), (4096,))
    """
    words = grid.split("x")
    if len(words) not in (2, 3) or not all(word.isdecimal() and int(word) for word in words):
        raise ValueError(
            f"--size {grid}: expected a number of pixels, or sides such as 16x112x112 for volumes "
            "and 1x4096 for signals"
        )
    sides = tuple(map(int, words))
    return sides[1:] if len(sides) == 2 and sides[0] == 1 else sides


@dataclass(frozen=True)
class CostPlan:
    """Every option that a cost depends on.

    Args:
        models: as `evaluation.networks.build.build_network` takes them; their weights are
            random, with batch norms that have the statistics of noise: the cost depends on weights
            only where activations vanish.
        methods: names that `comparisons.methods.costed` knows.
        batches: numbers of images at once.
        size: height and width of the images.
        grid: the sides of volumes, such as ``"16x112x112"``, or of signals, ``"4096"`` samples as
            ``"1x4096"``; empty for images of `size`.
        channels: of the images.
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
    grid: str = ""
    channels: int = 3

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
            **{"--threads": self.threads, "--rounds": self.rounds, "--channels": self.channels},
        }
        if self.grid:
            sides_of(self.grid)
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
