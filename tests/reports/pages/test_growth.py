"""The page of how a comparison grows, from tables whose answer is known."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from reports.pages.growth import (
    COLUMNS,
    MACHINE,
    efficiencies,
    read_growth,
    write_growth,
    write_table,
)
from reports.pages.reading import read_reading, write_reading

pytestmark = pytest.mark.heavy


NOTHING = pd.DataFrame()


def _row(series: str, value: object, run_s: float, **changes: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(COLUMNS, 1.0)
    row |= dict.fromkeys(MACHINE, "x")
    row |= {"series": series, "value": str(value), "engine": "local", "workers": 1, "run": "r"}
    return row | {"run_s": run_s, "cells": 10} | changes


def _frame(*rows: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(COLUMNS))


@pytest.fixture
def grown() -> pd.DataFrame:
    return _frame(
        _row("workers", 1, 180.0, workers=1),
        _row("workers", 2, 100.0, workers=2),
        _row("workers", 4, 60.0, workers=4),
        _row("engine", "local", 9.0, between_s=0.25),
        _row("engine", "ray", 9.0, engine="ray", between_s=2.5),
        # 3 seconds, and 2 seconds a thousand images, in the order in which they were measured.
        _row("images", 16000, 35.0, largest_mib=220.0),
        _row("images", 1000, 5.0, largest_mib=200.0),
        _row("images", 4000, 11.0, largest_mib=210.0),
        _row("methods", 2, 11.0),
        _row("methods", 4, 21.0),
        _row("fractions", 1, 4.0),
    )


def test_efficiency_is_of_one_worker(grown):
    assert efficiencies(grown) == {1: 1.0, 2: 0.9, 4: 0.75}
    assert efficiencies(grown[grown["workers"] > 1]) == {}


def test_the_page_says_what_was_met_and_the_lines_it_was_made_of(grown, tmp_path):
    page = write_growth(tmp_path, grown, reading=NOTHING, command="the command").read_text()
    assert "```sh\nthe command\n```" in page
    assert "2 workers 0.90, met; 4 workers 0.75, missed." in page
    engines = [line for line in page.splitlines() if line.startswith(("| local", "| ray"))]
    assert [line.split("|")[-3:-1] for line in engines] == [
        [" 0.250 ", " met "],
        [" 2.500 ", " missed "],
    ]
    assert "A line through these times: 2.00 s a thousand, and 3.0 s that do not" in page
    assert "memory changes by 10 % at most" in page
    assert "A line through these times: 5.0 s each, and 1.0 s that do not" in page
    images = [int(found) for found in re.findall(r"^\| (\d+000) \|", page, re.M)]
    assert images == [1000, 4000, 16000]
    # One point makes no line and no panel.
    assert page.count("A line through") == 2
    drawn = (tmp_path / "growth.svg").read_bytes()
    assert drawn.startswith(b"<?xml")
    write_growth(tmp_path, grown, reading=NOTHING, command="the command")
    assert (tmp_path / "growth.svg").read_bytes() == drawn


def test_what_was_not_measured_is_not_shown(tmp_path):
    alone = _frame(_row("workers", 2, 100.0, workers=2))
    page = write_growth(tmp_path, alone, reading=NOTHING, command="x").read_text()
    assert "not measured" in page
    assert "## Engine" not in page
    assert not (tmp_path / "growth.svg").exists()


def _reading(network: str, *clock: float, device: str = "cpu") -> dict[str, object]:
    own = {"network": network, "training_images": 2048, "device": device, "precision": "float32"}
    own |= {"read": 1234.4, "held": 1300.0}
    for kind in ("clock", "processor"):
        names = (f"{kind}_percent", f"{kind}_low", f"{kind}_high")
        own |= dict(zip(names, clock, strict=True))
    return own | dict.fromkeys(MACHINE, "an abacus")


def test_the_section_on_images_says_what_is_told_and_what_was_not_measured(grown, tmp_path):
    level = _reading("none", -1.0, -2.0, 3.0)
    reading = pd.DataFrame([level, _reading("resnet9", 4.0, 1.0, 7.0)])
    page = write_growth(tmp_path, grown, reading=reading, command="x").read_text()
    rows = [line for line in page.splitlines() if "| cpu, float32 |" in line]
    assert rows[0].startswith("| images alone | cpu, float32 | 2,048 | 1,234 | 1,300 | -1.0 (-2.0 ")
    assert "holding is slower with resnet9." in page
    assert "On a GPU: not measured." in page
    on_both = pd.DataFrame([level, _reading("resnet9", -9.0, -9.5, -8.0, device="cuda")])
    write_reading(tmp_path, on_both)
    pd.testing.assert_frame_equal(read_reading(tmp_path), on_both)
    page = write_growth(tmp_path, grown, reading=on_both, command="x").read_text()
    assert "holding is not told to be slower with any." in page
    assert "not measured." not in page.partition("## Images on the device")[2]


def test_a_table_comes_back(grown, tmp_path):
    assert len(read_growth(tmp_path)) == 0
    write_table(tmp_path, grown)
    pd.testing.assert_frame_equal(read_growth(tmp_path), grown, check_dtype=False)
    (tmp_path / "growth.csv").write_text("series,value\nimages,10\n")
    with pytest.raises(ValueError, match="lacks engine, workers, run"):
        read_growth(tmp_path)


def test_a_new_folder_has_no_runs(tmp_path: Path):
    assert list(read_growth(tmp_path / "nowhere").columns) == list(COLUMNS)
