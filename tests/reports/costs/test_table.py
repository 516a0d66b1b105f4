"""The README's table of costs: that of the recorded files, and nothing typed by hand."""

from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from reports.costs.__main__ import app
from reports.costs.table import MARKS, RUN, table

README = Path(__file__).parents[3] / "README.md"


def test_the_readme_has_the_table_of_the_recorded_files():
    text = README.read_text(encoding="utf-8")
    made = table(RUN)
    assert text == MARKS.put(text, made), "python -m reports.costs --into README.md"
    assert text.count(MARKS.begin) == text.count(MARKS.end) == 1
    assert len(made.splitlines()) > 6


def test_its_numbers_are_those_of_the_records():
    rows = [line.strip("| ").split(" | ") for line in table(RUN).splitlines()]
    head, shown = rows[0], {row[0]: row for row in rows}
    records = pd.read_parquet(RUN / "records.parquet")
    own = records[(records["model"] == "resnet50") & (records["device"] == "cpu")]
    own = own[(own["batch"] == 1) & (own["threads"] == 2) & (own["method"] == "smoe-linear")]
    own = own[~own["compiled"].astype(bool)]
    added = own[own["metric"] == "overhead_percent"].iloc[-1]
    alone = own[own["metric"] == "forward_ms"].iloc[-1]
    row = shown["PyTorch, resnet50, 2 threads, batch 1"]
    said = row[head.index("SMOE Scale")]
    assert said == f"{added['value']:.1f} ({added['low']:.1f} to {added['high']:.1f})"
    assert row[head.index("network alone")] == f"{alone['value']:.0f} ms"
    missed = "the paper's 1 %"
    assert (missed in row[-1]) == (added["low"] > 1)
    assert missed in shown["PyTorch, mobilenet_v3_large, 2 threads, batch 1"][-1]


def test_the_command_prints_or_writes_between_the_marks(tmp_path):
    printed = CliRunner().invoke(app, [])
    assert printed.exit_code == 0
    assert printed.stdout.strip() == table(RUN)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS.begin}\nold\n{MARKS.end}\nafter\n")
    assert CliRunner().invoke(app, ["--into", str(page)]).exit_code == 0
    assert page.read_text() == f"before\n{MARKS.begin}\n{table(RUN)}\n{MARKS.end}\nafter\n"
    page.write_text("no marks")
    wrong = CliRunner().invoke(app, ["--into", str(page)])
    assert wrong.exit_code == 2
    assert "around the table of costs" in wrong.stderr
    assert page.read_text() == "no marks"


def test_a_run_without_records_is_one_message(tmp_path):
    wrong = CliRunner().invoke(app, [str(tmp_path)])
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("error: ")


def test_a_page_needs_both_marks():
    with pytest.raises(ValueError, match="expected the lines"):
        MARKS.put(f"{MARKS.end}\n{MARKS.begin}", "| |")
