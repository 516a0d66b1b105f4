"""Goals for the added time in every form, held against what was recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from evaluation.profiling.timing import Interval
from reports.analysis.cost_claims import Verdict
from reports.costs.added_times import SMOE, SUMS, Added, Place

__all__ = ["FORM_GOALS", "IN_ENGINES", "WITH_MAP", "FormGoal", "FormRow", "form_rows"]

WITH_MAP = "with-map"
# A place of a goal for any GPU.
GPU = "a GPU"
_PROFILE = "python -m comparisons profile"
_ENGINES = "python -m comparisons deployment engines"


@dataclass(frozen=True)
class FormGoal:
    """The most that a map may add at one place.

    Args:
        place: where; the device `GPU` stands for any.
        method: whose map.
        percent: the bound, if it is a number.
        times: else it is so many times the added time of another method at the same place.
        plus: points that are added to that.
        of: the other method.
        of_precision: precision of the other added time, if it is another than the place's.
    """

    place: Place
    method: str
    percent: float | None = None
    times: float = 1.0
    plus: float = 0.0
    of: str = SUMS
    of_precision: str = ""

    def limit(self, found: Mapping[tuple[Place, str], Added], place: Place) -> Interval | None:
        """The bound in percent, with the interval of the added time that it follows.

        A number is its own interval. None if the other added time was not measured.
        """
        if self.percent is not None:
            return Interval(self.percent, self.percent, self.percent, 1.0)
        other = found.get((replace(place, precision=self.of_precision or place.precision), self.of))
        if other is None:
            return None
        of = other.percent
        median, low, high = (
            self.times * value + self.plus for value in (of.median, of.low, of.high)
        )
        return Interval(median, low, high, of.covers)

    @property
    def words(self) -> str:
        """The bound in words, if it is no number.

        >>> place = Place("PyTorch", "resnet50", "cpu", "float32", 1, 1)
        >>> FormGoal(place, SMOE, times=1.4, plus=0.5).words
        '1.4 times the sum + 0.5'
        """
        if self.percent is not None:
            return ""
        if self.of_precision:
            return f"as {self.of_precision}"
        what = {SUMS: "the sum", SMOE: "SMOE Scale"}[self.of]
        factor = f"{self.times:g} times {what}" if self.times != 1 else f"as {what}"
        return f"{factor} + {self.plus:g}" if self.plus else factor

    @property
    def command(self) -> str:
        """The command that measures it."""
        place = self.place
        if place.form in ("onnxruntime", "OpenVINO"):
            return _ENGINES
        methods = ",".join(dict.fromkeys((SMOE, SUMS, self.method)))
        options = [f"--model {place.network}", f"--batch {place.batch}", f"--methods {methods}"]
        options += [f"--threads {place.threads}"] if place.device == "cpu" else ["--device cuda"]
        options += [] if place.precision == "float32" else [f"--dtype {place.precision}"]
        options += {"torch.compile": ["--compile"], "CUDA graphs": ["--cuda-graphs"]}.get(
            place.form, []
        )
        return " ".join([_PROFILE, *options])


@dataclass(frozen=True)
class FormRow:
    """A goal beside what was recorded at its place.

    Args:
        goal: the goal.
        place: the place, with the GPU's name.
        added: the added time; None if it was not measured.
        floor: that of the sum over channels; None if it was not measured.
        limit: the bound in percent; None if it follows from what was not measured.
    """

    goal: FormGoal
    place: Place
    added: Added | None
    floor: Added | None
    limit: Interval | None

    @property
    def verdict(self) -> Verdict:
        """The median held against the bound; not told if their intervals overlap."""
        if self.added is None or self.limit is None:
            return Verdict(None)
        own, bound = self.added.percent, self.limit
        overlap = own.low < bound.high and bound.low < own.high
        return Verdict(own.median <= bound.median, unsure=overlap)


def form_rows(found: Mapping[tuple[Place, str], Added]) -> Iterator[FormRow]:
    """Each goal with what was recorded, a row for each GPU that it was measured on.

    Args:
        found: as `reports.costs.added_times.added_times`.
    """
    gpus = list(dict.fromkeys(place.device for place, _ in found if place.device != "cpu"))
    for goal in FORM_GOALS:
        devices = (gpus or [GPU]) if goal.place.device == GPU else ["cpu"]
        for device in devices:
            place = replace(goal.place, device=device)
            added, floor = (found.get((place, method)) for method in (goal.method, SUMS))
            yield FormRow(goal, place, added, floor, goal.limit(found, place))


_NETWORKS = ("resnet50", "mobilenet_v3_large", "resnet18", "efficientnet_b0")
_FAST_CAM = {"resnet50": 4.0, "mobilenet_v3_large": 8.0}
# Percent, of a float32 network in a form.
IN_ENGINES = {
    ("onnxruntime", "resnet50"): 4.0,
    ("onnxruntime", "mobilenet_v3_large"): 15.0,
    ("onnxruntime", "efficientnet_lite0"): 15.0,
    ("OpenVINO", "resnet50"): 5.0,
    ("OpenVINO", "mobilenet_v3_large"): 25.0,
}
_ON_CPU = Place("PyTorch", "resnet50", "cpu", "float32", 2, 1)
_ON_GPU = Place("PyTorch", "resnet50", GPU, "float32", 0, 1)
FORM_GOALS = (
    *(
        FormGoal(replace(_ON_CPU, network=name, threads=threads), SMOE, times=1.4, plus=0.5)
        for name in _NETWORKS
        for threads in (1, 2)
    ),
    *(
        FormGoal(replace(_ON_CPU, network=name, threads=threads), "fastcam", percent)
        for name, percent in _FAST_CAM.items()
        for threads in (1, 2)
    ),
    *(
        FormGoal(replace(_ON_CPU, network=name, batch=batch), WITH_MAP, of=SMOE)
        for name in _FAST_CAM
        for batch in (1, 8)
    ),
    *(
        FormGoal(replace(_ON_CPU, form="torch.compile", network=name, batch=batch), WITH_MAP, 3.0)
        for name in _FAST_CAM
        for batch in (1, 8)
    ),
    *(
        FormGoal(replace(_ON_CPU, form=form, network=name, threads=threads), SMOE, percent)
        for (form, name), percent in IN_ENGINES.items()
        for threads in (1, 2)
    ),
    *(
        FormGoal(
            replace(_ON_CPU, form=form, network=name, threads=1, precision="int8"),
            *(SMOE, None, 1.0, 0.0, SMOE, "float32"),
        )
        for form in ("onnxruntime", "OpenVINO")
        for name in ("resnet50", "mobilenet_v3_large", "efficientnet_lite0")
    ),
    *(
        FormGoal(
            replace(_ON_GPU, form="CUDA graphs", precision=precision, batch=batch), WITH_MAP, 3.0
        )
        for precision in ("float32", "bfloat16")
        for batch in (1, 16, 64)
    ),
    *(FormGoal(replace(_ON_GPU, batch=batch), SMOE) for batch in (1, 16, 64)),
)
