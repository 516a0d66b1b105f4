"""The added times by batch: every number of the records once, and nothing typed by hand."""

import re
from pathlib import Path

import pandas as pd
from typer.testing import CliRunner

from reports.costs.__main__ import app
from reports.costs.batches import BATCH_MARKS, tables_by_batch
from reports.costs.table import RUN

PAGE = Path(__file__).parents[3] / "docs" / "results" / "costs.md"


def test_the_page_has_the_tables_of_the_recorded_files():
    text = PAGE.read_text(encoding="utf-8")
    made = tables_by_batch(RUN)
    command = "python -m reports.costs --batches --into docs/results/costs.md"
    assert text == BATCH_MARKS.put(text, made), command
    assert text.count(BATCH_MARKS.begin) == 1


def test_each_recorded_number_is_in_one_cell_of_the_tables():
    records = pd.read_parquet(RUN / "records.parquet")
    rows = records[(records["metric"] == "overhead_percent") & records["low"].notna()]
    rows = rows[(rows["size"] == 224) & (rows["method"] != "none")]
    where = ["device", "hardware", "threads", "precision", "compiled", "cuda_graphs"]
    last = rows.groupby([*where, "model", "method", "batch"], dropna=False).size()
    numbers = re.findall(r"\(-?[\d.]+ to -?[\d.]+\)", tables_by_batch(RUN))
    assert len(numbers) == len(last)
    # A number taken from the file by hand, and its place in the tables.
    one = rows[(rows["device"] != "cpu") & (rows["batch"] == 64) & (rows["method"] == "fastcam")]
    (hardware,) = one["hardware"]
    _, _, table = tables_by_batch(RUN).partition(f"**PyTorch, {hardware}**")
    line = next(line for line in table.splitlines() if "| Fast-CAM |" in line)
    assert line.split("|")[-2].strip().startswith(f"{one['value'].item():.0f} (")


def test_a_batch_that_was_not_measured_is_said():
    lines = [line for line in tables_by_batch(RUN).splitlines() if line.startswith("| ")]
    assert any(line.endswith("| not measured |") for line in lines)


def test_the_command_writes_between_marks_of_its_own(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"{BATCH_MARKS.begin}\nold\n{BATCH_MARKS.end}\n")
    done = CliRunner().invoke(app, ["--batches", "--into", str(page)])
    assert done.exit_code == 0
    assert page.read_text() == f"{BATCH_MARKS.begin}\n{tables_by_batch(RUN)}\n{BATCH_MARKS.end}\n"
