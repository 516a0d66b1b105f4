"""What a plan takes, counted by hand and against published counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from comparisons.estimates.cost import Cost, cost_of
from comparisons.estimates.throughput import given
from comparisons.graph.nodes import build_nodes
from comparisons.measures import MEASURES
from comparisons.methods import METHODS
from comparisons.methods.registry import SETS
from comparisons.methods.work import Work
from comparisons.plans.plan import Plan
from evaluation.datasets.load import Extent
from evaluation.masking.variants import Variant, crossfitted
from evaluation.networks.build import build_network
from evaluation.training.retraining import Recipe

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
PAPER = tuple(name for name, entry in METHODS.items() if SETS["paper"](entry))
SMALL = Extent("shapes", 8, 100, 50, (32, 32), True)
RATES = given("100,400,200,1000")
# ResNet-9 of width 16 for 8 classes: float32 weights, BatchNorm's statistics and counters.
NETWORK_BYTES = 4 * (
    27 * 16 + 9 * (16 * 32 + 2 * 32 * 32 + 32 * 64 + 64 * 128 + 2 * 128 * 128) + 128 * 8 + 8
) + (4 * 4 * (16 + 32 * 3 + 64 + 128 * 3) + 8 * 8)


def _plan(*methods: str, **changes) -> Plan:
    plan = Plan("shapes", "resnet9", methods, mask_only=(), recipe=Recipe(epochs=3))
    return replace(plan, **changes)


def _cost(plan: Plan, workers: int = 1, extent: Extent = SMALL) -> Cost:
    return cost_of(plan, extent, (32, 32), RATES, workers=workers)


def test_the_paper_s_table_5():
    cost = _cost(_plan(*PAPER, seeds=(0, 1, 2, 3, 4)))
    # 11 methods x 10 x 5 seeds, 5 x 5 of random, 5 unmasked.
    assert len(PAPER) == 12
    assert cost.total.trainings == 580
    assert cost.total.work.training == 580 * 3 * 100


def test_hooker_s_2700_trainings():
    """18 estimators, 5 fractions, ROAR and KAR, 5 networks each, on three image sets."""
    others = [name for name in METHODS if not METHODS[name].self_dual]
    cost = _cost(_plan(*others[:18], seeds=(0, 1, 2, 3, 4)))
    unmasked = next(line for line in cost.lines if line.name == "base")
    assert 3 * (cost.total.trainings - unmasked.trainings) == 2700


def test_every_line_counted_by_hand():
    cost = _cost(_plan("random", "smoe-linear", "ig", fractions=(0.1, 0.5, 0.9), seeds=(0, 1)))
    work = {line.name: line.work for line in cost.lines}
    # Trained for 3 epochs of 100 images, tested on 50, asked for all 150; of each seed.
    assert work["base"] == Work(600, 2 * (50 + 150), networks=2)
    # 3 fractions of ROAR, whose rests are KAR's.
    assert work["random"] == Work(6 * 300, 6 * 50, 0, ranking=150, levels=150)
    assert work["smoe-linear"] == Work(12 * 300, 12 * 50 + 150, 0, ranking=150, levels=150)
    assert work["ig"] == Work(12 * 300, 12 * 50, 25 * 150, ranking=150, levels=150)
    seconds = {line.name: line.seconds for line in cost.lines}
    assert seconds["base"] == pytest.approx(600 / 100 + 400 / 400)
    assert seconds["ig"] == pytest.approx(3600 / 100 + 600 / 400 + 3750 / 200 + 150 / 1000)
    assert {line.name: line.cells for line in cost.lines} == {
        **{"data": 1, "base": 2, "random": 6 + 2, "smoe-linear": 12 + 2, "ig": 12 + 2}
    }
    assert cost.timed_alone == 3


def test_shares_are_of_everything():
    cost = _cost(_plan(*PAPER))
    assert sum(cost.share(line) for line in cost.lines) == pytest.approx(1.0)
    one = _cost(_plan("gradient"))
    by_name = {line.name: one.share(line) for line in one.lines}
    assert by_name["gradient"] == pytest.approx(
        by_name["base"] / (300 / 100 + 200 / 400) * (3000 / 100 + 500 / 400 + 150 / 200 + 0.15)
    )


def test_one_worker_takes_the_sum_and_many_take_the_longest_chain():
    plan = _plan("random", "gradient")
    alone, many = _cost(plan, 1), _cost(plan, 1000)
    assert alone.schedule.seconds == pytest.approx(alone.total.seconds)
    assert [schedule.workers for schedule in many.schedules][:3] == [1, 2, 4]
    assert many.schedule.seconds == pytest.approx(sum(s for _, s in many.critical))
    assert [name for name, _ in many.critical][:3] == [
        "data",
        "unmasked, seed 0",
        "maps of gradient",
    ]


def test_disk_is_images_levels_and_networks():
    plan = _plan("random", "gradient", fractions=FRACTIONS)
    lines = {line.name: line for line in _cost(plan).lines}
    # Three bytes a pixel and the true object's mask; a byte of levels a pixel and method.
    assert lines["data"].staged_bytes == 150 * 1024 * 4
    assert lines["gradient"].staged_bytes == 150 * 1024
    assert lines["data"].stored_bytes == 0
    assert lines["base"].stored_bytes == NETWORK_BYTES + 8 * 150
    # Elements of three channels have three levels a pixel.
    both = {line.name: line for line in _cost(replace(plan, unit="element")).lines}
    assert both["gradient"].staged_bytes == 3 * lines["gradient"].staged_bytes


def test_passes_of_controls_cost_nothing_but_their_ranking():
    nodes = build_nodes(_plan("centre"), train_images=100, test_images=50)
    (maps,) = [node for node in nodes if node.stage == "maps"]
    assert maps.work == Work(ranking=150, levels=150)


def test_parts_of_maps_are_made_beside_each_other_and_sum_to_all():
    plan = _plan("ig", unit="element")
    nodes = build_nodes(plan, train_images=30_001, test_images=5_003)
    parts = [node for node in nodes if node.stage == "part"]
    (maps,) = [node for node in nodes if node.stage == "maps"]
    assert len(parts) == 3
    assert {node.needs for node in parts} == {("data", "unmasked, seed 0")}
    assert set(maps.needs) == {*parts[0].needs, *(node.name for node in parts)}
    total = sum((node.work for node in (*parts, maps)), Work())
    assert total == Work(0, 0, 25, 1, 3) * 35_004


def test_folds_are_trainings_without_a_fold_and_its_test():
    lines = {
        line.name: line.work
        for line in _cost(_plan("gradient", variants=(Variant(target_from=crossfitted(4)),))).lines
    }
    assert lines["fold"] == Work(4 * 3 * 75, 4 * 25)
    # The same again in the second track: maps, and every training.
    assert lines["gradient"] == (Work(10 * 300, 10 * 50) + Work(0, 0, 150, 150, 150)) * 2


def test_given_weights_are_asked_once_and_no_cell_is_left_out(tmp_path):
    file = tmp_path / "weights.pt"
    torch.save(build_network("resnet9", 8, 0, size=(32, 32)).state_dict(), file)
    plan = _plan("random", "ig", weights=str(file), measures=("road",), seeds=(0, 1))
    cost = _cost(plan)
    lines = {line.name: line.work for line in cost.lines}
    assert lines["pretrained"] == Work(forward=150, networks=1)
    nodes = build_nodes(plan, train_images=100, test_images=50)
    assert cost.total.cells == len(nodes)
    assert cost.total.work == sum((node.work for node in nodes), Work())


def test_measures_are_passes_of_their_images():
    plan = _plan("gradient", measures=("weights", "insertion-deletion"), measure_images=10)
    with_measures, plain = (_cost(p).lines[-1].work for p in (plan, replace(plan, measures=())))
    assert with_measures.gradient - plain.gradient == 10 * (
        MEASURES["weights"].maps + MEASURES["insertion-deletion"].maps
    )


@pytest.mark.parametrize("efficiency", [0.0, 1.5, float("nan")])
def test_ranks_are_not_faster_than_their_number(efficiency):
    with pytest.raises(ValueError, match=r"rank efficiency .*: expected more than 0 and at most 1"):
        cost_of(_plan("random"), SMALL, (32, 32), RATES, workers=1, rank_efficiency=efficiency)


@pytest.mark.parametrize("text", ["", "fast", "0", "-3", "nan", "1,2,3,4,5", "100,,3", "inf"])
def test_a_throughput_that_is_none(text):
    with pytest.raises(ValueError, match=r"--images-per-second .*: expected images a second above"):
        given(text)


def test_what_is_not_given_follows_by_operations():
    assert given("300").rates == given("300,900,450").rates
    assert "not given" in given("300,900").notes[0]
    assert given("300,900,450,7").notes == ()
