"""Goals by form, held against planted added times."""

import csv
from dataclasses import replace

import pandas as pd
import pytest

from evaluation.profiling.timing import Interval
from reports.costs.added_times import SMOE, SUMS, Added, Place, added_times
from reports.costs.form_goals import FORM_GOALS, GPU, WITH_MAP, form_rows

CPU = Place("PyTorch", "resnet50", "cpu", "float32", 2, 1)
NO_RECORDS = pd.DataFrame({"metric": []})


def added(median, low=None, high=None):
    return Added(50.0, Interval(median, low or median - 0.1, high or median + 0.1, 0.95))


def row_of(found, place, method):
    (row,) = [r for r in form_rows(found) if (r.place, r.goal.method) == (place, method)]
    return row


@pytest.mark.parametrize(
    ("own", "words"),
    # 1.4 times 2 (1.9 to 2.1) and 0.5 are 3.3 (3.16 to 3.44).
    [
        (added(3.0), "met"),
        (added(3.6), "not met"),
        (added(3.1), "not told"),
        (added(3.3, 3.0, 3.6), "not told"),
    ],
)
def test_the_bound_of_an_eager_map_follows_the_sum(own, words):
    row = row_of({(CPU, SMOE): own, (CPU, SUMS): added(2.0)}, CPU, SMOE)
    assert [row.limit.median, row.limit.low, row.limit.high] == pytest.approx([3.3, 3.16, 3.44])
    assert row.verdict.words.startswith(words)
    assert row.floor.percent.median == 2.0


def test_without_the_sum_there_is_no_bound_and_no_verdict():
    row = row_of({(CPU, SMOE): added(3.1)}, CPU, SMOE)
    assert row.limit is row.floor is None
    assert row.goal.words == "1.4 times the sum + 0.5"
    assert row.verdict.words == "not measured"


def test_int8_is_held_against_float32_in_the_same_engine():
    exact = replace(CPU, form="OpenVINO", threads=1)
    rounded = replace(exact, precision="int8")
    found = {(exact, SMOE): added(4.0), (rounded, SMOE): added(140.0)}
    row = row_of(found, rounded, SMOE)
    assert row.limit.median == 4.0
    assert (row.goal.words, row.verdict.words) == ("as float32", "not met")
    # A goal of another engine is none of this one.
    other = replace(exact, form="onnxruntime")
    assert row_of(found, other, SMOE).verdict.words == "not measured"


def test_every_form_has_goals_and_a_command_that_measures_them():
    rows = list(form_rows({}))
    assert len(rows) == len(FORM_GOALS)
    assert {row.place.form for row in rows} == {
        *("PyTorch", "torch.compile", "CUDA graphs", "onnxruntime", "OpenVINO")
    }
    assert all(row.verdict.words == "not measured" for row in rows)
    commands = {row.place: row.goal.command for row in rows if row.goal.method == WITH_MAP}
    graphs = Place("CUDA graphs", "resnet50", GPU, "bfloat16", 0, 64)
    assert commands[graphs] == (
        "python -m comparisons profile --model resnet50 --batch 64 "
        "--methods smoe-linear,read-once,with-map --device cuda --dtype bfloat16 --cuda-graphs"
    )
    assert commands[replace(CPU, form="torch.compile")].endswith("--threads 2 --compile")


def test_a_gpu_has_its_name_and_rows_of_its_own():
    place = Place("CUDA graphs", "resnet50", "Some GPU", "float32", 0, 16)
    row = row_of({(place, WITH_MAP): added(2.0)}, place, WITH_MAP)
    assert row.verdict.words == "met"
    assert row.place.title == "CUDA graphs, resnet50, Some GPU, batch 16"


def test_engines_are_read_beside_the_run_the_later_file_first(tmp_path):
    (tmp_path / "deployment").mkdir()

    def write(name, **row):
        ends = zip(("median", "low", "high"), row.pop("ends"), strict=True)
        row |= {"network": "resnet50, initial weights", "precision": "float32", "threads": 1}
        row |= {f"processor_{end}_percent": value for end, value in ends}
        row |= {"network_processor_ms": 58.1, "network_ms": 99.0}
        with (tmp_path / "deployment" / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerow(row)

    place = replace(CPU, form="onnxruntime", threads=1)
    assert added_times(NO_RECORDS, tmp_path / "profile") == {}
    write("exported.csv", map="map", ends=(11.0, 10.1, 11.9))
    found = added_times(NO_RECORDS, tmp_path / "profile")
    assert found == {(place, SMOE): Added(58.1, Interval(11.0, 10.1, 11.9, 0.95))}
    assert row_of(found, place, SMOE).verdict.words == "not met"
    write("engines.csv", what="map", engine="onnxruntime", batch=1, device="cpu", ends=(3, 2, 3.5))
    found = added_times(NO_RECORDS, tmp_path / "profile")
    assert row_of(found, place, SMOE).verdict.words == "met"
