"""The command line: bad input ends with one clear message and exit code 2."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import types
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import typer.testing
from PIL import Image
from rich.console import Console
from torch import nn

from comparisons import __main__ as command
from comparisons.cli import methods as methods_command
from comparisons.cli import run as run_command
from comparisons.cli.panels import PANELS
from comparisons.engines import select
from comparisons.measures import MEASURES
from comparisons.methods import METHODS
from comparisons.plans.plan import Plan
from comparisons.plans.presets import PRESETS

pytestmark = pytest.mark.training


@pytest.fixture
def invoke(monkeypatch):
    """Runs the command in this process: exit code and what it said."""
    monkeypatch.setenv("COLUMNS", "400")

    def call(*arguments: str) -> tuple[int, str]:
        # The console writes to whatever stdout is when it prints.
        result = typer.testing.CliRunner().invoke(command.app, list(arguments))
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        return result.exit_code, result.output

    return call


@pytest.fixture
def planned(monkeypatch, tmp_path):
    """The plan that the options amount to, with nothing run."""
    plans: list[Plan] = []

    def run_plan(plan: Plan, out: Path, **_: object) -> Path:
        plans.append(plan)
        return out / "report.html"

    monkeypatch.setattr(run_command, "run_plan", run_plan)

    def plan(*arguments: str) -> Plan:
        arguments = ("run", "--out", str(tmp_path), *arguments)
        result = typer.testing.CliRunner().invoke(command.app, list(arguments))
        assert result.exit_code == 0, result.output
        return plans[-1]

    return plan


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 9)):
        for name in ("cat", "dog"):
            place = tmp_path / "pets" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path / "pets"


def _refused(said: str, message: str) -> None:
    errors = [line for line in said.splitlines() if line.strip()]
    assert sum(line.startswith("Error:") for line in errors) == 1
    assert "Traceback" not in said
    assert message in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--methods random,lime", "unknown method 'lime': expected some of random, "),
        ("--first-seed-only lime", "unknown method 'lime'"),
        ("--methods ,", "no methods given"),
        ("--fractions 0", "fraction 0 % is out of range"),
        ("--fractions 50,100", "fraction 100 % is out of range"),
        ("--fractions -10", "fraction -10 % is out of range"),
        ("--fractions abc", "fraction 'abc': expected a number of percent"),
        ("--fractions nan", "fraction nan % is out of range"),
        ("--fractions 10,50,10", "fraction 10 % is given twice"),
        ("--fractions ,", "no fractions given"),
        ("--mask-only roar", "--mask-only 'roar': expected MODE:PERCENT, such as roar:50"),
        ("--mask-only road:50", "unknown mode 'road'"),
        (
            "--measures rod",
            "unknown measure 'rod': expected all, none, or some of insertion",
        ),
        ("--measure-images 0", "measure_images=0: expected at least 1"),
        ("--mask-only roar:0", "fraction 0 % is out of range"),
        ("--modes road", "unknown mode 'road': expected some of roar, kar"),
        ("--modes roar,roar", "mode roar is given twice"),
        ("--seeds one", "--seeds 'one': expected whole numbers, such as 0,1,2"),
        ("--seeds 1,1", "seeds [1, 1]: expected at least one, and each once"),
        ("--seeds -3", "seed -3: expected 0 or more"),
        ("--preset huge", "unknown preset 'huge': expected one of smoke, quick, full"),
        ("--data imagenets", "unknown data 'imagenets': expected one of cifar10, cifar100"),
        ("--data folder:nowhere/at/all", "no folder 'nowhere/at/all/train'"),
        ("--data folder:[/nowhere]", "no folder '[/nowhere]/train'"),
        ("--data cifar10 --methods oracle", "method 'oracle' needs the true object's pixels"),
        (
            "--model resnet99",
            "unknown model 'resnet99': expected resnet9, resnet9-stride2, resnet20",
        ),
        ("--model nowhere:make", "'nowhere:make' cannot be imported"),
        ("--image-size 8 --model alexnet", "make_shapes: size must be at least 16"),
        ("--image-size 16 --model alexnet", "model 'alexnet' fails on images of 16x16"),
        ("--epochs 0", "epochs=0, batch_size=64: expected at least 1 of each"),
        ("--batch-size 0", "batch_size=0: expected at least 1 of each"),
        ("--precision float8", "precision 'float8': expected 'float32', 'bfloat16' or 'float16'"),
        ("--train-images 0", "train_images=0: expected at least 1"),
        ("--test-images -1", "test_images=-1: expected at least 1"),
        ("--learning-rate 0", "learning_rate=0: expected more than 0"),
        ("--device tpu9", "device 'tpu9'"),
        ("--workers 0", "workers=0: expected at least 1"),
        ("--threads 0", "threads=0: expected at least 1"),
        ("--engine slurm", "engine 'slurm': expected one of local, ray"),
        ("--address auto", "--address auto is of a Ray cluster: give --engine ray too"),
        ("--gpus-per-cell 1", "--gpus-per-cell 1 on the CPU: give --device cuda"),
        ("--cpus-per-cell 0", "0 CPUs for a process: expected more than 0"),
        ("--data volumes --fill noisy-linear", "not for volumes: take --fill mean"),
        ("--data signals --augment crop:2", "not for signals: give --augment none"),
        ("--data volumes --methods random,sobel", "method 'sobel' is for images, and these"),
        ("--data volumes --measures road", "measure 'road' is for signals and images"),
        ("--data volumes --image-size 8", "--image-size 8: volumes are made from 16 up"),
        ("--data signals --image-size 64", "--image-size 64: signals are made from 128 up"),
        ("--data volumes --model resnet9", "on volumes of 24x24x24 with 1 channel ("),
    ],
)
def test_bad_options_end_with_one_message(invoke, tmp_path, options, message):
    code, said = invoke("run", "--preset", "smoke", "--out", str(tmp_path / "r"), *options.split())
    assert code == 2
    _refused(said, message)
    assert not (tmp_path / "r" / "plan.json").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("run", "--epochs", "many"), "--epochs"),
        (("run", "--metods", "x"), "--metods"),
        (("go",), "go"),
    ],
)
def test_what_is_no_option_is_said_by_the_parser(invoke, arguments, word):
    code, said = invoke(*arguments)
    assert code == 2
    assert word in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: [f.unlink() for f in (root / "test" / "dog").iterdir()], "dog' is empty"),
        (lambda root: (root / "test" / "yak").mkdir(), "class yak is in test but not in train"),
        (
            lambda root: Image.new("RGB", (9, 9)).save(root / "train" / "cat" / "odd.png"),
            "give --image-size to resize them",
        ),
    ],
)
def test_folders_that_cannot_be_used_end_with_one_message(invoke, folder, tmp_path, spoil, message):
    spoil(folder)
    code, said = invoke("run", "--data", f"folder:{folder}", "--out", str(tmp_path / "r"))
    assert code == 2
    _refused(said, message)


def test_volumes_and_signals_take_networks_recipes_and_methods_that_fit(planned):
    for preset in ("smoke", "quick", "full"):
        for name, model, left_out in (
            ("volumes", "convnet-3d", {"road", "idsds"}),
            ("signals", "convnet-1d", {"idsds"}),
        ):
            plan = planned("--preset", preset, "--data", name)
            assert plan.model == model
            assert not plan.recipe.flip
            assert plan.recipe.crop_padding == 0
            assert not {"sobel", "random-blobs"} & set(plan.methods)
            assert set(MEASURES) - set(plan.measures) == left_out
    assert planned("--preset", "volumes").image_size == 20
    assert planned("--data", "shapes").recipe.flip


def test_a_model_with_the_wrong_number_of_classes(invoke, folder, tmp_path, monkeypatch):
    module = types.ModuleType("zoo")
    module.eleven = lambda classes: nn.Sequential(nn.Flatten(), nn.Linear(768, classes + 9))
    monkeypatch.setitem(sys.modules, "zoo", module)
    options = ("--data", f"folder:{folder}", "--model", "zoo:eleven", "--out", str(tmp_path / "r"))
    code, said = invoke("run", *options)
    assert code == 2
    _refused(said, "model 'zoo:eleven' returns (2, 11) for two images: expected (2, 2)")


@pytest.fixture
def in_process(monkeypatch, inline_executor):
    """Cells run in this process."""

    class InProcess:
        @staticmethod
        @contextmanager
        def running(store, **_):
            yield inline_executor(store)

    monkeypatch.setattr(select, "LocalExecutor", InProcess)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("in_process")
def test_a_folder_whose_images_changed_is_another_data_set(invoke, folder, tmp_path):
    out = tmp_path / "r"
    options = ("--preset", "smoke", "--methods", "centre", "--precision", "float32")
    command = ("run", "--data", f"folder:{folder}", "--out", str(out), *options)
    assert invoke(*command)[0] == 0
    (out / "cells" / ".partial-0").write_bytes(b"half a record")

    image = folder / "train" / "cat" / "3.png"
    before = image.read_bytes()
    os.utime(image, (1, 1))
    code, said = invoke(*command)
    assert code == 0, said
    assert not list(out.rglob(".partial-*"))

    Image.new("RGB", (16, 16)).save(image)
    code, said = invoke(*command)
    assert code == 2
    _refused(said, f"the images of folder:{folder} changed after {out} was started with them")

    image.write_bytes(before)
    assert invoke(*command)[0] == 0


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("in_process")
def test_a_corrupt_image_is_said_and_the_run_goes_on(invoke, folder, tmp_path):
    (folder / "train" / "cat" / "[bold].png").write_bytes(b"broken")
    out = tmp_path / "r"
    options = ("--preset", "smoke", "--methods", "centre", "--precision", "float32")
    code, said = invoke("run", "--data", f"folder:{folder}", "--out", str(out), *options)
    assert code == 0, said
    assert "skipped train/cat/[bold].png: " in said
    assert f"Report: {out / 'report.html'}" in said
    assert "train/cat/[bold].png" in (out / "report.html").read_text()
    meta = json.loads(next((out / "data").glob("*/meta.json")).read_text())
    assert meta["skipped"][0]["path"] == "train/cat/[bold].png"
    assert meta["train"] == 24


def test_a_full_disk_is_one_message_and_leaves_no_half_file(invoke, tmp_path, monkeypatch):
    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    code, said = invoke("run", "--preset", "smoke", "--out", str(tmp_path / "r"))
    assert code == 2
    _refused(said, "No space left on device")
    left = [path.name for path in (tmp_path / "r").rglob("*") if path.is_file()]
    assert left in ([], [".lock"])


def test_a_file_in_place_of_the_directory_is_one_message(invoke, tmp_path):
    (tmp_path / "r").write_text("I was here first")
    code, said = invoke("run", "--preset", "smoke", "--out", str(tmp_path / "r"))
    assert code == 2
    _refused(said, str(tmp_path / "r"))


def test_ctrl_c_says_how_to_go_on(invoke, tmp_path, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_command, "run_plan", interrupted)
    code, said = invoke("run", "--out", str(tmp_path / "[r]"))
    assert code == 130
    assert f"kept in {tmp_path / '[r]'}; the same command continues" in said


# What options amount to.


def test_options_go_before_the_preset(planned):
    plan = planned(
        *("--preset", "smoke", "--methods", "centre,ig", "--modes", "kar", "--seeds", "3,1"),
        *(
            "--fractions",
            "90,2.5",
            "--epochs",
            "9",
            "--mask-only",
            "kar:2.5",
            "--model",
            "resnet20",
        ),
    )
    assert plan.methods == ("centre", "ig")
    assert (plan.modes, plan.seeds, plan.fractions) == (("kar",), (3, 1), (0.025, 0.9))
    assert plan.mask_only == (("kar", 0.025),)
    assert (plan.recipe.epochs, plan.model) == (9, "resnet20")
    assert plan.train_images == PRESETS["smoke"]["train_images"]


def test_help_groups_every_option_and_shows_the_default_that_holds(planned, monkeypatch):
    """Typed as help shows them, the defaults make the plan that no option makes."""
    run = typer.main.get_command(command.app).commands["run"]
    shown = {}
    for option in run.params:
        if option.name != "help":
            assert option.rich_help_panel in PANELS, option.name
            assert option.help
        if isinstance(option.show_default, str):
            shown[option.name] = option.show_default
    assert len(shown) > 25
    assert {"fractions": "50,90", "epochs": "4"}.items() <= shown.items()
    in_words = {"measures", "precision", "recipe", "weights", "image_size", "first_seed_only"}
    in_words |= {"crossfit", "milestones"}
    typed = []
    for name, words in shown.items():
        option = f"--{name.replace('_', '-')}"
        if words in ("on", "off"):
            typed.append(option if words == "on" else option.replace("--", "--no-"))
        elif name not in in_words:
            typed += [option, words]
    assert planned(*typed) == planned("--preset", "quick")
    assert {shown[name] for name in in_words} >= {"none", "the preset's"}
    monkeypatch.setenv("COLUMNS", "80")
    said = typer.testing.CliRunner().invoke(command.app, ["run", "--help"]).output
    assert [line for line in said.splitlines() if len(line) > 80 or "…" in line] == []
    assert [panel for panel in PANELS if f"─ {panel} ─" in said] == [
        panel for panel in PANELS if panel != "What a plan assumes"
    ]


def test_no_mask_only_trainings(planned):
    assert planned("--mask-only", "none").mask_only == ()


def test_measures_without_retraining_are_all_none_or_some(planned):
    assert planned().measures == planned("--measures", "all").measures == tuple(MEASURES)
    assert planned("--measures", "none").measures == ()
    assert planned("--measures", "weights,road").measures == ("weights", "road")
    # Where the object is unknown, what needs it is left out.
    assert "localisation" not in planned("--data", "folder:pictures").measures
    assert planned("--measure-images", "10").measure_images == 10


def test_a_preset_is_not_changed_by_a_run(planned):
    before = json.dumps(PRESETS)
    planned("--preset", "smoke", "--epochs", "3", "--data", "cifar10")
    assert json.dumps(PRESETS) == before


def test_full_means_every_method_five_seeds_and_fractions(planned):
    plan = planned("--preset", "full")
    assert plan.methods == tuple(METHODS)
    assert plan.seeds == (0, 1, 2, 3, 4)
    assert plan.fractions == (0.1, 0.3, 0.5, 0.7, 0.9)
    assert plan.modes == ("roar", "kar")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_serve_images_without_object_masks_too(planned, preset):
    with_masks = planned("--preset", preset).methods
    without = planned("--preset", preset, "--data", "folder:pictures").methods
    assert without == tuple(name for name in with_masks if name != "oracle")


def test_the_command_is_recorded(invoke, monkeypatch, tmp_path):
    seen = {}

    def run_plan(plan: Plan, out: Path, **more: object) -> Path:
        seen.update(more)
        return out

    monkeypatch.setattr(run_command, "run_plan", run_plan)
    monkeypatch.setattr(sys, "argv", ["x", "run", "--out", "a folder"])
    invoke("run", "--out", str(tmp_path))
    assert seen["command"] == "python -m comparisons run --out 'a folder'"


def test_methods_are_listed_with_their_citation(invoke):
    """In a pipe a method is one line, however narrow the terminal behind it."""
    code, said = invoke("methods")
    assert code == 0
    _, *lines = said.splitlines()
    for line, entry in zip(lines, METHODS.values(), strict=True):
        parameters = ", ".join(f"{key}={value}" for key, value in entry.parameters.items())
        words = [entry.name, entry.title, entry.group, entry.citation, parameters]
        assert line.split() == " ".join(words).split()


def test_methods_fit_a_terminal_of_80_columns(invoke, monkeypatch):
    console = Console(highlight=False, width=80, force_terminal=True, no_color=True)
    monkeypatch.setattr(methods_command, "_console", console)
    code, said = invoke("methods")
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    assert max(map(len, plain.splitlines())) <= 80
    names = [line.split()[0] for line in plain.splitlines() if re.match(r"  \S", line)]
    assert names == list(METHODS)
    squeezed = " ".join(plain.split())
    for entry in METHODS.values():
        assert f"{entry.title}: {entry.citation}" in squeezed
