"""The page of networks of many families: the recorded one, and its sentences."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from comparisons.__main__ import app
from comparisons.architectures import command
from comparisons.architectures.explainers import METHODS
from comparisons.architectures.measuring import Measured
from comparisons.architectures.page import write_page
from comparisons.architectures.tokens.retraining import Retrained
from comparisons.architectures.tokens.tensors import NOT_CENTRED

ROOT = Path(__file__).parents[3]
RUN = ROOT / "reports" / "runs" / "architectures"
PHOTOGRAPHS = ROOT / "reports" / "runs" / "imagenette-lite0"


def test_the_page_is_written_from_the_records(tmp_path):
    write_page(RUN, tmp_path / "page.md")
    recorded = (ROOT / "docs" / "results" / "architectures.md").read_text(encoding="utf-8")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == recorded


def test_photographs_are_those_of_the_recorded_run(tmp_path):
    write_page(RUN, tmp_path / "page.md", PHOTOGRAPHS)
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    line = next(one for one in text.splitlines() if one.startswith("| `smoe-linear` |"))
    with zipfile.ZipFile(PHOTOGRAPHS / "cells.zip") as archive:
        cells = [json.loads(archive.read(name)) for name in archive.namelist() if "cells/" in name]
    (cell,) = [
        one
        for one in cells
        if one["kind"] == "measure"
        and one["spec"]["method"] == "smoe-linear"
        and one["spec"]["measure"] == "insertion-deletion"
    ]
    values = [one["insertion_area"] - one["deletion_area"] for one in cell["history"]]
    assert line.split("|")[2].strip().startswith(f"{np.mean(values):.3f} (")
    assert f"{len(values):,}\nphotographs" in text


NOISE = 0.01 * np.random.default_rng(2).standard_normal(50)


def planted(network, shift):
    """Measurements in which SMOE Scale is so much above the centre disk."""
    rng = np.random.default_rng(0)
    methods = [*METHODS, "block depths", "hidden depths"]
    ranking = {name: 0.5 + 0.01 * rng.standard_normal(50) for name in methods}
    ranking["smoe-linear"] = ranking["block depths"] = ranking["centre"] + shift
    ranking["hidden depths"] = ranking["block depths"] - 0.5
    both = {name: tuple(values) for name, values in ranking.items()}
    return Measured(network, 0, 0.5, ("a",), both, both, (1.0,) * 50)


def page_of(folder, *measurements):
    (folder / "records.jsonl").write_text("".join(f"{one.line()}\n" for one in measurements))
    write_page(folder, folder / "page.md")
    return (folder / "page.md").read_text()


def test_what_is_no_better_than_the_disk_is_said_first(tmp_path):
    rng = np.random.default_rng(1)
    noise = 0.1 * rng.standard_normal(50)
    text = page_of(
        tmp_path,
        planted("resnet", 0.1 + noise),
        planted("vit", -0.1 + noise),
        planted("mixer", noise - noise.mean()),
    )
    first = text.partition("## Families")[0]
    assert (
        "centre disk does on 1 of 3 networks**: ResNet. Lower: ViT. Not told: MLP-Mixer." in first
    )
    assert "Not measured: VGG without norm, DenseNet," in first
    assert "| VGG without norm | not measured |" in text
    assert "of one training each" in text
    assert (
        "it is below on ViT and not told on MLP-Mixer; against SMOE Scale's default the same on "
        "ViT and the same on MLP-Mixer." in " ".join(text.split())
    )


@pytest.mark.parametrize("network", ["vit", "mixer"])
def test_the_best_tensor_is_named(tmp_path, network):
    text = page_of(tmp_path, planted(network, 0.2))
    assert "the output of the block (blocks: evenly spaced) is best on average" in text


def test_the_command_goes_on_and_keeps_every_network(tmp_path, monkeypatch):
    made, drawn = [], []

    def measured(name, seed, folder, say):
        made.append((name, seed))
        one = planted(name, 0.1)
        (folder / f"{name}-{seed}.json").write_text(one.line() + "\n")
        (folder / f"{name}-{seed}.pt").touch()
        return one

    monkeypatch.setattr(command, "measured", measured)
    monkeypatch.setattr(command, "write_picture", lambda names, *_: drawn.append(names))
    arguments = ["architectures", "vit", "resnet", "--seeds", "2", "--no-costs"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    # Every network once before any again.
    assert made == [("vit", 0), ("resnet", 0), ("vit", 1), ("resnet", 1)]
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert [Measured.read(line).network for line in lines] == ["resnet", "resnet", "vit", "vit"]
    assert (tmp_path / "architectures.md").is_file()
    assert drawn == [["vit"]]


def test_centred_maps_and_hierarchies_have_sentences(tmp_path):
    better = planted("convnext", 0.04)
    as_it_is = {NOT_CENTRED: tuple(np.add(better.ranking["centre"], -0.1 + NOISE))}
    end = {"end last": tuple(np.add(better.ranking["centre"], 0.05 + NOISE))}
    both = {**better.ranking, **as_it_is, **end}
    text = page_of(tmp_path, replace(better, ranking=both, mass=both), planted("resnet", 0.2))
    assert "**SMOE Scale ranks the object's pixels higher than the centre disk does on 2 of" in text
    line = next(one for one in text.splitlines() if "**SMOE Scale without centring ranks" in one)
    # ResNet has no scale to centre.
    assert "on 0 of 1 networks" in line
    assert "ConvNeXt" in line.partition("Lower")[2].partition("Not told")[0]
    assert (
        "The end of the stage, behind a layer norm (blocks: the last) is best of ConvNeXt's: "
        "against the disk above, against the default above." in text
    )


def test_what_retraining_tells_is_said(tmp_path):
    accuracies = {"random": 0.4, "centre": 0.3, "block depths": 0.1, "hidden depths": 0.5}
    uniform = np.random.default_rng(0).random(1000)
    trainings = [
        Retrained("vit", method, 0.5, 0, "".join(str(int(one < share)) for one in uniform))
        for method, share in (*accuracies.items(), ("rollout", 0.3))
    ]
    whole = Retrained("vit", "unmasked", 0.0, 0, "1" * 450 + "0" * 550)
    with (tmp_path / "roar.jsonl").open("w") as file:
        file.writelines(one.line() for one in [whole, *trainings])
    text = page_of(tmp_path, planted("vit", 0.2))
    assert "Accuracy on whole images: ViT 45.0% (seed 0); by chance it is an eighth." in " ".join(
        text.split()
    )
    assert "### ViT, 50 % of the pixels removed" in text
    assert (
        "which is better: SMOE Scale (output of the block); "
        "higher: random and SMOE Scale (hidden layer of the MLP, after its GELU); "
        "not told: attention rollout." in text
    )
    row = next(one for one in text.splitlines() if one.startswith("| SMOE Scale (output"))
    assert row.split(" | ")[1] == f"{np.mean(uniform < 0.1):.1%}"
    assert "| Grad-CAM | not measured |" in text


def test_the_command_trains_networks_of_tokens_again(tmp_path, monkeypatch):
    made, drawn = [], []

    def measured(name, seed, folder, say):
        (folder / f"{name}-{seed}.json").write_text(planted(name, 0.1).line() + "\n")

    def retrain(name, seed, fractions, folder, say):
        made.append((name, seed, fractions))

    monkeypatch.setattr(command, "measured", measured)
    monkeypatch.setattr(command, "write_picture", lambda names, *_: drawn.append(names))
    monkeypatch.setattr(command, "retrain", retrain)
    arguments = ["architectures", "vit", "resnet", "--seeds", "2", "--no-costs", "--roar", "50, 10"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert made == [("vit", 0, (0.5, 0.1)), ("vit", 1, (0.5, 0.1))]


@pytest.mark.parametrize(
    ("percents", "message"),
    [
        ("half", "fraction 'half': expected a number of percent"),
        ("100", "fraction 100 % is out of range"),
        ("10,10", "fraction 10 % is given twice"),
    ],
)
def test_percents_that_cannot_be_removed_are_refused(tmp_path, percents, message):
    wrong = CliRunner().invoke(
        app, ["architectures", "vit", "--roar", percents, "--out", str(tmp_path)]
    )
    assert wrong.exit_code == 2
    assert message in wrong.stderr
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_none_is_refused():
    wrong = CliRunner().invoke(app, ["architectures", "alexnet"])
    assert wrong.exit_code == 2
    assert "'alexnet' is none of resnet, vgg" in wrong.stderr
