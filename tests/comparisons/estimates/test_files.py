"""Plan files: read back as they were written, refused with one message where they are none."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from comparisons.estimates.files import KIND, read_plan_file, write_plan_file
from comparisons.plans.plan import Plan, PlanError
from evaluation.masking.variants import Variant
from evaluation.training.retraining import Recipe

PLAN = Plan(
    "folder:pictures",
    "resnet20",
    ("random", "ig"),
    seeds=(3, 1),
    first_seed_only=("ig",),
    variants=(Variant(fill="noisy-linear"),),
    recipe=Recipe(epochs=2, precision="bfloat16"),
)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "a plan.json"
    write_plan_file(path, {"plan": asdict(PLAN), "cost": {"trainings": 7, "lines": []}})
    return path


def test_a_plan_comes_back(written):
    read = read_plan_file(written)
    assert read.plan == PLAN
    assert read.citation["file"] == "a plan.json"
    assert read.citation["said"] == {"trainings": 7}
    assert len(read.hash) == 16


def test_the_same_plan_is_the_same_bytes(written, tmp_path):
    again = tmp_path / "again.json"
    write_plan_file(again, {"cost": {"lines": [], "trainings": 7}, "plan": asdict(PLAN)})
    assert again.read_bytes() == written.read_bytes()
    write_plan_file(again, {"plan": asdict(replace(PLAN, seeds=(3,))), "cost": {}})
    assert read_plan_file(again).hash != read_plan_file(written).hash


def _changed(content: dict, **changes) -> str:
    return json.dumps(content | changes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda _: "{half a", "is no JSON"),
        (lambda _: "[]", "is no plan file: it has no kind"),
        (lambda c: _changed(c, kind="run"), "is no plan file: it has no kind"),
        (lambda c: _changed(c, version=2), "is of version 2, and this code reads 1"),
        (lambda c: _changed(c, plan=None), "plan is None: expected its options by name"),
        (
            lambda c: _changed(c, plan=c["plan"] | {"colour": 1}),
            "plan has 'colour', which this version does not know: expected data, model",
        ),
        (
            lambda c: _changed(c, plan=c["plan"] | {"recipe": {"epochs": 1, "fun": 2}}),
            "recipe has 'fun', which this version does not know: expected epochs",
        ),
        (
            lambda c: _changed(c, plan=c["plan"] | {"variants": [{"fill": "mean", "hue": 1}]}),
            "variants has 'hue'",
        ),
        (lambda c: _changed(c, plan={"data": "shapes"}), "plan lacks model, methods, modes"),
        (
            lambda c: _changed(c, plan=c["plan"] | {"seeds": [1, 1]}),
            r"seeds \[1, 1\]: expected at least one, and each once",
        ),
        (
            lambda c: _changed(c, plan=c["plan"] | {"methods": ["lime"]}),
            "unknown method 'lime': expected some of",
        ),
    ],
)
def test_what_is_no_plan_says_why(written, spoil, message):
    content = json.loads(written.read_text())
    assert content["kind"] == KIND
    written.write_text(spoil(content))
    with pytest.raises(PlanError, match=message) as caught:
        read_plan_file(written)
    assert str(written) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(PlanError, match="No such file or directory; make one with `python -m"):
        read_plan_file(tmp_path / "nowhere.json")
