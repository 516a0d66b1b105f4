"""The table of retraining: planted accuracies, and the pages of recorded runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from reports.retrained.__main__ import app
from reports.retrained.table import MARKS, table

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[3]
PAGES = {"imagenette-retraining": "imagenette.md", "cifar10": "cifar10.md"}
FRACTIONS = (0.1, 0.5, 0.9)


def _accuracy(method: str, mode: str, fraction: float, seed: int) -> float:
    """SMOE Scale far above both controls, the gradient as they are."""
    noise = np.random.default_rng([len(method), round(100 * fraction), seed, mode == "kar"])
    level = 0.5 + 0.2 * (method == "smoe-linear") * (1 if mode == "kar" else -1)
    return round(level + 0.01 * noise.normal(), 6)


def _lines(made: str) -> dict[str, list[str]]:
    plain = made.replace("\N{NO-BREAK SPACE}", " ").splitlines()
    rows = [line.strip("| ").split(" | ") for line in plain if line.startswith("|")]
    return {row[0]: row[1:] for row in rows[2:]}


def test_sums_and_differences_are_those_of_the_accuracies(new_run):
    seeds = (0, 1, 2, 3)
    made = table(new_run(seeds=seeds, accuracy=_accuracy))
    kar, roar = (
        np.mean([sum(_accuracy("gradient", mode, f, s) for f in FRACTIONS) for s in seeds])
        for mode in ("kar", "roar")
    )
    cells = _lines(made)["Gradient"]
    shown = [float(cell.partition(" ")[0].replace("\N{MINUS SIGN}", "-")) for cell in cells[:3]]
    assert shown == pytest.approx([kar, -roar, kar - roar], abs=6e-4)
    assert cells[4] == "4"
    turned = {"kar": 1, "roar": -1}
    disk = np.mean(
        [
            sum(
                turned[mode] * _accuracy("centre", mode, f, s) for f in FRACTIONS for mode in turned
            )
            for s in seeds
        ]
    )
    over = float(cells[3].partition(" ")[0].replace("\N{MINUS SIGN}", "-"))
    assert over == pytest.approx(kar - roar - disk, abs=6e-4)
    total = next(line for line in made.splitlines() if line.startswith("- SUM:"))
    assert "the best of 2 methods is SMOE Scale, 1." in total
    for control in ("random", "the centre disk"):
        assert f"Told above {control}: SMOE Scale." in total
        assert f"Not told from {control}: Gradient." in total
    assert "One seed" not in total


def test_one_seed_is_not_tested_and_what_is_missing_is_not_measured(new_run):
    one = table(new_run(seeds=(0,), accuracy=_accuracy))
    assert "One seed, not tested: SMOE Scale, Gradient." in one
    assert "Told" not in one.partition("higher is better")[2].partition("- KAR")[2]


def test_methods_that_have_not_begun_have_no_row_and_are_named(new_run):
    made = table(new_run(train=lambda method, *_: method != "gradient", accuracy=_accuracy))
    assert "Gradient" not in _lines(made)
    assert made.endswith("- Not measured yet: Gradient.")


def test_a_run_that_has_not_begun_is_refused(new_run):
    path = new_run(train=lambda *_: False)
    result = CliRunner().invoke(app, [str(path)])
    assert result.exit_code == 2
    assert "no method has every fraction of a mode" in result.output


@pytest.mark.parametrize("name", PAGES)
def test_the_page_has_the_recorded_table(name):
    path = ROOT / "docs" / "results" / PAGES[name]
    page = path.read_text(encoding="utf-8")
    made = table(ROOT / "reports" / "runs" / name)
    assert MARKS.put(page, made) == page, f"python -m reports.retrained {name} --into {path}"


@pytest.mark.parametrize("name", PAGES)
def test_the_recorded_table_is_that_of_the_records(name):
    """By hand from the records, in place of the package's own sums."""
    folder = ROOT / "reports" / "runs" / name
    records = pd.read_parquet(folder / "records.parquet")
    rows = _lines(table(folder))
    found = records[(records["metric"] == "accuracy") & (records["method"] != "none")]
    for method, title in (("smoe-linear", "SMOE Scale, linear weights"), ("centre", "Centre disk")):
        own = found[found["method"] == method]
        # A seed whose trainings are not all done has no sum.
        own = own[own.groupby("seed")["value"].transform("size") == 2 * len(FRACTIONS)]
        sums = own.groupby("mode")["value"].sum() / own["seed"].nunique()
        cells = [cell.partition(" ")[0].replace("\N{MINUS SIGN}", "-") for cell in rows[title]]
        expected = [sums["kar"], -sums["roar"], sums["kar"] - sums["roar"]]
        assert [float(cell) for cell in cells[:3]] == pytest.approx(expected, abs=6e-4)
        assert int(cells[4]) == own["seed"].nunique()
