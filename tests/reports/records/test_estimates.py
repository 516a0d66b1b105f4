"""Tables against numbers worked out by hand from the planted accuracies."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from evaluation.storage.records import CellResult
from evaluation.storage.store import Store
from reports.records.estimates import (
    accuracies,
    differences,
    levels,
    per_method,
    score_sums,
    sums,
    unmasked,
)
from reports.records.frames import conflicts, drop_superseded, records_frame
from reports.records.reading import read_run

FRACTIONS = (0.1, 0.5, 0.9)
# Student's t, two-sided 95 %, one degree of freedom, from a printed table.
T1 = 12.7062


def records_of(run: Path) -> pd.DataFrame:
    return records_frame(Store(run).results())


def test_accuracies_are_means_over_seeds(finished_run: Path) -> None:
    found = accuracies(records_of(finished_run))
    # Centre disk loses 0.45 a unit of removed pixels from 0.75; seeds 0 and 1 add 0 and 0.01.
    removed = found["centre", "roar", 0.5]
    assert removed.mean == pytest.approx(0.525 + 0.005)
    # Standard deviation 0.01 / sqrt(2), of the mean 0.005.
    assert removed.interval == pytest.approx((0.53 - T1 * 0.005, 0.53 + T1 * 0.005), rel=1e-4)
    assert removed.seeds == (0, 1)
    assert removed.cells == ("centre-roar-0.5-0", "centre-roar-0.5-1")
    assert len(found) == 4 * 2 * 3


def test_the_random_control_is_its_own_dual(finished_run: Path) -> None:
    found = accuracies(records_of(finished_run))
    kept = found["random", "kar", 0.1]
    assert kept.mean == found["random", "roar", 0.9].mean
    assert kept.cells == ("random-roar-0.9-0", "random-roar-0.9-1")
    assert kept.derived_from == "roar at 90 %"


def test_sums_are_those_of_a_pocket_calculator(finished_run: Path) -> None:
    gradient = sums(score_sums(records_of(finished_run), FRACTIONS))["gradient"]
    # ROAR: 3 * 0.75 - 0.22 * (0.1 + 0.5 + 0.9) = 1.92; KAR: 3 * 0.75 - 0.3 * 0.78 * 1.5 = 1.899;
    # seed 1 adds 0.03 to each, so both means are 0.015 higher and SUM does not change.
    assert gradient.roar is not None
    assert gradient.kar is not None
    assert gradient.total is not None
    assert gradient.roar.mean == pytest.approx(-1.935)
    assert gradient.kar.mean == pytest.approx(1.914)
    assert gradient.kar.interval == pytest.approx(
        (1.914 - T1 * 0.015, 1.914 + T1 * 0.015), rel=1e-4
    )
    assert gradient.total.mean == pytest.approx(-0.021)
    assert len(gradient.total.cells) == 2 * 3 * 2
    random = sums(score_sums(records_of(finished_run), FRACTIONS))["random"]
    assert random.total is not None
    assert random.total.mean == pytest.approx(0, abs=1e-12)


def test_a_seed_without_all_fractions_does_not_count(partial_run: Path) -> None:
    found = sums(score_sums(records_of(partial_run), FRACTIONS))
    assert found["gradient"].kar is not None
    assert found["gradient"].kar.seeds == (0,)
    assert found["gradient"].kar.interval is None
    assert found["gradient"].roar is not None
    assert found["gradient"].roar.seeds == (0, 1)
    assert found["smoe-linear"].kar is None
    assert found["smoe-linear"].total is None


def test_levels_take_the_unmasked_accuracy_of_the_same_seed(finished_run: Path) -> None:
    found = levels(records_of(finished_run), chance=0.25)["centre", "roar", 0.9]
    # 0.75 - 0.45 * 0.9 = 0.345 at seed 0, 0.355 at seed 1.
    by_hand = ((0.345 - 0.25) / 0.5, (0.355 - 0.25) / 0.51)
    assert found.mean == pytest.approx(sum(by_hand) / 2)
    assert levels(records_of(finished_run), chance=None) == {}
    assert levels(records_of(finished_run), chance=0.9) == {}


def test_differences_are_paired_by_seed(uneven_run: Path) -> None:
    records = records_of(uneven_run)
    # Every method's KAR is 0.03 lower at seed 1: it cancels between methods, not within one.
    by_score = score_sums(records, FRACTIONS)
    single = sums(by_score)["centre"].total
    assert single is not None
    assert single.half_width == pytest.approx(T1 * 0.09 / 2, rel=1e-4)
    found = differences(by_score["total"], "smoe-linear")
    # Centre against SMOE: ROAR 1.5 * (0.45 - 0.42), KAR 0.3 * 1.5 * (0.45 - 0.42).
    assert found["centre"].mean == pytest.approx(0.045 + 0.0135)
    assert found["centre"].half_width == pytest.approx(0, abs=1e-9)
    assert "smoe-linear" not in found
    assert differences(by_score["total"], "no such control") == {}


def test_reference_and_costs(finished_run: Path) -> None:
    records = records_of(finished_run)
    whole = unmasked(records)
    assert whole is not None
    assert whole.mean == pytest.approx(0.755)
    assert whole.cells == ("base0", "base1")
    assert per_method(records, "attribution_ms")["gradient"].mean == 0.5 * 9
    assert "centre" not in per_method(records, "pointing_game")


def test_of_two_cells_for_one_number_the_later_counts_and_both_are_named(
    finished_run: Path,
) -> None:
    results = list(Store(finished_run).results())
    old = next(result for result in results if result.id == "centre-roar-0.5-0")
    record = replace(old.records[0], cell="again", value=0.9)
    results.append(CellResult("again", "retrain", {}, (record,)))
    records = records_frame(results)
    found = accuracies(drop_superseded(records))["centre", "roar", 0.5]
    assert sorted(found.cells) == ["again", "centre-roar-0.5-1"]
    (sentence,) = conflicts(records)
    assert "2 cells measured the accuracy of centre, roar 50 %, seed 0" in sentence
    assert "centre-roar-0.5-0, again" in sentence
    assert conflicts(records_frame(Store(finished_run).results())) == []
    twice = [replace(r, cell=f"twice-{r.cell}") for result in results for r in result.records]
    many = conflicts(records_frame([*results, CellResult("twice", "retrain", {}, tuple(twice))]))
    assert len(many) == 6
    assert re.fullmatch(r"So did they for \d+ more numbers\.", many[-1])


def test_a_layer_is_another_experiment(finished_run: Path) -> None:
    results = list(Store(finished_run).results())
    old = next(result for result in results if result.id == "centre-roar-0.5-0")
    inside = replace(old.records[0], cell="inside", value=0.1, layer="layer3")
    records = records_frame([*results, CellResult("inside", "retrain", {}, (inside,))])
    assert accuracies(records)["centre", "roar", 0.5].mean == pytest.approx(0.53)
    assert conflicts(records) == []


def test_methods_keep_the_plan_s_order_within_their_group(finished_run: Path) -> None:
    run = read_run(finished_run)
    assert list(run.methods) == ["random", "centre", "smoe-linear", "gradient"]
    assert run.fractions == FRACTIONS
    assert run.modes == ("roar", "kar")
    assert run.chance == 0.25
    # Unmasked, ROAR of four methods, KAR of all but random; at seed 0 two on masks alone.
    assert [row["trainings"] for row in run.same_start] == [1 + 3 * 7 + 2, 1 + 3 * 7]
    assert run.warnings == []
