"""What deployment costs: docs/results/deployment.md has the tables of the measured files."""

import csv
from pathlib import Path

import pytest

from comparisons.deployment import command
from comparisons.deployment.tables import TABLES
from comparisons.deployment.turns import beside

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "reports" / "runs" / "deployment").glob("*.csv"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_page_has_what_was_measured(path):
    page = (ROOT / "docs" / "results" / "deployment.md").read_text(encoding="utf-8")
    for line in TABLES[path.stem](path).splitlines():
        assert line in page


def test_every_measurement_has_its_file_and_table():
    assert {path.stem for path in FILES} == command.MEASUREMENTS.keys() == TABLES.keys()


def test_a_measurement_is_written_and_printed(tmp_path, monkeypatch, capsys):
    rows = [
        {"photograph": "one.png", "overlap": 8, "mean": 0.25, "at_seams": 0.5, "elsewhere": 0.125,
         "largest": 0.9},
        {"photograph": "two.png", "overlap": 8, "mean": 0.75, "at_seams": 1.0, "elsewhere": 0.375,
         "largest": 0.5},
    ]  # fmt: skip
    monkeypatch.setitem(command.MEASUREMENTS, "seams", lambda: rows)
    command.main(["seams", "--out", str(tmp_path)])
    # Means over the photographs, the largest of all.
    assert capsys.readouterr().out.splitlines()[-1] == "| 8 | 0.500 | 0.750 | 0.250 | 0.90 |"
    with (tmp_path / "seams.csv").open(encoding="utf-8", newline="") as file:
        assert [row["photograph"] for row in csv.DictReader(file)] == ["one.png", "two.png"]
    with pytest.raises(SystemExit):
        command.main(["seems"])
    assert "'seems' is none of exported, large" in capsys.readouterr().err


def test_works_are_timed_in_turns_that_change():
    ran = []
    taken = beside(lambda: ran.append("first"), lambda: ran.append("second"), 4)
    # Two calls of each to warm up, then pairs whose order changes.
    assert ran[4:] == ["second", "first", "first", "second"] * 2
    assert taken.clock.low <= taken.clock.median <= taken.clock.high
