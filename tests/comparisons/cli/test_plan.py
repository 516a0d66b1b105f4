"""``plan`` and ``run --plan``: what is said before the first second, and the file between them."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import typer.testing
from rich.console import Console

from comparisons import __main__ as command
from comparisons.cli import plan as planning
from comparisons.cli import plan_options
from comparisons.engines import select
from comparisons.estimates.files import read_plan_file
from comparisons.methods import METHODS, resolve
from comparisons.runs import compare

ROOT = Path(__file__).parents[3]
THROUGHPUT = ("--images-per-second", "2500,7000,3000,500")
TABLE_5 = (
    *("--preset", "full", "--data", "imagenet", "--model", "resnet50", "--methods", "paper"),
    *("--mask-only", "none", "--measures", "none", "--epochs", "90", "--image-size", "224"),
    *("--precision", "bfloat16", "--device", "cuda", "--workers", "8", *THROUGHPUT),
)


# Networks of one epoch on a few images learn nothing, of which the report warns.
pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore::UserWarning")]


@pytest.fixture
def invoke(monkeypatch):
    """Runs the command in this process: exit code and what it said."""
    monkeypatch.setenv("COLUMNS", "400")

    def call(*arguments: str) -> tuple[int, str]:
        result = typer.testing.CliRunner().invoke(command.app, list(arguments))
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        return result.exit_code, result.output

    return call


def test_the_paper_s_table_without_its_images_or_a_gpu(invoke, tmp_path):
    file, page = tmp_path / "plan.json", tmp_path / "page.md"
    code, said = invoke("plan", *TABLE_5, "--out", str(file), "--page", str(page))
    assert code == 0, said
    assert "imagenet: 1,281,167 for training and 50,000 for testing, of 1,000 classes" in said
    assert "published counts, no file read" in said
    assert "580 trainings of 90 epochs" in said
    assert "given, not measured: 2,500 images a second in training" in said
    content = json.loads(file.read_text())
    cost = content["cost"]
    assert sum(line["share"] for line in cost["lines"][:-1]) == pytest.approx(1.0)
    trained = 580 * 90 * 1_281_167 / 2500
    assert cost["device_seconds"] > trained
    assert sum(line["training_seconds"] for line in cost["lines"][:-1]) == pytest.approx(trained)
    finished = {each["workers"]: each["seconds"] for each in cost["finished"]}
    assert finished[1] == pytest.approx(cost["device_seconds"])
    assert cost["device_seconds"] / 8 < finished[8] < 1.1 * cost["device_seconds"] / 8
    # The page has the same table: a row a line, and shares that sum to 100.
    text = page.read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    shares = [float(row[7]) for row in rows if len(row) == 10 and re.match(r" \d", row[7])]
    assert len(shares) == 2 + 12
    assert sum(shares) == pytest.approx(100.0, abs=0.8)
    # The same command gives the same bytes.
    before = file.read_bytes()
    invoke("plan", *TABLE_5, "--out", str(file))
    assert file.read_bytes() == before


@pytest.mark.parametrize("width", [80, None])
def test_the_sheet_fits_a_terminal_of_80_columns_or_is_plain(invoke, tmp_path, monkeypatch, width):
    """In a pipe (None) every row of a table and every paragraph is one line."""
    if width is not None:
        terminal = Console(highlight=False, width=width, force_terminal=True, no_color=True)
        monkeypatch.setattr(planning, "_console", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    code, said = invoke("plan", *TABLE_5, "--methods", "all", "--out", "plan.json")
    assert code == 0, said
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines()
    titles = [METHODS[name].title for name in resolve("all", has_object_masks=False)]
    squeezed = " ".join(" ".join(lines).split())
    assert "Start it: python -m comparisons run --plan plan.json" in lines
    assert "published counts, no file read" in squeezed
    if width is None:
        assert (
            sum(line.startswith("Images: imagenet: 1,281,167 for training") for line in lines) == 1
        )
        for title in titles:
            rows = [line[len(title) :].split() for line in lines if line.startswith(f"{title}  ")]
            # Passes, three times and the share; cells, trainings and disk.
            assert [len(row) for row in rows] == [5, 4]
    else:
        assert max(map(len, lines)) <= width
        for title in titles:
            assert squeezed.count(title.split(", ")[0]) >= 2


def test_the_page_in_docs_is_what_its_command_writes(invoke, tmp_path, monkeypatch):
    kept = (ROOT / "docs" / "benchmark" / "imagenet-cost.md").read_text()
    (line,) = re.findall(r"^python -m comparisons (plan .*)$", kept, re.M)
    typed = shlex.split(line)
    monkeypatch.setattr(sys, "argv", ["comparisons", *typed])
    monkeypatch.chdir(ROOT)
    for option in ("--out", "--page"):
        place = typed.index(option) + 1
        typed[place] = str(tmp_path / Path(typed[place]).name)
    code, said = invoke(*typed)
    assert code == 0, said
    assert (tmp_path / "imagenet-cost.md").read_text() == kept
    # A plan may have got options since, whose defaults change nothing.
    again, before = (
        read_plan_file(place / "imagenet-plan.json")
        for place in (tmp_path, ROOT / "docs" / "benchmark")
    )
    assert (again.plan, again.cost) == (before.plan, before.cost)


def test_a_measured_plan_runs_and_its_report_cites_it(
    invoke, tmp_path, monkeypatch, inline_executor
):
    class InProcess:
        @staticmethod
        @contextmanager
        def running(store, **_):
            yield inline_executor(store)

    monkeypatch.setattr(select, "LocalExecutor", InProcess)
    monkeypatch.setattr(planning, "_TRIAL_S", 1.0)
    file, out = tmp_path / "small.json", tmp_path / "run"
    small = ("--preset", "smoke", "--methods", "centre", "--measures", "none")
    code, said = invoke(
        *("plan", *small, "--train-images", "64", "--test-images", "32", "--image-size", "16"),
        *("--precision", "float32", "--workers", "1", "--out", str(file)),
    )
    assert code == 0, said
    assert "measured on" in said
    assert f"run --plan {file}" in said
    read = read_plan_file(file)
    assert (read.plan.train_images, read.plan.methods) == (64, ("centre",))
    content = json.loads(file.read_text())
    assert content["throughput"]["source"] == "measured"
    assert content["throughput"]["environment"]["torch"]

    code, said = invoke("run", "--plan", str(file), "--out", str(out), "--workers", "1")
    assert code == 0, said
    kept = json.loads((out / "plan.json").read_text())
    assert kept["plan"] == content["plan"]
    assert kept["plan_file"]["file"] == "small.json"
    assert kept["plan_file"]["sha256"] == read.hash
    page = (out / "report.html").read_text()
    assert f"plan file <code>small.json</code>, SHA-256 <code>{read.hash}</code>" in page
    assert "It said 4 trainings and" in page
    # Going on with the same options typed it still cites the file; with others nothing says any
    # more that the file was followed.
    assert compare._citation(read.plan, out, None) == kept["plan_file"]
    assert compare._citation(replace(read.plan, seeds=(0, 1)), out, None) is None


def test_a_throughput_measured_elsewhere_is_taken_from_its_plan(invoke, tmp_path, monkeypatch):
    there, here = tmp_path / "there.json", tmp_path / "here.json"
    monkeypatch.setattr(planning, "_TRIAL_S", 0.5)
    small = ("--preset", "smoke", "--precision", "float32", "--image-size", "16")
    assert invoke("plan", *small, "--out", str(there))[0] == 0
    more = (*small, "--seeds", "0,1,2", "--images-per-second", str(there), "--out", str(here))
    code, said = invoke("plan", *more)
    assert code == 0, said
    assert "Throughput: measured on" in said
    assert "Memory: images and levels of a training take" in said
    first, second = (json.loads(path.read_text()) for path in (there, here))
    assert second["throughput"] == first["throughput"]
    assert second["cost"]["trainings"] > first["cost"]["trainings"]
    code, said = invoke(
        "plan", *more, "--model", "resnet20", "--image-size", "32", "--batch-size", "8"
    )
    assert code == 2
    assert f"{there} was measured with another model, image_size, batch_size: leave out" in said
    code, said = invoke("plan", *small, "--images-per-second", str(tmp_path / "no.json"))
    assert code == 2
    assert "No such file" in said


@pytest.fixture
def plan_file(invoke, tmp_path) -> Path:
    file = tmp_path / "plan.json"
    code, said = invoke("plan", "--preset", "smoke", *THROUGHPUT, "--out", str(file))
    assert code == 0, said
    return file


def test_options_beside_a_plan_s_file_are_refused_by_name(invoke, plan_file, tmp_path):
    out = tmp_path / "run"
    code, said = invoke(
        *("run", "--plan", str(plan_file), "--seeds", "0,1", "--preset", "quick"),
        *("--out", str(out)),
    )
    assert code == 2
    assert "says the whole plan: leave out --seeds, --preset, or make another file" in said
    assert not (out / "plan.json").exists()


def test_gpus_of_a_cell_may_not_change_a_plan_s_file(invoke, plan_file, tmp_path):
    more = ("--gpus-per-cell", "4", "--out", str(tmp_path / "run"))
    code, said = invoke("run", "--plan", str(plan_file), *more)
    assert code == 2
    assert f"trains in 4 ranks, and {plan_file} says 1: make another file with --ranks 4" in said


def test_ranks_take_their_workers_together(invoke, tmp_path):
    file = tmp_path / "plan.json"
    options = ("--preset", "smoke", "--ranks", "2", *THROUGHPUT, "--out", str(file))
    code, said = invoke("plan", *options, "--workers", "2", "--rank-efficiency", "0.8")
    assert code == 0, said
    assert "2 processes that train one network together are 1.6 times as fast as one (not" in said
    cost = json.loads(file.read_text())["cost"]
    assert [each["workers"] for each in cost["finished"]] == [2]
    # 12 trainings of 320 images, two of them fine-tunings, an epoch each: 2 workers for 1 / 1.6 of
    # the time.
    trained = sum(line["training_seconds"] for line in cost["lines"][:-1])
    assert trained == pytest.approx(2 * 12 * 320 / 2500 / 1.6)
    code, said = invoke("plan", *options, "--workers", "1")
    assert code == 2
    assert (
        "a training takes 2 workers at once, and --workers is 1: give at least --workers 2" in said
    )


def test_a_run_s_own_plan_json_is_no_plan_file(invoke, tmp_path):
    (tmp_path / "plan.json").write_text('{"plan": {}}')
    code, said = invoke("run", "--plan", str(tmp_path / "plan.json"), "--out", str(tmp_path / "r"))
    assert code == 2
    assert "is no plan file: it has no kind" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--images-per-second fast", "--images-per-second 'fast': expected images a second"),
        ("--data nowhere", "unknown data 'nowhere'"),
        ("--data imagenet", "the images of imagenet differ in size: say --image-size"),
        ("--data folder:nowhere --image-size 32", "no folder 'nowhere/train'"),
        ("--counts 10,5", "--counts '10,5': expected training images, test images and classes"),
        ("--counts 10,5,0", "--counts '10,5,0': expected training images"),
        ("--counts a,b,c", "--counts 'a,b,c': expected whole numbers"),
        ("--rank-efficiency 2", "rank efficiency 2: expected more than 0 and at most 1"),
        ("--workers 0", "workers=0: expected at least 1"),
        ("--device tpu", "device 'tpu': expected one of cpu, cuda"),
        ("--model resnet99", "unknown model 'resnet99'"),
    ],
)
def test_bad_options_end_with_one_message(invoke, tmp_path, options, message):
    file = tmp_path / "plan.json"
    code, said = invoke(
        *("plan", "--preset", "smoke", *THROUGHPUT, "--out", str(file), *options.split())
    )
    assert code == 2
    assert message in said
    assert sum(line.startswith("Error:") for line in said.splitlines()) == 1
    assert "Traceback" not in said
    assert not file.exists()


def test_images_that_are_elsewhere_are_counted_by_hand(invoke, tmp_path):
    code, said = invoke(
        *("plan", "--preset", "smoke", "--data", "folder:elsewhere", "--image-size", "32"),
        *("--counts", "1000,200,7", *THROUGHPUT, "--out", str(tmp_path / "plan.json")),
    )
    assert code == 0, said
    assert "1,000 for training and 200 for testing, of 7 classes, 32x32" in said


def test_ctrl_c_says_that_nothing_was_written(invoke, tmp_path, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(planning, "measured", interrupted)
    code, said = invoke("plan", "--preset", "smoke", "--out", str(tmp_path / "plan.json"))
    assert code == 130
    assert "no plan was written" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["run", "plan"])
def test_every_option_of_a_plan_is_one_of_both_commands(name):
    (callback,) = [
        entry.callback
        for entry in command.app.registered_commands
        if entry.callback is not None and entry.callback.__name__ == name
    ]
    declared = set(inspect.signature(plan_options._plan).parameters)
    assert {"data", "seeds", "recursive", "preset"} <= declared
    assert declared <= set(inspect.signature(callback).parameters)
