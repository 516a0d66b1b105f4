"""What deployment costs: docs/results/deployment.md has the tables of the measured files."""

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comparisons.__main__ import app
from comparisons.deployment import command
from comparisons.deployment.tables import TABLES
from fastsal.optional import needed

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "reports" / "runs" / "deployment").glob("*.csv"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_page_has_what_was_measured(path):
    page = (ROOT / "docs" / "results" / "deployment.md").read_text(encoding="utf-8")
    for line in TABLES[path.stem](path).splitlines():
        assert line in page


def test_every_measurement_has_its_file_and_table():
    assert {path.stem for path in FILES} == command.MEASUREMENTS.keys() == TABLES.keys()


def test_a_measurement_is_written_and_printed(tmp_path, monkeypatch):
    rows = [
        {"photograph": "one.png", "overlap": 8, "mean": 0.25, "at_seams": 0.5, "elsewhere": 0.125,
         "largest": 0.9},
        {"photograph": "two.png", "overlap": 8, "mean": 0.75, "at_seams": 1.0, "elsewhere": 0.375,
         "largest": 0.5},
    ]  # fmt: skip
    monkeypatch.setitem(command.MEASUREMENTS, "seams", lambda: rows)
    done = CliRunner().invoke(app, ["deployment", "seams", "--out", str(tmp_path)])
    assert done.exit_code == 0
    # Means over the photographs, the largest of all.
    assert done.stdout.splitlines()[-1] == "| 8 | 0.500 | 0.750 | 0.250 | 0.90 |"
    with (tmp_path / "seams.csv").open(encoding="utf-8", newline="") as file:
        assert [row["photograph"] for row in csv.DictReader(file)] == ["one.png", "two.png"]
    wrong = CliRunner().invoke(app, ["deployment", "seems"])
    assert wrong.exit_code == 2
    assert "'seems' is none of engines, exported, large" in wrong.stderr


def test_a_missing_package_is_one_message(monkeypatch):
    def rows():
        needed("no_such_package", "exported files", "'fastsal[onnx]'")

    monkeypatch.setitem(command.MEASUREMENTS, "exported", rows)
    done = CliRunner().invoke(app, ["deployment", "exported"])
    assert done.exit_code == 2
    assert (
        done.stderr == "error: exported files needs 'fastsal[onnx]': pip install 'fastsal[onnx]'\n"
    )


def test_the_table_of_engines_has_the_sums_beside_the_map_and_a_verdict(tmp_path):
    same = {"engine": "onnxruntime", "network": "resnet50, initial weights", "threads": "1"}
    ends = ("median", "low", "high")

    def row(what, precision, *percent):
        times = dict(zip((f"processor_{end}_percent" for end in ends), percent, strict=True))
        return {
            **same, "precision": precision, "what": what, "network_processor_ms": 50.0, **times
        }  # fmt: skip

    rows = [
        row("sums", "float32", 1.0, 0.5, 1.5),
        row("map", "float32", 3.0, 2.0, 4.0),
        row("sums", "int8", 1.0, 0.5, 1.5),
        row("map", "int8", 3.5, 2.9, 4.5),
    ]
    path = tmp_path / "engines.csv"
    path.write_bytes(command._as_csv(rows))
    *_, exact, rounded = TABLES["engines"](path).splitlines()
    assert exact.endswith("| 50.0 ms | 1.0 % (0.5 to 1.5) | 3.0 % (2.0 to 4.0) | 4.0 % | held |")
    # Eight bits are to add no more than float32 did.
    assert rounded.endswith("| 3.5 % (2.9 to 4.5) | 3.0 % | not told |")
    rows[1]["processor_low_percent"] = 4.5
    rows[1]["processor_high_percent"] = 5.0
    path.write_bytes(command._as_csv(rows))
    assert "| 4.0 % | failed |" in TABLES["engines"](path)
