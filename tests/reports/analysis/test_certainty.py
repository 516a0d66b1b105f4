"""How sure a page says it is, against its own cells worked out again and against planted orders."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from evaluation.scoring.intervals import CrossedBootstrap
from evaluation.scoring.scores import information_score, t_interval
from evaluation.storage.records import pack_bits, unpack_bits
from evaluation.storage.store import Store
from reports import build
from reports.analysis.certainty import Certainty, certainty
from reports.analysis.overview import ranked_sums
from reports.analysis.rank_agreement import agreement, agreements
from reports.records.correctness import read_correctness
from reports.records.reading import read_run

pytestmark = pytest.mark.heavy

FRACTIONS = (0.1, 0.5, 0.9)
IMAGES = 300
SEEDS = (0, 1, 2)


def of(run: Path) -> Certainty:
    content = read_run(run)
    return certainty(content, ranked_sums(content))


def answered(root: Path, *, images: int = IMAGES) -> Path:
    """Give every cell of a run answers that are about as often right as its record says.

    Images differ in how hard they are, the same ones for every network; another training gets some
    others right.
    """
    store = Store(root)
    hard = np.random.default_rng(1).permutation(images) / images
    for number, result in enumerate(store.results()):
        if result.correct is None:
            continue
        value = result.records[0].value
        rng = np.random.default_rng([2, number])
        other = hard + rng.normal(0, 0.05, images)
        # A few images more or less, so that no two seeds agree by rounding.
        right = np.argsort(np.argsort(other)) < round(value * images) + rng.integers(-3, 4)
        records = tuple(replace(r, value=float(right.mean())) for r in result.records)
        store.cell(result.id).unlink()  # what is recorded first stays
        store.save_result(replace(result, records=records, correct=pack_bits(right), images=images))
    return root


@pytest.fixture(scope="module")
def run(write_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return answered(write_run(tmp_path_factory.mktemp("three"), seeds=SEEDS))


def right_of(run: Path, method: str, mode: str, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Read from the cell itself; the random control's KAR is its ROAR at the other end."""
    if method == "random" and mode == "kar":
        mode, fraction = "roar", round(1 - fraction, 10)
    result = Store(run).result(f"{method}-{mode}-{fraction:g}-{seed}")
    assert result is not None
    assert result.correct is not None
    return unpack_bits(result.correct, result.images)


def total_of(run: Path, method: str, seed: int) -> float:
    return sum(
        right_of(run, method, "kar", f, seed).mean() - right_of(run, method, "roar", f, seed).mean()
        for f in FRACTIONS
    )


def test_intervals_are_those_of_the_answers_in_the_cells(run: Path) -> None:
    found = of(run)
    assert (found.seeds, found.images) == (3, IMAGES)
    for control in ("random", "centre"):
        parts = np.zeros((3, IMAGES))
        for seed in SEEDS:
            for fraction in FRACTIONS:
                for mode, sign in (("kar", 1), ("roar", -1)):
                    parts[seed] += sign * right_of(run, "gradient", mode, fraction, seed)
                    parts[seed] -= sign * right_of(run, control, mode, fraction, seed)
        estimate = found.against[control]["gradient"].sums.total
        assert estimate is not None
        assert estimate.mean == pytest.approx(parts.mean())
        moved = CrossedBootstrap(IMAGES).deviations(parts[None], SEEDS)[0]
        expected = np.quantile(np.abs(moved), 0.95)
        assert estimate.half_width == pytest.approx(expected, rel=1e-5)
        assert expected > 0.01


def test_scores_of_one_method_are_the_records_with_a_wider_interval(run: Path) -> None:
    rows = {row.method.name: row.sums for row in of(run).rows}
    before = {row.method.name: row.sums for row in ranked_sums(read_run(run))}
    for name in ("centre", "smoe-linear", "gradient"):
        now, then = rows[name].kar, before[name].kar
        assert now is not None
        assert then is not None
        assert (now.mean, now.seeds, now.cells) == (then.mean, then.seeds, then.cells)
        # 300 images say less about all images than three seeds about all seeds.
        assert now.half_width > then.half_width
    assert list(rows) == list(before)


def test_information_scores_are_the_mean_over_the_seeds(run: Path) -> None:
    found = of(run).information
    assert set(found) == {"centre", "smoe-linear", "gradient"}
    by_seed = [
        information_score(
            **{
                name: [right_of(run, method, mode, f, seed).mean() for f in FRACTIONS]
                for name, method, mode in (
                    ("kar", "centre", "kar"),
                    ("roar", "centre", "roar"),
                    ("random_kar", "random", "kar"),
                    ("random_roar", "random", "roar"),
                )
            }
        )
        for seed in SEEDS
    ]
    assert found["centre"].mean == pytest.approx(np.mean(by_seed))
    assert found["centre"].half_width > 0


