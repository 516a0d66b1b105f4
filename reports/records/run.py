"""A run's directory, read for the page; whatever is not there yet is simply absent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from evaluation.masking.tracks import Track
from evaluation.storage.archive import RunFiles, open_run
from evaluation.storage.records import CellResult
from reports.records.same_start import starts, tuning_starts, unequal_trainings, unequal_tunings
from reports.records.tables import conflicts, drop_superseded, of_track, records_frame, unmasked

__all__ = ["GROUPS", "Method", "Run", "read_run"]

# Order and titles of the groups in every table and figure.
GROUPS: dict[str, str] = {
    "control": "Controls",
    "smoe": "SMOE Scale and other statistics",
    "cam": "Class activation maps",
    "gradient": "Gradient methods",
    "other": "Other methods",
}

# Kinds of cells that train a network: the unmasked reference, on masked images, on masks alone.
_TRAINING_KINDS = ("base", "retrain", "mask_only")


@dataclass(frozen=True)
class Method:
    """What the page says about a method.

    Args:
        name: key used in records.
        title: how tables and figures call it.
        citation: where it was published.
        parameters: its parameters.
        group: a key of `GROUPS`.
    """

    name: str
    title: str
    citation: str
    parameters: Mapping[str, Any]
    group: str


@dataclass(frozen=True)
class Run:
    """One run as the page sees it: one image set and one network.

    Args:
        files: where the results are: the run's own folder, or an archive of it.
        options: the plan's options, by name; empty where there is no plan.
        command: the command that started the run, or an empty string.
        methods: by name, in the plan's order within the order of `GROUPS`.
        results: every finished cell, older ones first.
        all_records: one row a record, of every finished cell.
        dataset: name of the image set of the page, or None before anything was measured.
        model: name of the network of the page, likewise.
        kind: ``"run"``, ``"layers"`` for one inside the network, or ``"profile"`` for one that
            measured costs alone.
        layers: the layers of a run inside the network, the shallowest first.
        log_base: base of its information score's logarithm; None for e.
        plan_file: the file that said the plan: its name, hash, and what it said the plan takes;
            empty where options were typed.
    """

    files: RunFiles
    options: Mapping[str, Any]
    command: str
    methods: Mapping[str, Method]
    results: Sequence[CellResult]
    all_records: pd.DataFrame
    dataset: str | None
    model: str | None
    kind: str = "run"
    layers: Sequence[str] = ()
    log_base: float | None = None
    plan_file: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _own_records(self) -> pd.DataFrame:
        frame = self.all_records
        own: pd.DataFrame = frame[
            (frame["dataset"] == self.dataset) & (frame["model"] == self.model)
        ]
        return own

    @cached_property
    def every_track(self) -> pd.DataFrame:
        """The records of the page's image set and network, one a number."""
        return drop_superseded(self._own_records)

    @property
    def track(self) -> Track:
        """How the plan reads ROAR and KAR first of all."""
        return Track(self.options.get("fill", "mean"), self.options.get("unit", "pixel"))

    @cached_property
    def records(self) -> pd.DataFrame:
        """Those of the plan's first track: what every table and figure shows, unless it says so."""
        return of_track(self.every_track, self.track)

    @cached_property
    def fractions(self) -> tuple[float, ...]:
        """The plan's fractions, sorted; without a plan, those measured."""
        planned = self.options.get("fractions")
        measured = self.records[self.records["metric"] == "accuracy"]["fraction"].dropna()
        return tuple(sorted(planned or set(measured.tolist())))

    @cached_property
    def modes(self) -> tuple[str, ...]:
        """Planned and measured modes: ``"roar"`` before ``"kar"``."""
        present = set(self.options.get("modes", ())) | set(self.records["mode"])
        return tuple(mode for mode in ("roar", "kar") if mode in present)

    def cells(self, kind: str) -> list[CellResult]:
        """The finished cells of a kind, older ones first."""
        return [result for result in self.results if result.kind == kind]

    @cached_property
    def _images(self) -> tuple[str | None, Mapping[str, Any]]:
        """The data cell of the page's images, and what ``meta.json`` says of them."""
        found: tuple[str | None, Mapping[str, Any]] = (None, {})
        for cell in self.cells("data"):
            facts = self.files.image_facts(cell.id)
            if facts and self.dataset in (None, facts.get("name")):
                found = cell.id, facts
        return found

    @property
    def data(self) -> Mapping[str, Any]:
        """Facts about the page's images; empty before they are staged."""
        return self._images[1]

    def of_test_images(self, name: str, index: Sequence[int]) -> NDArray[Any] | None:
        """Some entries of an array of the page's test images; None where it is not there.

        Args:
            name: ``test_images``, ``test_labels`` or ``test_object_masks``.
            index: which images.
        """
        cell = self._images[0]
        return None if cell is None else self.files.of_test_images(cell, name, index)

    @cached_property
    def chance(self) -> float | None:
        """Accuracy of guessing, 1 / number of classes."""
        classes = self.data.get("classes")
        return 1 / len(classes) if classes else None

    def in_group(self, group: str) -> list[Method]:
        """The methods of a group."""
        return [method for method in self.methods.values() if method.group == group]

    @cached_property
    def warnings(self) -> list[str]:
        """What a reader has to know before believing a number."""
        if self.kind == "profile":
            return []
        return [
            *unequal_trainings(self._trainings),
            *unequal_tunings(self.same_tuning_start),
            *self._nothing_learned(),
            *conflicts(self._own_records),
            *self._left_out(),
        ]

    @cached_property
    def _trainings(self) -> list[CellResult]:
        """The cells that trained a network for a number of the page."""
        used = set(self.every_track["cell"])
        cells = [cell for kind in _TRAINING_KINDS for cell in self.cells(kind)]
        return [cell for cell in cells if cell.id in used]

    @cached_property
    def same_tuning_start(self) -> list[dict[str, Any]]:
        """For each seed and layer: how many fine-tunings, and the hashes that all share, or None.

        Beside the start and the order, the weights before the mask, which fine-tuning leaves.
        """
        used = set(self.records["cell"])
        own = [cell for cell in self.cells("tune") if cell.id in used]
        return tuning_starts(own, self.layers)

    def _nothing_learned(self) -> list[str]:
        whole = unmasked(self.records)
        if whole is None or self.chance is None or whole.mean > self.chance:
            return []
        return [
            f"The unmasked test accuracy, {100 * whole.mean:.1f} %, is not above chance, "
            f"{100 * self.chance:.1f} %: the network has learned nothing that masking could take "
            "away. Train longer, or on more images."
        ]

    def _left_out(self) -> list[str]:
        others = self.all_records[["dataset", "model"]].drop_duplicates().itertuples(index=False)
        return [
            f"This directory also holds records of {model} on {dataset}; they are in records.csv, "
            "not on this page."
            for dataset, model in others
            if (dataset, model) != (self.dataset, self.model)
        ]

    @cached_property
    def same_start(self) -> list[dict[str, Any]]:
        """For each seed: how many trainings, and the hash that all of them share, or None."""
        return starts(self._trainings)


