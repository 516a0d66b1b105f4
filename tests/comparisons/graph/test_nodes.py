"""What a plan means: which cells, how many, in which order, at what cost."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from dataclasses import asdict, replace
from graphlib import TopologicalSorter

import pytest

from comparisons.graph.nodes import build_nodes
from comparisons.graph.specs import data_cell
from comparisons.methods import METHODS
from comparisons.plans.plan import Plan, PlanError
from comparisons.plans.presets import PRESETS
from evaluation.masking.variants import Variant, crossfitted
from evaluation.storage.records import CellResult
from evaluation.training.recipe import RECIPES, Recipe

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
ELEVEN = tuple(name for name in METHODS if name not in ("random", "oracle"))[:11]
PLAN = Plan("shapes", "resnet9", ("random", "centre", "smoe-linear"), seeds=(0, 1))


def _nodes(plan: Plan):
    return build_nodes(plan, train_images=100, test_images=50)


def _kinds(plan: Plan) -> Counter[str]:
    return Counter(node.stage for node in _nodes(plan))


def _result(name: str) -> CellResult:
    return CellResult(name, "any", {}, (), hashes={"data": "d", "model": "m", "maps": "p"})


def _cells(plan: Plan):
    done = {node.name: _result(node.name) for node in _nodes(plan)}
    return {node.name: node.make(done) for node in _nodes(plan)}


def test_the_paper_s_table_takes_580_trainings():
    # 11 methods x 10 x 5 seeds + 5 x 5 seeds of random + 5 unmasked.
    plan = Plan("shapes", "resnet9", ("random", *ELEVEN), seeds=(0, 1, 2, 3, 4), mask_only=())
    kinds = _kinds(plan)
    assert kinds["base"] == 5
    assert kinds["retrain"] + kinds["base"] == 580
    assert kinds["maps"] == 12


@pytest.mark.parametrize("modes", [("roar",), ("kar",), ("roar", "kar"), ("kar", "roar")])
@pytest.mark.parametrize("fractions", [(0.5,), (0.1, 0.9), (0.1, 0.3), FRACTIONS])
@pytest.mark.parametrize("seeds", [(0,), (3, 1, 2)])
def test_number_of_trainings(modes, fractions, seeds):
    methods = ("random", "centre", "gradient", "ig")
    first = ("gradient",)
    plan = Plan("shapes", "resnet9", methods, modes, fractions, seeds, first)
    # A fraction of random is left out in KAR where both modes are there and ROAR has its rest.
    rests = {round(100 - 100 * f) for f in fractions}
    shared = sum(round(100 * f) in rests for f in fractions) if len(modes) == 2 else 0
    trained_with = {"random": len(seeds), "centre": len(seeds), "gradient": 1, "ig": len(seeds)}
    expected = sum(len(modes) * len(fractions) * n for n in trained_with.values())
    expected -= shared * len(seeds)
    kinds = _kinds(plan)
    assert kinds["retrain"] == expected
    assert kinds["base"] == len(seeds)
    assert kinds["mask_only"] == 2 * len(methods)
    assert kinds["maps"] == kinds["profile"] == len(methods)
    assert kinds["data"] == 1


def test_what_random_s_duals_leave_out_is_marked_where_it_is_trained():
    cells = _cells(replace(PLAN, fractions=(0.1, 0.3, 0.9)))
    marked = {
        (cell.spec["mode"], cell.spec["fraction"])
        for cell in cells.values()
        if cell.kind == "retrain" and cell.spec["dual"]
    }
    assert marked == {("roar", 0.1), ("roar", 0.9)}
    trained = {
        (cell.spec["mode"], cell.spec["fraction"])
        for cell in cells.values()
        if cell.kind == "retrain" and cell.spec["method"] == "random"
    }
    assert trained == {("roar", 0.1), ("roar", 0.3), ("roar", 0.9), ("kar", 0.3)}


def test_names_and_ids_are_unique():
    names = [node.name for node in _nodes(PLAN)]
    assert len(set(names)) == len(names)
    ids = {cell.id for cell in _cells(PLAN).values()}
    assert len(ids) == len(names)


def test_every_cell_says_all_that_it_depends_on():
    cells = _cells(PLAN)
    for cell in cells.values():
        assert json.loads(json.dumps(cell.spec)) == json.loads(json.dumps(dict(cell.spec)))
        if cell.kind != "data":
            assert cell.spec["data_hash"] == "d"
            assert cell.spec["model"] == "resnet9"
        if cell.kind == "maps":
            assert cell.spec["base_hash"] == "m"
            assert cell.spec["cuts"] == list(PLAN.cuts)
        if cell.kind in ("base", "retrain", "mask_only"):
            assert Recipe(**cell.spec["recipe"]) == PLAN.recipe
        if cell.kind in ("retrain", "mask_only"):
            assert cell.spec["maps_hash"] == "p"
            assert cell.spec["fill"] == "mean"


def test_other_options_are_other_cells():
    original = _cells(PLAN)
    name = "centre, roar 10 %, seed 0"
    others = [
        replace(PLAN, recipe=Recipe(epochs=7)),
        replace(PLAN, fractions=(0.1, 0.5)),
        replace(PLAN, model="resnet20"),
    ]
    ids = [_cells(plan)[name].id for plan in others]
    assert len({original[name].id, *ids}) == 4


def test_more_methods_modes_and_seeds_keep_the_cells_that_were_there():
    small = replace(PLAN, methods=("centre",), modes=("roar",), seeds=(0,))
    before, after = _cells(small), _cells(PLAN)
    assert all(after[name].id == cell.id for name, cell in before.items())


def test_no_cell_knows_its_method_s_place_or_its_neighbours():
    turned = replace(PLAN, methods=PLAN.methods[::-1])
    before, after = _cells(PLAN), _cells(turned)
    assert {n: c.id for n, c in before.items()} == {n: c.id for n, c in after.items()}


def test_nodes_need_what_their_cells_read():
    nodes = {node.name: node for node in _nodes(PLAN)}
    order = list(TopologicalSorter({n: node.needs for n, node in nodes.items()}).static_order())
    assert set(order) == set(nodes)
    done = {}
    for name in order:  # making a cell from its needs alone must work
        cell = nodes[name].make({need: done[need] for need in nodes[name].needs})
        assert cell.kind == nodes[name].stage
        done[name] = _result(name)


def test_first_seeds_come_before_later_ones_and_costs_last():
    retrain = [node for node in _nodes(PLAN) if node.stage == "retrain"]
    first = [node.priority for node in retrain if node.name.endswith("seed 0")]
    second = [node.priority for node in retrain if node.name.endswith("seed 1")]
    assert max(first) < min(second)
    costs = [node for node in _nodes(PLAN) if node.stage == "profile"]
    assert min(node.priority for node in costs) > max(second)
    assert all(node.alone for node in costs)


def test_passes_are_counted_by_hand():
    plan = replace(PLAN, methods=("centre", "ig"), recipe=Recipe(epochs=3))
    passes = {node.name: node.passes for node in _nodes(plan)}
    assert passes["unmasked, seed 1"] == 3 * 100
    assert passes["maps of centre"] == 0
    assert passes["maps of ig"] == 25 * 150
    assert passes["ig, kar 30 %, seed 0"] == 3 * 100


def test_a_plan_survives_json():
    plan = replace(
        PLAN, first_seed_only=("centre",), image_size=32, recipe=Recipe(precision="bfloat16")
    )
    assert Plan.from_json(json.loads(json.dumps(asdict(plan)))) == plan


def test_cuts_are_all_fractions_that_any_cell_asks_for():
    assert replace(PLAN, fractions=(0.9, 0.3)).cuts == (0.1, 0.3, 0.5, 0.9)
    assert replace(PLAN, fractions=(0.9, 0.3), mask_only=()).cuts == (0.3, 0.9)


def test_the_data_cell_is_the_request():
    plan = replace(PLAN, train_images=7, data_seed=3)
    assert data_cell(plan).spec == {
        "source": "shapes",
        "request": {"train_images": 7, "test_images": None, "image_size": None, "seed": 3},
    }


@pytest.mark.parametrize(
    ("changes", "conflict"),
    [
        ({"methods": ("ig",)}, []),
        ({"modes": ("roar",)}, []),
        ({"seeds": (0, 5, 6)}, []),
        ({"first_seed_only": ("centre",)}, []),
        ({"fractions": (0.3, 0.7, 0.9)}, []),  # the same cuts, with those of mask_only
        ({"model": "resnet20"}, ["model"]),
        ({"data": "cifar10"}, ["data"]),
        ({"train_images": 10}, ["train_images"]),
        ({"recipe": Recipe(epochs=1)}, ["recipe"]),
        ({"fractions": (0.2,)}, ["fractions"]),
        ({"seeds": (1, 0)}, ["seeds (the first one trains the network that the maps explain)"]),
        ({"model": "resnet20", "image_size": 16}, ["model", "image_size"]),
    ],
)
def test_conflicts_name_what_cannot_share_a_directory(changes, conflict):
    assert PLAN.conflicts(PLAN) == []
    assert PLAN.conflicts(replace(PLAN, **changes)) == conflict


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ()}, r"seeds \[\]: expected at least one"),
        ({"seeds": (1, 1)}, r"seeds \[1, 1\]: expected at least one, and each once"),
        ({"seeds": (0, -1)}, "seed -1: expected 0 or more"),
        ({"modes": ()}, "no modes and no measures"),
        ({"modes": ("road",)}, "unknown mode 'road'"),
        ({"modes": ("roar", "roar")}, "mode roar is given twice"),
        ({"mask_only": (("road", 0.5),)}, "unknown mode 'road'"),
        ({"mask_only": (("kar", 1.5),)}, "fraction 150 % is out of range"),
        ({"mask_only": (("kar", 0.5),) * 2}, "mask only kar 50 % is given twice"),
        ({"fill": "median"}, "unknown fill 'median'"),
        ({"methods": ("lime",)}, "unknown method 'lime'"),
        ({"first_seed_only": ("lime",)}, "unknown method 'lime'"),
        ({"fractions": (0.1, 1.0)}, "fraction 100 % is out of range"),
        ({"fractions": (0.1, 0.1)}, "fraction 10 % is given twice"),
        ({"train_images": 0}, "train_images=0: expected at least 1"),
        ({"test_images": -5}, "test_images=-5: expected at least 1"),
        ({"image_size": 0}, "image_size=0: expected at least 1"),
    ],
)
def test_plans_that_cannot_be_run_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAN, **changes)


def test_presets_are_plans():
    for preset in PRESETS.values():
        options = dict(preset)
        options["recipe"] = Recipe(**options["recipe"])
        options["methods"] = tuple(options.get("methods", "random").split(","))
        plan = Plan(**options)
        assert "random" in plan.methods


def test_modes_and_fractions_are_all_combined():
    cells = _cells(PLAN)
    got = {
        (c.spec["mode"], c.spec["fraction"], c.spec["seed"])
        for c in cells.values()
        if c.kind == "retrain" and c.spec["method"] == "centre"
    }
    assert got == set(itertools.product(("roar", "kar"), FRACTIONS, (0, 1)))


def test_a_plan_error_is_a_value_error():
    assert issubclass(PlanError, ValueError)


def test_the_cells_of_a_plan_keep_their_ids():
    # Ids of before there were other recipes: a directory from then is continued, not done anew.
    plan = Plan(
        "shapes",
        "resnet9",
        ("random", "gradient"),
        seeds=(0, 1),
        fractions=(0.3, 0.5),
        measures=("weights", "labels"),
        variants=(Variant(target_from=crossfitted(2)), Variant(recursive=True)),
        recipe=Recipe(epochs=3, learning_rate=0.05),
    )
    cells = _cells(plan)
    assert cells["unmasked, seed 0"].id == "f0cdff39e948b931"
    ids = repr(sorted((name, cell.id) for name, cell in cells.items()))
    assert len(cells) == 63
    assert hashlib.sha256(ids.encode()).hexdigest()[:16] == "45d23aae3c4d416f"


def test_another_recipe_makes_other_trainings():
    ids = {
        _cells(replace(PLAN, recipe=recipe))["unmasked, seed 0"].id
        for recipe in (
            Recipe(),
            Recipe(optimizer="adamw"),
            Recipe(schedule="cosine"),
            Recipe(compile=True),
            Recipe(ranks=2),
            Recipe(crop_padding=0, resized_crop=0.3),
            Recipe(flip=False, alternating_flip=True),
            *(named.recipe for named in RECIPES.values()),
        )
    }
    assert len(ids) == 7 + len(RECIPES)


def test_a_plan_read_back_from_its_file_is_the_plan():
    for named in RECIPES.values():
        plan = replace(PLAN, recipe=named.recipe)
        assert Plan.from_json(json.loads(json.dumps(asdict(plan)))) == plan
    # A plan from before there were other recipes holds none of their fields.
    old = asdict(PLAN)
    old["recipe"] = PLAN.recipe.in_spec()
    assert Plan.from_json(old) == PLAN
