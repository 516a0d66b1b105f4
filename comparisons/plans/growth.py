"""Plans of the runs whose time and memory are measured, which differ in one option at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from comparisons.plans.plan import Plan
from evaluation.storage.hashes import spec_id
from evaluation.training.retraining import Recipe

__all__ = ["ENGINES", "SERIES", "Case", "Sizes", "cases"]

# The option that a series varies, and the title of its axis.
SERIES: dict[str, str] = {
    "workers": "worker processes",
    "engine": "engine",
    "images": "training images",
    "methods": "methods",
    "fractions": "fractions",
}
ENGINES = ("local", "ray")
# Some of each group, the cheap ones first.
_METHODS = (
    *("random", "gradient", "smoe-linear", "centre"),
    *("sobel", "fastcam", "guided-backprop", "gradcam"),
)
_FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
# Enough equal trainings that two workers end within a few percent of each other.
_EQUAL_SEEDS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measured runs.

    Args:
        workers: numbers of worker processes.
        engines: some of `ENGINES`.
        images: numbers of training images; the first is that of the other series.
        methods: numbers of methods; the first is that of the other series.
        fractions: numbers of fractions; the first is that of the other series.
        cell_images: training images of each of the equal cells that workers share.

    Raises:
        ValueError: a number or a name that cannot be; says which.
    """

    workers: Sequence[int] = (1, 2)
    engines: Sequence[str] = ENGINES
    images: Sequence[int] = (1000, 4000, 16000)
    methods: Sequence[int] = (2, 4, 8)
    fractions: Sequence[int] = (1, 3, 5)
    cell_images: int = 4000

    def __post_init__(self) -> None:
        """Check every size and name."""
        most = {"methods": len(_METHODS), "fractions": len(_FRACTIONS)}
        for name in ("workers", "images", "methods", "fractions"):
            numbers = getattr(self, name)
            largest = most.get(name, max(numbers, default=0))
            if not all(1 <= number <= largest for number in numbers):
                wanted = f"from 1 to {largest}" if name in most else "of at least 1"
                raise ValueError(
                    f"{name} {', '.join(map(str, numbers))}: expected numbers {wanted}"
                )
        for engine in self.engines:
            if engine not in ENGINES:
                raise ValueError(f"engine {engine!r}: expected some of {', '.join(ENGINES)}")
        if self.cell_images < 1:
            raise ValueError(f"cell images {self.cell_images}: expected at least 1")


@dataclass(frozen=True)
class Case:
    """One run to measure.

    Args:
        series: a key of `SERIES`.
        value: its value.
        plan: of the run.
        engine: that runs the cells.
        workers: number of processes.
    """

    series: str
    value: str
    plan: Plan
    engine: str = "local"
    workers: int = 1

    @property
    def id(self) -> str:
        """Id of the run: the same for two series that share it."""
        own = {"plan": self.plan.to_json(), "engine": self.engine, "workers": self.workers}
        return spec_id(own)


def cases(sizes: Sizes, precision: str) -> list[Case]:
    """Return every run to measure, series by series.

    Args:
        sizes: of the runs.
        precision: of all trainings.

    >>> sizes = Sizes(workers=(1, 2), engines=(), images=(), methods=(2,), fractions=(1, 3))
    >>> [(case.series, case.value) for case in cases(sizes, "float32")]
    [('workers', '1'), ('workers', '2'), ('methods', '2'), ('fractions', '1'), ('fractions', '3')]
    """
    recipe = Recipe(epochs=1, precision=precision)
    base = Plan(
        "shapes",
        "resnet9",
        _METHODS[: next(iter(sizes.methods), 2)],
        fractions=_spread(next(iter(sizes.fractions), 1)),
        mask_only=(),
        train_images=next(iter(sizes.images), 1000),
        test_images=500,
        recipe=recipe,
    )
    # Random is its own dual: five fractions are five trainings a seed, and one unmasked.
    equal = replace(
        base,
        methods=("random",),
        fractions=_FRACTIONS,
        seeds=_EQUAL_SEEDS,
        train_images=sizes.cell_images,
    )
    # Cells that take next to no time, so that the time between them shows.
    tiny = replace(
        base,
        methods=("random", "centre"),
        fractions=_FRACTIONS,
        train_images=64,
        test_images=32,
        image_size=16,
    )
    return [
        *(Case("workers", str(n), equal, workers=n) for n in sizes.workers),
        *(Case("engine", name, tiny, engine=name) for name in sizes.engines),
        *(Case("images", str(n), replace(base, train_images=n)) for n in sizes.images),
        *(Case("methods", str(n), replace(base, methods=_METHODS[:n])) for n in sizes.methods),
        *(Case("fractions", str(n), replace(base, fractions=_spread(n))) for n in sizes.fractions),
    ]


def _spread(number: int) -> tuple[float, ...]:
    """Return the given number of fractions, from the middle out, rising."""
    from_middle = sorted(_FRACTIONS, key=lambda fraction: (abs(fraction - 0.5), fraction))
    return tuple(sorted(from_middle[:number]))