def test_tests_are_paired_by_seed_and_corrected_together(run: Path) -> None:
    found = of(run)
    pairs = [(control, name) for control, by_name in found.against.items() for name in by_name]
    # Centre against random stands once.
    assert sorted(pairs) == sorted(
        [("random", name) for name in ("centre", "smoe-linear", "gradient")]
        + [("centre", name) for name in ("smoe-linear", "gradient")]
    )
    p_values = [
        stats.ttest_rel(
            [total_of(run, name, seed) for seed in SEEDS],
            [total_of(run, control, seed) for seed in SEEDS],
        ).pvalue
        for control, name in pairs
    ]
    tests = [found.against[control][name].test for control, name in pairs]
    assert [test.p for test in tests if test] == pytest.approx(p_values)
    holm = multipletests(p_values, method="holm")[1]
    assert [test.adjusted for test in tests if test] == pytest.approx(list(holm))


def test_the_seeds_for_one_point_come_from_the_paired_spread(run: Path) -> None:
    needed = {(n.title, n.reference): n for n in of(run).needed}
    assert len(needed) == 8
    differences = [
        [total_of(run, name, seed) - total_of(run, "centre", seed) for seed in SEEDS]
        for name in ("random", "smoe-linear", "gradient")
    ]
    pooled = np.sqrt(np.mean([np.var(d, ddof=1) for d in differences]))
    assert needed["SUM", "centre"].deviation == pytest.approx(pooled)
    one = needed["one accuracy", "random"]
    places = [
        [
            right_of(run, name, mode, f, seed).mean()
            - right_of(run, "random", mode, f, seed).mean()
            for seed in SEEDS
        ]
        for name in ("centre", "smoe-linear", "gradient")
        for mode in ("roar", "kar")
        for f in FRACTIONS
    ]
    pooled = np.sqrt(np.mean([np.var(d, ddof=1) for d in places]))
    assert one.deviation == pytest.approx(pooled)
    # Fewer seeds for one accuracy than for a sum of six.
    assert 2 <= one.seeds < needed["SUM", "random"].seeds


def test_a_planted_order_is_found_and_equal_methods_are_not_told_apart(
    new_run: Callable[..., Path],
) -> None:
    # The planted accuracies of twins are equal; the others are far apart.
    methods = {
        "random": ("control", 0.2, 0.25),
        "best": ("smoe", 0.60, 0.25),
        "twin-a": ("gradient", 0.40, 0.25),
        "twin-b": ("gradient", 0.40, 0.25),
    }
    lost = {name: about[1] for name, about in methods.items()}

    def accuracy(method: str, mode: str, fraction: float, seed: int) -> float:
        if mode == "roar":
            return 0.75 - lost[method] * fraction
        return 0.75 - 0.3 * (1 - fraction) * (1 - lost[method])

    found = of(answered(new_run(methods=methods, seeds=SEEDS, accuracy=accuracy), images=1000))
    order = [entry.method.name for entry in found.ranking]
    assert order[0] == "best"
    assert set(order[1:3]) == {"twin-a", "twin-b"}
    assert order[3] == "random"
    assert found.ranking[0].certainty.at_rank > 0.99
    assert found.ranking[0].certainty.ranks == (1, 1)
    assert found.ranking[1].certainty.above_next == pytest.approx(0.5, abs=0.45)
    assert found.ranking[1].certainty.ranks == (2, 3)
    assert found.ranking[2].certainty.above_next > 0.99


def test_one_seed_has_no_interval_no_test_and_no_place(new_run: Callable[..., Path]) -> None:
    def train(method: str, mode: str, fraction: float, seed: int) -> bool:
        return seed == 0 or method != "gradient"

    run = answered(new_run(train=train))
    found = of(run)
    assert [method.name for method in found.one_seed] == ["gradient"]
    assert "gradient" not in [entry.method.name for entry in found.ranking]
    assert len(found.ranking) == 3
    for by_name in found.against.values():
        assert by_name["gradient"].test is None
        assert by_name["gradient"].sums.total is not None
        assert by_name["gradient"].sums.total.interval is None
        assert by_name["smoe-linear"].test is not None
    assert found.information["gradient"].interval is None
    page = build(run, run.parent / "out").read_text()
    assert "One seed, no sure place: Gradient." in page
    assert page.count("one seed, no interval</td>") == 3  # sums, both controls
    assert "Without a place, for want of these seeds: Gradient." in page


