"""The page of compatibility: its tables have the records, and its messages are today's."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from reports.compatibility import __main__ as command
from reports.compatibility.networks import NETWORKS, Network
from reports.compatibility.page import INPUTS, PARTS, ROWS, parts_table, rows_tables, write_tables
from reports.compatibility.place import rankings_of_change, squares
from reports.compatibility.refusals import REFUSALS, refused
from reports.compatibility.rows import FoundScale, Row, Share, read_rows, write_rows

PAGE = Path(__file__).parents[3] / "docs" / "compatibility.md"
RECORDED = read_rows(command.RECORDS)


def between(marks, text):
    return text.partition(marks.begin)[2].partition(marks.end)[0].strip("\n")


@pytest.mark.parametrize(("marks", "made"), [(ROWS, rows_tables), (PARTS, parts_table)])
def test_the_page_has_the_records(marks, made):
    assert between(marks, PAGE.read_text(encoding="utf-8")) == made(RECORDED).strip("\n")


@pytest.mark.heavy
@pytest.mark.parametrize("what", REFUSALS)
def test_the_page_has_the_messages_of_what_is_refused(what):
    table = between(INPUTS, PAGE.read_text(encoding="utf-8"))
    (line,) = [one for one in table.splitlines() if one.startswith(f"| {what} |")]
    message = line.removeprefix(f"| {what} | ").removesuffix(" |")
    assert message == refused(what).replace("|", "\\|").replace("<", "\\<")


def test_a_recorded_map_lies_where_the_image_changed():
    for row in RECORDED.values():
        if row.scales:
            assert row.finite, row.network
            assert min(row.place) > 0.5, row.network


def test_rows_come_back_from_their_file(tmp_path):
    scales = (
        FoundScale("relu", (2, 2), True),
        FoundScale("layer1, input", (4, 8), False),
        FoundScale("layer2", (8, 8), True, linear=True),
    )
    row = Row("resnet18", (3, 8, 8), scales, "NCHW", True, (0.75, 1.0), 3.5, Share(1.0, 0.5, 2.0))
    rows = [row, Row("alexnet", (3, 8, 8), refused={"SMOEScale": "none"}, facts={"load": "1"})]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert list(read_rows(tmp_path / "rows.jsonl").values()) == rows
    assert read_rows(tmp_path / "none.jsonl") == {}
    (tmp_path / "rows.jsonl").write_text(json.dumps({"network": "resnet18"}) + "\n")
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1: expected a row .* remove the line"):
        read_rows(tmp_path / "rows.jsonl")


def test_the_tables_of_a_row(tmp_path):
    row = Row(
        "resnet18",
        (3, 64, 64),
        (
            FoundScale("relu", (2, 2), True),
            FoundScale("layer1 +1", (2, 4), False),
            FoundScale("layer2", (8, 8), True, linear=True),
        ),
        "NCHW",
        True,
        (0.75, 0.25),
        3.52,
        Share(11.4, -0.04, 12.6),
        with_map=0.0,
        program=0.25,
        refused={"write_onnx": "a < b (2)"},
        facts={"processor": "some CPU", "cores": "2", "torch": "2.14.1", "load": "0.5"},
    )
    line = next(one for one in rows_tables({"resnet18": row}).splitlines() if "relu" in one)
    assert line == (
        "| `resnet18`, 64 | `relu` 2 s, `layer1 +1` 2x4, `layer2` 8 c | NCHW "
        "| 0.50, least 0.25, **no** | 3.5 ms | n.m. | 11 (0 to 13) | yes | 0.25 off | no | no |"
    )
    assert parts_table({"resnet18": row}).endswith("| `write_onnx` | `resnet18` | a \\< b (2) |\n")
    other = replace(row, network="alexnet", refused={"write_onnx": "a < b (3)"})
    assert "`resnet18`, `alexnet`" in parts_table({"resnet18": row, "alexnet": other})
    (tmp_path / "page.md").write_text("no marks")
    with pytest.raises(ValueError, match="expected the lines"):
        write_tables(tmp_path / "page.md", {"resnet18": row})


def test_squares_lie_in_the_middle_of_each_quarter():
    covered = torch.zeros(16, 32, dtype=torch.int)
    for square in squares((16, 32)):
        covered[square] += 1
    assert covered.max() == 1
    rows, columns = covered.nonzero().unbind(1)
    assert sorted(set(rows.tolist())) == [2, 3, 4, 5, 10, 11, 12, 13]
    assert sorted(set(columns.tolist())) == [*range(4, 12), *range(20, 28)]
    assert len(list(squares((4, 16, 16)))) == 8
    assert len(list(squares((1, 16)))) == 2


@pytest.mark.parametrize(
    "moved",
    [
        lambda maps: maps.flip(1),
        lambda maps: maps.flip(2),
        lambda maps: maps.rot90(1, (1, 2)),
        lambda maps: maps.roll(16, 2),
    ],
)
def test_a_map_in_the_wrong_place_is_told(moved):
    def map_of(images):
        return torch.nn.functional.avg_pool2d(images.abs().sum(1), 5, 1, 2)

    assert min(rankings_of_change(map_of, (3, 32, 32))) > 0.9
    assert min(rankings_of_change(lambda images: moved(map_of(images)), (3, 32, 32))) < 0.5


@pytest.mark.filterwarnings("ignore:layer.* give negative activations")
def test_the_command_goes_on_and_measures_anew(tmp_path, monkeypatch):
    network = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        *(torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.ReLU()),
        *(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5)),
    )
    small = Network("resnet18", NETWORKS["resnet18"].group, lambda: network, (3, 32, 32))
    absent = Network("alexnet", small.group, lambda: network, (3, 32, 32), ("no_such_package",))
    monkeypatch.setattr(command, "NETWORKS", {"resnet18": small, "alexnet": absent})
    records = tmp_path / "rows.jsonl"

    def run(*options):
        done = CliRunner().invoke(command.app, [*options, "--records", str(records)])
        assert done.exit_code == 0, done.output
        return done.output

    assert "alexnet: needs no_such_package, not measured" in run("--no-times")
    row = read_rows(records)["resnet18"]
    assert [scale.strides for scale in row.scales] == [(1, 1), (2, 2)]
    assert row.fast_cam
    assert row.with_map == pytest.approx(0, abs=1e-6)
    assert row.program == pytest.approx(0, abs=1e-5)
    assert min(row.place) > 0.8
    assert row.added is None
    assert "not timed" not in run()
    timed = read_rows(records)["resnet18"]
    assert timed.rounds == 15
    assert timed.sums is not None
    assert run("resnet") == ""
    wrong = CliRunner().invoke(command.app, ["nonesuch", "--records", str(records)])
    assert wrong.exit_code == 2
