"""Records of costs: setting and interval of each number, against the cells themselves."""

from pathlib import Path

import pandas as pd
import pytest

from reports.analysis.cost_tables import cost_tables
from reports.records.costs import COST_COLUMNS
from reports.records.reading import read_run

RUN = Path(__file__).parents[3] / "reports" / "runs" / "profile"


def test_the_recorded_file_alone_has_every_row_of_the_page():
    records = pd.read_parquet(RUN / "records.parquet")
    kept = records.drop_duplicates(
        [
            *("model", "size", "hardware", "device", "threads", "precision", "compiled", "batch"),
            *("method", "metric"),
        ],
        keep="last",
    ).set_index(["cell", "metric"])
    rows = [(table, row) for table in cost_tables(read_run(RUN)).times for row in table.rows]
    assert len(rows) > 60
    for table, row in rows:
        added = kept.loc[(row.cell.id, "overhead_percent")]
        setting = table.setting
        assert (added["model"], added["batch"], added["precision"]) == (
            *(setting.model, table.batch, setting.precision),
        )
        assert (added["device"], added["compiled"], added["size"]) == (
            *(setting.device, setting.compiled, setting.size),
        )
        assert setting.threads == (0 if pd.isna(added["threads"]) else added["threads"])
        assert added["rounds"] == row.rounds
        assert [added[name] for name in ("value", "low", "high")] == pytest.approx(
            [row.added.median, row.added.low, row.added.high]
        )
        alone = kept.loc[(row.cell.id, "forward_ms")]
        assert alone["value"] * table.batch == pytest.approx(row.forward_ms.median)
        assert alone["low"] <= alone["value"] <= alone["high"]


def test_intervals_are_order_statistics_of_the_rounds():
    records = pd.read_parquet(RUN / "records.parquet").set_index(["cell", "metric"])
    cell = next(one for one in read_run(RUN).cells("cost") if len(one.history) == 101)
    # Of 101 rounds the 41st and the 61st smallest hold the median with 95 %.
    times = sorted(entry["map_ms"] / cell.spec["batch"] for entry in cell.history)
    found = records.loc[(cell.id, "map_ms")]
    assert (found["low"], found["high"]) == pytest.approx((times[40], times[60]))
    assert pd.isna(records.loc[(cell.id, "first_ms")]["low"])


def test_only_profiles_have_these_columns():
    other = read_run(RUN.parent / "shapes-tracks")
    assert other.table is other.all_records
    assert not set(COST_COLUMNS) & set(other.table)
    assert list(read_run(RUN).table) == [*other.table, *COST_COLUMNS]
