"""What a page says of how networks were trained, and of what they waited for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from evaluation.storage.records import CellResult
from evaluation.storage.store import Store
from evaluation.training.recipe import RECIPES
from reports.pages.provenance import set_up
from reports.records.estimates import accuracies
from reports.records.frames import conflicts, records_frame
from reports.records.reading import read_run


def test_a_named_recipe_says_what_it_gives_up(new_run: Callable[..., Path]) -> None:
    run = new_run()
    plain = dict(set_up(read_run(run))["options"])
    assert not any(name.startswith("recipe ") for name in plain)
    plan = json.loads((run / "plan.json").read_text())
    # On another device, in another precision: the recipe is the same.
    short = replace(RECIPES["imagenet-short"].recipe, precision="float16", compile=True)
    plan["plan"]["recipe"] = asdict(short)
    (run / "plan.json").write_text(json.dumps(plan))
    options = dict(set_up(read_run(run))["options"])
    assert "It gives up accuracy" in options["recipe imagenet-short"]
    assert "epochs 18, batch_size 1024" in options["recipe"]


def test_waiting_is_told_once_and_is_no_accuracy(new_run: Callable[..., Path]) -> None:
    run = new_run()
    store = Store(run)
    before = accuracies(records_frame(store.results()))
    trained = [cell for cell in store.results() if cell.kind in ("base", "retrain", "mask_only")]
    for number, cell in enumerate(trained):
        share = replace(cell.records[0], metric="data_wait_share", value=0.01 * (number % 5))
        store.cell(cell.id).unlink()
        store.save_result(replace(cell, records=(*cell.records, share)))
    # Networks on permuted labels and without a fold wait at the same place as the unmasked one.
    fold = replace(trained[0].records[0], metric="data_wait_share", value=0.5, cell="fold")
    store.save_result(CellResult("fold", "fold", {}, (fold,)))
    records = records_frame(store.results())
    after = accuracies(records)
    assert after.keys() == before.keys()
    assert all(after[place].mean == before[place].mean for place in before)
    assert conflicts(records) == []
    told = dict(set_up(read_run(run))["environment"])
    assert told["time of a training that waited for data"] == "median 2.0 %, at most 50.0 %"