def read_run(path: Path) -> Run:
    """Read a finished or partly finished run.

    Args:
        path: the run's folder, or an archive of it.

    Returns:
        The run.

    Raises:
        FileNotFoundError: `path` holds neither a plan nor a finished cell.
        ValueError: ``plan.json`` is no plan, or the archive is damaged.
    """
    files = open_run(path)
    plan_path = path / "plan.json"
    plan: dict[str, Any] = json.loads(plan_path.read_text()) if plan_path.exists() else {}
    if not isinstance(plan, dict):
        raise ValueError(f"{plan_path} holds a {type(plan).__name__}; expected an object")
    results = files.results()
    records = records_frame(results)
    dataset, model = _subject(records)
    return Run(
        files=files,
        options=plan.get("plan", {}),
        command=plan.get("command", ""),
        methods=_methods(plan, records),
        results=results,
        all_records=records,
        dataset=dataset,
        model=model,
        kind=plan.get("kind", "run"),
        layers=tuple(plan.get("layers", ())),
        log_base=plan.get("log_base"),
        plan_file=plan.get("plan_file", {}),
    )


def _subject(records: pd.DataFrame) -> tuple[str | None, str | None]:
    """The image set and network that most records are about."""
    pairs = Counter(zip(records["dataset"], records["model"], strict=True))
    return pairs.most_common(1)[0][0] if pairs else (None, None)


def _methods(plan: Mapping[str, Any], records: pd.DataFrame) -> dict[str, Method]:
    described: Mapping[str, Mapping[str, Any]] = plan.get("methods", {})
    listed = plan.get("plan", {}).get("methods", ())
    names = dict.fromkeys([*(name for name in listed if name in described), *described])
    names |= dict.fromkeys(name for name in records["method"].tolist() if name != "none")
    found = []
    for name in names:
        about = described.get(name, {})
        group = about.get("group", "other")
        found.append(
            Method(
                name=name,
                title=about.get("title", name),
                citation=about.get("citation", ""),
                parameters=about.get("parameters", {}),
                group=group if group in GROUPS else "other",
            )
        )
    order = list(GROUPS)
    return {m.name: m for m in sorted(found, key=lambda method: order.index(method.group))}
