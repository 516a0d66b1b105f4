"""The work of a cell in images, and its time at a throughput."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass

__all__ = ["Rates", "Work"]


@dataclass(frozen=True)
class Work:
    """Counts of images through the network, of maps to rank and of results kept.

    Args:
        training: images forward and backward, with their share of an optimizer's step.
        forward: images forward alone: tests, and methods that need no gradient.
        gradient: images forward, and backward to the input.
        ranking: maps whose pixels are ranked.
        levels: images whose levels are kept; one whose elements are ranked counts as three.
        networks: trained networks that are kept, with what they predict.

    >>> (Work(training=300, forward=50) + Work(forward=10)) * 2
    Work(training=600, forward=120, gradient=0, ranking=0, levels=0, networks=0)
    """

    training: int = 0
    forward: int = 0
    gradient: int = 0
    ranking: int = 0
    levels: int = 0
    networks: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: int) -> Work:
        return Work(*(times * part for part in astuple(self)))


@dataclass(frozen=True)
class Rates:
    """Throughput of one process on one device, in images a second.

    Args:
        training: images a second.
        forward: images a second.
        gradient: images a second.
        ranking: maps a second; infinite where the time is not counted.

    Raises:
        ValueError: one that is not above 0; names it.
    """

    training: float
    forward: float
    gradient: float
    ranking: float = float("inf")

    def __post_init__(self) -> None:
        """Check that each rate is above 0."""
        for name, rate in asdict(self).items():
            if not rate > 0:
                raise ValueError(f"{name} of {rate:g} images a second: expected more than 0")

    def seconds(self, work: Work) -> float:
        """Return the seconds that some work takes.

        >>> Rates(training=100.0, forward=300.0, gradient=150.0).seconds(Work(200, 300))
        3.0
        """
        return (
            work.training / self.training
            + work.forward / self.forward
            + work.gradient / self.gradient
            + work.ranking / self.ranking
        )