def test_a_run_of_one_seed_says_so_and_shows_no_plus_minus(new_run: Callable[..., Path]) -> None:
    run = answered(new_run(seeds=(0,)))
    found = of(run)
    assert (found.ranking, found.needed, found.seeds) == ([], [], 1)
    page = " ".join(build(run, run.parent / "out").read_text().split())
    assert "<strong>One seed, no interval.</strong>" in page
    assert "Not known: one seed has no interval and no test." in page
    assert "<small> ±" not in page
    assert "Places in the order" not in page
    assert "Seeds for a difference" not in page


def test_without_answers_the_intervals_are_student_s(run: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    for result in Store(run).results():
        store.save_result(replace(result, correct=None, images=0))
    (tmp_path / "run" / "plan.json").write_text((run / "plan.json").read_text())
    found = of(tmp_path / "run")
    assert (found.images, found.ranking) == (0, [])
    difference = found.against["random"]["centre"].sums.total
    assert difference is not None
    assert difference.interval == t_interval(difference.values)
    page = build(tmp_path / "run", tmp_path / "out").read_text()
    assert "the cells do not keep the answers" in page


def test_answers_to_other_images_are_not_paired(run: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for result in Store(run).results():
        store.save_result(result)
    odd = store.result("centre-roar-0.5-1")
    assert odd is not None
    store.cell(odd.id).unlink()
    store.save_result(replace(odd, correct=pack_bits(np.ones(7, dtype=bool)), images=7))
    correctness = read_correctness(read_run(tmp_path))
    assert correctness.images == IMAGES
    assert correctness.area("centre", ("roar",), SEEDS) is None
    assert correctness.area("centre", ("kar",), SEEDS) is not None
    assert correctness.area("gradient", ("roar",), SEEDS, "centre") is None


def test_the_order_over_the_groups_of_any_column(run: Path) -> None:
    records = read_run(run).records
    seeds = agreement(records, FRACTIONS, "seed")
    assert seeds is not None
    totals = pd.DataFrame(
        {
            seed: {
                m: total_of(run, m, seed) for m in ("random", "centre", "smoe-linear", "gradient")
            }
            for seed in SEEDS
        }
    )
    pairs = [stats.kendalltau(totals[a], totals[b]).statistic for a, b in ((0, 1), (0, 2), (1, 2))]
    assert seeds.tau["total"] == pytest.approx((np.mean(pairs), min(pairs)))
    assert (seeds.title, seeds.groups, seeds.methods) == ("seed", ("0", "1", "2"), 4)
    # Upside down in the second group.
    upside = records.assign(value=1 - records["value"])
    both = pd.concat([records.assign(kind="as is"), upside.assign(kind="upside down")])
    reversed_order = agreement(both, FRACTIONS, "kind")
    assert reversed_order is not None
    assert reversed_order.tau["kar"] == pytest.approx((-1, -1))
    assert agreement(records.assign(kind="one"), FRACTIONS, "kind") is None


def test_only_what_was_done_in_several_ways_is_listed(run: Path, tmp_path: Path) -> None:
    assert [entry.title for entry in agreements(read_run(run))] == ["seeds"]
    store = Store(tmp_path)
    for result in Store(run).results():
        store.save_result(result)
        if result.kind == "retrain":
            others = tuple(
                replace(r, fill="noisy-linear", cell=f"{r.cell}-noisy") for r in result.records
            )
            store.save_result(replace(result, id=f"{result.id}-noisy", records=others))
    (tmp_path / "plan.json").write_text((run / "plan.json").read_text())
    seeds, fills = agreements(read_run(tmp_path))
    assert (fills.title, fills.groups) == ("fills", ("mean", "noisy-linear"))
    assert fills.tau["total"] == pytest.approx((1, 1))
    assert seeds == agreements(read_run(run))[0]
    # The other fill's answers are no part of the page's scores.
    assert of(tmp_path).ranking == of(run).ranking


def test_a_run_of_one_mode_is_ranked_by_it(run: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    plan = json.loads((run / "plan.json").read_text())
    plan["plan"]["modes"] = ["roar"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    for result in Store(run).results():
        own = tuple(record for record in result.records if record.mode != "kar")
        if own or not result.records:
            store.save_result(replace(result, records=own))
    found = of(tmp_path)
    assert found.score == "ROAR"
    # As planted: what loses more is better.
    order = [entry.method.name for entry in found.ranking]
    assert order == ["centre", "smoe-linear", "gradient", "random"]
    assert found.against["random"]["centre"].test is not None
    assert found.information == {}
    build(tmp_path, tmp_path / "out")
