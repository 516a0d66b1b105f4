"""Other readings of ROAR and KAR beside the first: planted scores, ranks and Kendall's tau."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import combinations

import pytest

from evaluation.masking.variants import Variant, crossfitted
from evaluation.storage.records import CellResult, Record
from evaluation.storage.store import Store
from reports.analysis.ranking_changes import ranking_changes
from reports.pages.build import build
from reports.records.reading import read_run

pytestmark = pytest.mark.heavy

FRACTIONS = (0.1, 0.5, 0.9)
NOISY, RECURSIVE = Variant(fill="noisy-linear"), Variant(recursive=True)
# What the other reading adds to each method's KAR, at seeds 0 and 1.
GAINS = {
    "random": (0.00, 0.02),
    "centre": (-0.20, -0.22),
    "smoe-linear": (0.01, 0.01),
    "gradient": (0.15, 0.11),
}


def _add(path, track, *, modes=("roar", "kar"), name=lambda method: method, derived=None):
    """Write a track's accuracies: KAR as planted and the gain on top, ROAR as planted."""
    store = Store(path)
    for method, gains in GAINS.items():
        for seed, gain in enumerate(gains):
            for mode in modes:
                for fraction in FRACTIONS:
                    value = planted(method, mode, fraction, seed) + (mode == "kar") * gain
                    value -= (modes == ("roar",)) * gain  # ROAR's score is minus its accuracy
                    cell = f"{track.title or 'b'}-{name(method)}-{mode}-{fraction}-{seed}"
                    record = Record(
                        name(method),
                        {},
                        "shapes",
                        "resnet9",
                        mode,
                        fraction,
                        None,
                        "accuracy",
                        value,
                        "1",
                        seed,
                        "0.1.0",
                        cell,
                        derived,
                        **asdict(track),
                    )
                    hashes = {"init": f"init{seed}", "order": f"order{seed}"}
                    store.save_result(
                        CellResult(cell, "retrain", {}, (record,), hashes=hashes, seconds=1.0)
                    )


def _tau(before: list[float], after: list[float]) -> float:
    """Kendall's tau of orders without ties: agreeing pairs less the others, over all."""
    pairs = list(combinations(range(len(before)), 2))
    signs = [1 if (before[i] - before[j]) * (after[i] - after[j]) > 0 else -1 for i, j in pairs]
    return sum(signs) / len(pairs)


def planted(method: str, mode: str, fraction: float, seed: int) -> float:
    """Accuracies of the first track: no two methods have the same sums, random's KAR its ROAR."""
    step = 0.04 * list(GAINS).index(method) * fraction
    return round((0.4 + step if mode == "kar" else 0.4 - step) + 0.01 * seed, 6)


@pytest.fixture
def path(new_run):
    """A run of the first track alone, two seeds."""
    return new_run(fractions=FRACTIONS, seeds=(0, 1), accuracy=planted)


def test_a_run_of_one_track_shows_no_change(path):
    assert ranking_changes(read_run(path)) == []
    assert "What other readings do" not in build(path).read_text()


def test_scores_ranks_and_tau_are_those_of_a_count_by_hand(path):
    _add(path, NOISY)
    (change,) = ranking_changes(read_run(path))
    assert (change.title, change.variant, change.score) == ("fill noisy-linear", NOISY, "SUM")

    def total(method: str, seed: int, gain: float = 0.0) -> float:
        kar = sum(planted(method, "kar", fraction, seed) for fraction in FRACTIONS)
        roar = sum(planted(method, "roar", fraction, seed) for fraction in FRACTIONS)
        return kar - roar + 3 * gain

    before = {name: (total(name, 0) + total(name, 1)) / 2 for name in GAINS}
    after = {
        name: sum(total(name, seed, gain) for seed, gain in enumerate(gains)) / 2
        for name, gains in GAINS.items()
    }
    rows = {row.method.name: row for row in change.rows}
    assert [row.method.name for row in change.rows] == sorted(before, key=lambda n: -before[n])
    for name, row in rows.items():
        assert row.score.mean == pytest.approx(before[name])
        assert row.other_score.mean == pytest.approx(after[name])
        assert row.shift.mean == pytest.approx(after[name] - before[name])
        assert row.rank == 1 + sum(value > before[name] for value in before.values())
        assert row.other_rank == 1 + sum(value > after[name] for value in after.values())
        assert row.moved == abs(row.rank - row.other_rank)
    # Half of Student's interval of two seeds: 12.706 times half their distance.
    distance = 3 * abs(GAINS["gradient"][0] - GAINS["gradient"][1])
    assert rows["gradient"].shift.half_width == pytest.approx(12.7062 * distance / 2, rel=1e-4)
    assert change.tau == pytest.approx(_tau(list(before.values()), list(after.values())))
    assert change.tau < 1


