"""A recorded run: its plan, methods, cells and records, and the scores that they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from evaluation.datasets.grids import GRIDS, Grid
from evaluation.masking.variants import Variant
from evaluation.storage.records import CellResult
from evaluation.storage.run_files import RunFiles
from reports.records.costs import with_settings
from reports.records.estimates import (
    Estimate,
    Place,
    SeedSums,
    Sums,
    accuracies,
    binomial_interval,
    differences,
    score_sums,
    sums,
    unmasked,
)
from reports.records.frames import conflicts, drop_superseded, of_metric, of_variant
from reports.records.same_start import starts, tuning_starts, unequal_trainings, unequal_tunings

__all__ = ["GROUPS", "Method", "Run"]

# Groups of methods, in the order of every table and figure, with their titles.
GROUPS: dict[str, str] = {
    "control": "Controls",
    "smoe": "SMOE Scale and other statistics",
    "activation": "Maps from activations alone",
    "cam": "Class activation maps",
    "gradient": "Gradient methods",
    "other": "Other methods",
}

# Kinds of cells that train a network: on plain images, on masked images, on masks alone.
_TRAINING_KINDS = ("base", "retrain", "mask_only")


@dataclass(frozen=True)
class Method:
    """A method as pages name it.

    Args:
        name: key used in records.
        title: name in tables and figures.
        citation: of its publication.
        parameters: by name.
        group: a key of `GROUPS`.
    """

    name: str
    title: str
    citation: str
    parameters: Mapping[str, Any]
    group: str


@dataclass(frozen=True)
class Run:
    """A finished or unfinished run: one image set and one network.

    What was not measured yet is missing from the frames, and None where it is one value.

    Args:
        files: of the run's own folder, or of an archive of it.
        options: the plan's options, by name; empty without a plan.
        command: the command that started the run, or an empty string.
        methods: by name, in the plan's order within the order of `GROUPS`.
        results: every finished cell, older ones first.
        all_records: of every finished cell, one row a record.
        dataset: name of the image set; None before anything was measured.
        model: name of the network; None before anything was measured.
        kind: ``"run"``, ``"layers"`` for ROAR and KAR inside the network, or ``"profile"`` for
            costs alone.
        layers: the layers of a run inside the network, the shallowest first.
        log_base: base of the information score's logarithm; None for e.
        plan_file: name and hash of the plan's file, and the cost stated in it; empty if the
            options were typed.
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
    def table(self) -> pd.DataFrame:
        """The records as files have them: those of costs with setting and interval of each."""
        if self.kind != "profile":
            return self.all_records
        return with_settings(self.all_records, self.results)

    @cached_property
    def _own_records(self) -> pd.DataFrame:
        frame = self.all_records
        own: pd.DataFrame = frame[
            (frame["dataset"] == self.dataset) & (frame["model"] == self.model)
        ]
        return own

    @cached_property
    def every_variant(self) -> pd.DataFrame:
        """Records of this image set and network in every variant of ROAR and KAR, one a number."""
        return drop_superseded(self._own_records)

    @property
    def variant(self) -> Variant:
        """The plan's first variant of ROAR and KAR."""
        return Variant(self.options.get("fill", "mean"), self.options.get("unit", "pixel"))

    @cached_property
    def records(self) -> pd.DataFrame:
        """Records of the plan's first variant, for all tables and figures that name no other."""
        return of_variant(self.every_variant, self.variant)

    @cached_property
    def fractions(self) -> tuple[float, ...]:
        """The plan's fractions, or those measured if there is no plan; sorted."""
        planned = self.options.get("fractions")
        measured = self.records[self.records["metric"] == "accuracy"]["fraction"].dropna()
        return tuple(sorted(planned or set(measured.tolist())))

    @cached_property
    def modes(self) -> tuple[str, ...]:
        """Planned and measured modes, ``"roar"`` before ``"kar"``."""
        present = set(self.options.get("modes", ())) | set(self.records["mode"])
        return tuple(mode for mode in ("roar", "kar") if mode in present)

    @property
    def measures_alone(self) -> bool:
        """True if the plan retrains nothing and takes measures of a frozen network."""
        return self.kind == "run" and self.options.get("modes", ("roar",)) in ((), [])

    @cached_property
    def accuracy_records(self) -> pd.DataFrame:
        """The test accuracies among `records`, without those inside the network."""
        return of_metric(self.records, "accuracy")

    @cached_property
    def unmasked(self) -> Estimate | None:
        """The accuracy without any masking; None before it was measured."""
        return unmasked(self.records)

    @cached_property
    def accuracies(self) -> Mapping[Place, Estimate]:
        """Accuracies on masked images, by method, mode and fraction."""
        return accuracies(self.records)

    @cached_property
    def mask_only_accuracies(self) -> Mapping[Place, Estimate]:
        """Accuracies from the masks alone, by method, mode and fraction."""
        return accuracies(self.records, "mask_only_accuracy")

    @cached_property
    def seed_sums(self) -> Mapping[str, Mapping[str, SeedSums]]:
        """Sums by score (a key of `reports.records.estimates.SCORES`), method and seed."""
        return score_sums(self.records, self.fractions)

    @cached_property
    def sums(self) -> Mapping[str, Sums]:
        """KAR, ROAR and SUM over the seeds, by method."""
        return sums(self.seed_sums)

    def differences(self, reference: str, score: str) -> dict[str, Estimate]:
        """A score of every other method minus that of `reference`, paired by seed.

        Args:
            reference: name of a method.
            score: a key of `reports.records.estimates.SCORES`.
        """
        return differences(self.seed_sums[score], reference)

    def cells(self, kind: str) -> list[CellResult]:
        """The finished cells of a kind, older ones first."""
        return [result for result in self.results if result.kind == kind]

    @cached_property
    def _images(self) -> tuple[str | None, Mapping[str, Any]]:
        """Id of the cell that staged the images, and their ``meta.json``."""
        found: tuple[str | None, Mapping[str, Any]] = (None, {})
        for cell in self.cells("data"):
            facts = self.files.image_facts(cell.id)
            if facts and self.dataset in (None, facts.get("name")):
                found = cell.id, facts
        return found

    @property
    def data(self) -> Mapping[str, Any]:
        """Facts about the images, from ``meta.json``; empty before they are staged."""
        return self._images[1]

    def of_test_images(self, name: str, index: Sequence[int]) -> NDArray[Any] | None:
        """Entries of an array of the test images; None if the array is gone.

        Args:
            name: ``test_images``, ``test_labels`` or ``test_object_masks``.
            index: which images.
        """
        cell = self._images[0]
        return None if cell is None else self.files.of_test_images(cell, name, index)

    @property
    def grid(self) -> Grid:
        """The words for the samples: images of pixels until others are staged."""
        return GRIDS[self.axes]

    @property
    def network(self) -> str:
        """The network's name in sentences: of a function without the module or file that has it.

        ``package.module:function`` is "function"; ``timm:TAG`` stays.
        """
        where, _, name = (self.model or "").rpartition(":")
        return name if "." in where or "/" in where else self.model or ""

    @property
    def subject(self) -> str:
        """The images and the network, for titles."""
        return ", ".join(filter(None, (self.dataset or "nothing measured yet", self.network)))

    @property
    def axes(self) -> int:
        """The number of a sample's axes; 2 until others are staged."""
        return len(self.data.get("size", ())) or 2

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
        """Warnings that stand above all numbers, a sentence each."""
        if self.kind == "profile":
            return []
        return [
            *unequal_trainings(self._trainings),
            *unequal_tunings(self.same_tuning_start),
            *self._nothing_learned(),
            *conflicts(self._own_records),
            *self._left_out(),
        ]

    @property
    def networks_trained(self) -> int:
        """The number of networks that the run has trained."""
        return sum(len(self.cells(kind)) for kind in _TRAINING_KINDS)

    @cached_property
    def _trainings(self) -> list[CellResult]:
        """Cells that trained a network for a number of the page."""
        used = set(self.every_variant["cell"])
        cells = [cell for kind in _TRAINING_KINDS for cell in self.cells(kind)]
        return [cell for cell in cells if cell.id in used]

    @cached_property
    def same_tuning_start(self) -> list[dict[str, Any]]:
        """Fine-tunings by seed and layer: how many, and the hashes that all of them share.

        The hashes are of the initial weights, of the order of images, and of the weights before the
        masked layer, which fine-tuning must not change; None if they differ.
        """
        used = set(self.records["cell"])
        own = [cell for cell in self.cells("tune") if cell.id in used]
        return tuning_starts(own, self.layers)

    def _nothing_learned(self) -> list[str]:
        whole = self.unmasked
        if whole is None or self.chance is None:
            return []
        interval = whole.interval or binomial_interval(whole.mean, self.data.get("test"))
        low = whole.mean if interval is None else interval[0]
        if low > self.chance:
            return []
        said = f"The unmasked test accuracy, {100 * whole.mean:.1f} %, is not"
        chance = f"chance, {100 * self.chance:.1f} %"
        if interval is None or whole.mean <= self.chance:
            return [
                f"{said} above {chance}: the network has learned nothing that masking could take "
                "away. Train longer, or on more images."
            ]
        return [
            f"{said} told from {chance}, which its 95 % interval, {100 * interval[0]:.1f} to "
            f"{100 * interval[1]:.1f} %, holds: the scores say little about the methods. Train "
            "longer, with more seeds, or on more images."
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
        """Trainings by seed: how many, and the hashes that all share; None if they differ."""
        return starts(self._trainings)
