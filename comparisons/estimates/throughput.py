"""Throughput of a plan's network on a device, measured by a trial or given by the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from comparisons.cells.run import environment
from comparisons.engines.resources import Resources
from comparisons.estimates.trial import try_out
from comparisons.methods.work import Rates
from comparisons.plans.plan import Plan

__all__ = ["Throughput", "given", "measured"]

# A training step takes three forward passes: one forward, two backward to weights and inputs.
_FORWARD_OF_TRAINING, _GRADIENT_OF_TRAINING = 3.0, 1.5
_OPTION = "--images-per-second"


@dataclass(frozen=True)
class Throughput:
    """Images a second and their source.

    Args:
        rates: of one process on one device.
        source: ``"measured"``, or ``"given"``.
        device: name of the device.
        batch: images of a training step in the trial; None for given numbers.
        notes: remarks on the numbers, in words.
        environment: versions and hardware of the trial; empty for given numbers.
    """

    rates: Rates
    source: str
    device: str
    batch: int | None = None
    notes: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The numbers and their source in one sentence.

        >>> given("400").words
        'given, not measured: 400 images a second in training, 1,200 forward, 600 with a gradient'
        """
        rates = self.rates
        untrained = rates.training == float("inf")
        said = "" if untrained else f"{_number(rates.training)} images a second in training, "
        said += (
            f"{_number(rates.forward)} {'images a second ' if untrained else ''}forward, "
            f"{_number(rates.gradient)} with a gradient"
        )
        if rates.ranking != float("inf"):
            said += f", {_number(rates.ranking)} maps ranked"
        if self.source != "measured":
            return f"{self.source}, not measured: {said}"
        return f"measured on {self.device}, batch {self.batch}: {said}"

    def to_json(self) -> dict[str, Any]:
        """The throughput as in a plan file; a rate that is not counted is null."""
        content = asdict(self)
        rates = content["rates"]
        content["rates"] = {
            name: None if rate == float("inf") else rate for name, rate in rates.items()
        }
        return content | {"notes": list(self.notes)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Throughput:
        """A throughput from its JSON form.

        >>> Throughput.from_json(given("300").to_json()) == given("300")
        True
        """
        rates = {
            name: float("inf") if rate is None else rate for name, rate in data["rates"].items()
        }
        return cls(**{**data, "rates": Rates(**rates), "notes": tuple(data["notes"])})


def given(text: str) -> Throughput:
    """The throughput given as text: ``TRAINING[,FORWARD[,GRADIENT[,RANKING]]]``.

    Rates that are left out follow from that of training by operations: forward passes are three
    times as fast, passes with a gradient one and a half times. Ranking that is left out is not
    counted.

    Raises:
        ValueError: not one to four numbers above 0; the message names the option.

    >>> given("300,900").rates
    Rates(training=300.0, forward=900.0, gradient=450.0, ranking=inf)
    """
    words = [word.strip() for word in text.split(",")]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 4 or not all(0 < number < float("inf") for number in numbers):
        raise ValueError(
            f"{_OPTION} {text!r}: expected images a second above 0, "
            "TRAINING[,FORWARD[,GRADIENT[,RANKING]]], such as 2500 or 2500,4000,1500"
        )
    training, *more = numbers
    defaults = (
        _FORWARD_OF_TRAINING * training,
        _GRADIENT_OF_TRAINING * training,
        float("inf"),
    )
    rates = Rates(training, *more, *defaults[len(more) :])
    notes = []
    if len(more) < 2:
        notes.append(
            "forward passes and gradients not given are taken as 3 and 1.5 times as fast as a "
            "training step, by operations; maps are made in float32, which may be slower"
        )
    if len(more) < 3:
        notes.append("ranking the pixels of maps is not counted")
    return Throughput(rates, "given", "a device that was not measured", notes=tuple(notes))


def measured(
    plan: Plan,
    *,
    classes: int,
    size: tuple[int, ...],
    resources: Resources,
    seconds: float,
) -> Throughput:
    """The throughput measured by a trial on this device; arguments as `try_out` takes them."""
    trial = try_out(plan, classes=classes, size=size, resources=resources, seconds=seconds)
    found = environment(resources.device)
    found |= {"threads": resources.threads, "memory_budget_mib": resources.memory_budget_mib}
    return Throughput(trial.rates, "measured", found["processor"], trial.batch, trial.notes, found)


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