def test_recursive_roar_is_compared_by_roar_alone(path):
    _add(path, RECURSIVE, modes=("roar",), derived="the first track: the same masks")
    (change,) = ranking_changes(read_run(path))
    assert change.score == "ROAR score"
    assert change.taken_over == 4 * 2 * 3
    rows = {row.method.name: row for row in change.rows}
    assert rows["centre"].shift.mean == pytest.approx(-3 * 0.21)


def test_seeds_that_one_side_lacks_do_not_count(path):
    _add(path, NOISY)
    for cell in (path / "cells").glob("fill noisy-linear-gradient-kar-0.5-1.json"):
        cell.unlink()
    (change,) = ranking_changes(read_run(path))
    (row,) = (row for row in change.rows if row.method.name == "gradient")
    assert row.score.seeds == row.other_score.seeds == row.shift.seeds == (0,)
    assert row.shift.mean == pytest.approx(3 * 0.15)
    assert row.shift.interval is None


def test_blurred_methods_stand_beside_the_plain(path):
    _add(path, Variant(), name=lambda method: f"{method}+blur")
    (change,) = ranking_changes(read_run(path))
    assert (change.title, change.variant, len(change.rows)) == ("maps blurred", None, 4)
    rows = {row.method.name: row for row in change.rows}
    assert rows["gradient"].shift.mean == pytest.approx(3 * 0.13)


def test_other_tracks_change_no_number_of_the_first(path):
    before = read_run(path)
    _add(path, NOISY)
    _add(path, Variant(mask_unit="element"))
    _add(path, Variant(target_from=crossfitted(5)))
    after = read_run(path)
    columns = ["method", "mode", "fraction", "metric", "seed", "value"]
    same = before.records[columns].sort_values(columns).reset_index(drop=True)
    assert same.equals(after.records[columns].sort_values(columns).reset_index(drop=True))
    assert after.warnings == before.warnings
    assert [change.title for change in ranking_changes(after)] == [
        "fill noisy-linear",
        "unit element",
        "targets crossfitted in 5 folds",
    ]


def test_the_page_shows_every_change(path):
    for track in (NOISY, Variant(mask_unit="element"), Variant(target_from=crossfitted(5))):
        _add(path, track)
    _add(path, RECURSIVE, modes=("roar",))
    _add(path, Variant(), name=lambda method: f"{method}+blur")
    html = build(path).read_text()
    for words in (
        "What other readings do to the ranking",
        "Rong et al. 2022",
        "Hooker et al. 2018",
        "the other 4 of 5 folds",
        "Madsen et\nal. 2022",
        "Maps blurred",
    ):
        assert words in html
    assert html.count('<h3 id="track-') == 5
    # Records of other tracks do not stand under the ids that the first track's numbers link to.
    assert 'id="record-accuracy-gradient-roar-50"' in html
    assert 'id="record-accuracy-gradient-roar-50-fill_20noisy-linear"' in html


def test_the_first_track_is_the_plan_s(path):
    _add(path, NOISY)
    run = read_run(path)
    turned = replace(run, options={**run.options, "fill": "noisy-linear"})
    (change,) = ranking_changes(turned)
    assert change.title == "as the protocol"
    (original,) = ranking_changes(run)
    shifts = {row.method.name: row.shift.mean for row in original.rows}
    for row in change.rows:
        assert row.shift.mean == pytest.approx(-shifts[row.method.name])
