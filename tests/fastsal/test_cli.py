"""The command: its listing against find_scales, its pictures against the library's tensors."""

import hashlib
import json
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastsal import FastCAM, SMOEScale, __version__, find_scales, map_command
from fastsal.cli import main
from fastsal.lovi import heatmap, lovi, overlay
from fastsal.pictures import read_photograph
from fastsal.preprocessing import IMAGENET_MEAN, IMAGENET_STD, preprocessing_of

NETWORK = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1), nn.SiLU(),
    )

def flat():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())

def grey():
    return nn.Conv2d(1, 4, 3)

def nothing():
    return 3

def classifier():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "planted_network.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([pixels, pixels[:, :, :1]])).save(tmp_path / "alpha.png")
    (tmp_path / "corrupt.png").write_bytes((tmp_path / "one.png").read_bytes()[:200])
    (tmp_path / "maps").mkdir()
    (tmp_path / "other").mkdir()
    Image.fromarray(pixels).save(tmp_path / "other" / "one.png")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_layers_of_an_own_network(capsys):
    assert main(["layers", "planted_network:build", "--size", "16"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["layer", "shape", "stride", "sign", "chosen"],
        ["0", "4x16x16", "1", "signed"],
        ["1", "4x16x16", "1", "non-negative", "yes"],
        ["2", "4x8x8", "2", "non-negative"],
        ["3", "6x8x8", "2", "signed"],
        ["4", "6x8x8", "2", "signed", "yes"],
    ]


def test_layers_of_a_torchvision_network(capsys):
    assert main(["layers", "resnet18", "--size", "32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    chosen = [line.split()[0] for line in lines if line.endswith("yes")]
    assert chosen == ["relu", "layer1", "layer2", "layer3", "layer4"]


@pytest.mark.usefixtures("folder")
def test_layers_of_a_network_with_one_scale(capsys):
    assert main(["layers", "planted_network:flat", "--size", "16"]) == 0
    assert (
        "found 1 spatial scale(s), expected two or more: the network keeps one"
        in capsys.readouterr().out
    )


MODEL = ["--model", "planted_network:build", "--size", "20"]


def run(*arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return main(["maps", *map(str, arguments)])


def manifest(folder):
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    return {entry["file"]: entry for entry in map(json.loads, lines)}


def picture_of(path):
    return np.asarray(Image.open(path)).astype(int)


def written_as(picture):
    return picture[0].permute(1, 2, 0).mul(255).round().numpy().astype(int)


def test_pictures_and_manifest_are_the_librarys(folder, capsys):
    images = ["one.png", "corrupt.png", "grey.png", "alpha.png", "other/one.png"]
    assert run(*images, *MODEL, "--out", "maps", "--lovi") == 0
    assert "4 written, 0 done before, 1 failed" in capsys.readouterr().out
    stems = ("alpha", "grey", "one", "one-2")
    written = sorted(path.name for path in (folder / "maps").glob("*.png"))
    assert written == sorted(
        f"{stem}_{kind}.png" for stem in stems for kind in ("map", "lovi", "overlay")
    )

    import planted_network

    pixels = np.asarray(Image.open(folder / "one.png")).astype("float32") / 255
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    network = planted_network.build()
    scales = find_scales(network, image)
    with pytest.warns(UserWarning, match="negative activations"):
        maps = SMOEScale(network, scales).maps((image - mean) / std)
    expected = {
        "map": heatmap(maps.combined),
        "lovi": lovi(maps.stacked),
        "overlay": overlay(image, maps.combined),
    }
    for kind, picture in expected.items():
        difference = picture_of(folder / "maps" / f"one_{kind}.png") - written_as(picture)
        assert np.abs(difference).max() <= 1

    entries = manifest(folder / "maps")
    assert list(entries) == images
    one = entries["one.png"]
    assert one["sha256"] == hashlib.sha256((folder / "one.png").read_bytes()).hexdigest()
    assert one["image_size"] == one["shown_size"] == [30, 20]
    assert [(scale["name"], scale["stride"]) for scale in one["scales"]] == [("1", 1), ("4", 2)]
    assert one["scales"][1]["size"] == [15, 10]
    # Its output is no row of class scores.
    assert one["predicted_class"] is None
    assert one["settings"]["versions"] == {"fastsal": __version__, "torch": torch.__version__}
    assert "cannot be read as an image" in entries["corrupt.png"]["error"]


def test_the_predicted_class_and_fast_cam(folder):
    import planted_network

    arguments = ["one.png", "--model", "planted_network:classifier", "--size", "original"]
    assert run(*arguments, "--method", "fastcam", "--out", "own") == 0
    assert run(*arguments, "--method", "fastcam", "--target", 1, "--out", "one") == 0
    network = planted_network.classifier()
    pixels = np.asarray(Image.open(folder / "one.png")).astype("float32") / 255
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    inputs = (image - mean) / std
    probabilities = network(inputs)[0].softmax(0).detach()
    entry = manifest(folder / "own")["one.png"]
    assert entry["predicted_class"] == int(probabilities.argmax())
    assert entry["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)
    for name, target in (("own", None), ("one", 1)):
        maps = FastCAM(network).attribute(inputs, target, expand_channels=False)[:, 0]
        difference = picture_of(folder / name / "one_map.png") - written_as(heatmap(maps))
        assert np.abs(difference).max() <= 1


def test_a_folder_is_mirrored_and_what_is_done_is_left(folder, capsys):
    (folder / "photographs" / "inner").mkdir(parents=True)
    for name in ("one.png", "grey.png", "corrupt.png"):
        (folder / "photographs" / name).write_bytes((folder / name).read_bytes())
    (folder / "photographs" / "inner" / "one.png").write_bytes((folder / "one.png").read_bytes())
    (folder / "photographs" / "notes.txt").write_text("no image")
    arguments = ["photographs", *MODEL, "--out", "maps"]
    assert run(*arguments) == 0
    maps = folder / "maps"
    times = {path: path.stat().st_mtime_ns for path in maps.rglob("*.png")}
    assert {path.relative_to(maps).as_posix() for path in times} == {
        f"{stem}_{kind}.png" for stem in ("one", "grey", "inner/one") for kind in ("map", "overlay")
    }
    assert run(*arguments) == 0
    assert "0 written, 3 done before, 1 failed" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in maps.rglob("*.png")} == times

    # A changed file, a picture that is gone and other settings are done again.
    changed = folder / "photographs" / "grey.png"
    changed.write_bytes((folder / "alpha.png").read_bytes())
    (maps / "inner" / "one_map.png").unlink()
    assert run(*arguments) == 0
    assert "2 written, 1 done before, 1 failed" in capsys.readouterr().out
    assert run(*arguments, "--scale-weights", "equal") == 0
    assert "3 written, 0 done before, 1 failed" in capsys.readouterr().out
    assert len((maps / "manifest.jsonl").read_text().splitlines()) == 4


def test_an_interrupted_run_goes_on(folder, capsys, monkeypatch):
    images = ["one.png", "grey.png", "alpha.png"]
    write = map_command.write_png
    calls = []

    def stopped(picture, path):
        calls.append(path)
        if len(calls) == 4:
            raise KeyboardInterrupt
        write(picture, path)

    monkeypatch.setattr(map_command, "write_png", stopped)
    assert run(*images, *MODEL, "--out", "maps") == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert list(manifest(folder / "maps")) == ["one.png"]
    monkeypatch.setattr(map_command, "write_png", write)
    # A line that was torn as the process died.
    with (folder / "maps" / "manifest.jsonl").open("a") as file:
        file.write('{"file": "grey.png", "sha')
    assert run(*images, *MODEL, "--out", "maps") == 0
    assert "2 written, 1 done before, 0 failed" in capsys.readouterr().out
    assert list(manifest(folder / "maps")) == images
    assert not [path for path in (folder / "maps").rglob("*") if "partial" in path.name]


def test_a_file_gone_between_listing_and_reading_is_recorded(folder, monkeypatch):
    Image.fromarray(np.zeros((20, 30, 3), dtype=np.uint8)).save(folder / "gone.png")
    found = list(map_command.find_photographs([folder / "gone.png", folder / "one.png"]))
    (folder / "gone.png").unlink()
    monkeypatch.setattr(map_command, "find_photographs", lambda _: found)
    assert run("one.png", *MODEL, "--out", "maps") == 0
    assert "No such file" in manifest(folder / "maps")[str(folder / "gone.png")]["error"]


def test_a_map_that_cannot_be_made_is_recorded(folder, monkeypatch):
    # Too small for the network's pooling, where the others are not.
    Image.fromarray(np.zeros((1, 1, 3), dtype=np.uint8)).save(folder / "tiny.png")
    arguments = ["--model", "planted_network:build", "--size", "original", "--out", "maps"]
    assert run("one.png", "tiny.png", "alpha.png", *arguments) == 0
    entries = manifest(folder / "maps")
    assert "error" in entries["tiny.png"]
    assert "error" not in entries["alpha.png"]


def test_the_shorter_side_is_resized(folder):
    assert run("one.png", "--model", "planted_network:build", "--size", 10, "--out", "maps") == 0
    assert Image.open(folder / "maps" / "one_map.png").size == (15, 10)


def test_orientation_palette_and_sixteen_bits(folder):
    dark_to_light = np.tile(np.arange(0, 240, 8, dtype=np.uint8), (20, 1))
    planted = torch.from_numpy(dark_to_light.astype("float32") / 255)
    upright = Image.fromarray(dark_to_light)
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera lay on its side: turn by 270 degrees to see it upright.
    upright.rotate(90, expand=True).save(folder / "turned.png", exif=exif)
    upright.convert("P").save(folder / "palette.png")
    Image.fromarray(dark_to_light.astype(np.uint16) * 257).save(folder / "deep.png")
    for name in ("turned", "palette", "deep"):
        image, size = read_photograph(folder / f"{name}.png", None)
        assert size == (30, 20), name
        assert torch.allclose(image, planted.expand(1, 3, 20, 30), atol=1e-6), name


def test_a_strip_too_large_when_enlarged_is_named(folder):
    Image.fromarray(np.zeros((1, 9000, 3), dtype=np.uint8)).save(folder / "strip.png")
    with pytest.raises(ValueError, match="is 9000x1 pixels and would be 2016000x224"):
        read_photograph(folder / "strip.png", 224)


def test_weights_from_a_file(folder, capsys):
    import planted_network

    network = planted_network.build()
    nn.init.zeros_(network[3].weight)
    torch.save(network.state_dict(), folder / "state.pt")
    arguments = ["one.png", *MODEL, "--out"]
    assert run(*arguments, "a") == 0
    assert run(*arguments, "b", "--weights", "state.pt") == 0
    assert (folder / "a/one_map.png").read_bytes() != (folder / "b/one_map.png").read_bytes()
    # Other weights in the same folder are other maps.
    assert run(*arguments, "a", "--weights", "state.pt") == 0
    assert (folder / "a/one_map.png").read_bytes() == (folder / "b/one_map.png").read_bytes()
    torch.save({"weight": torch.ones(1)}, folder / "wrong.pt")
    capsys.readouterr()
    for wrong in ("wrong.pt", "absent.pt", "one.png"):
        assert run(*arguments, "c", "--weights", wrong) == 1
        assert f"cannot load {wrong} into planted_network:build" in capsys.readouterr().err


def test_published_preprocessing():
    found = preprocessing_of("resnet18", nn.Identity())
    assert (found.mean, found.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert found.classes[281] == "tabby"
    timm = pytest.importorskip("timm")
    network = timm.create_model("tf_efficientnet_lite0")
    found = preprocessing_of("timm:tf_efficientnet_lite0", network)
    assert (found.mean, found.std, found.classes) == ((0.5,) * 3, (0.5,) * 3, ())


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["layers", "resnet9000"], "torchvision has no model 'resnet9000'"),
        (["layers", "absent_module:build"], "'absent_module:build' cannot be imported"),
        (["layers", "planted_network:absent"], "has no attribute 'absent'"),
        (["layers", "planted_network:nothing"], "returned a int, not a torch.nn.Module"),
        (["layers", "planted_network:grey", "--size", "8"], "does not run on a 8x8 image"),
        (["maps", "corrupt.png", *MODEL, "--out", "m"], "none of the 1 image(s)"),
        (["maps", "missing.png", *MODEL, "--out", "m"], "no file or folder missing.png"),
        (["maps", "maps", *MODEL, "--out", "m"], "no image files in maps"),
        (["maps", "one.png", *MODEL, "--out", "m", "--layers", "nine"], "no layer named 'nine'"),
        (
            ["maps", "one.png", "--model", "planted_network:flat", "--out", "m"],
            "found 1 spatial scale(s)",
        ),
        (["maps", "one.png", *MODEL, "--out", "one.png"], "one.png"),
        (["maps", "one.png", *MODEL, "--out", "m", "--target", "1"], "--method fastcam"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fastsal: ")
    assert message in error


def test_an_absent_torchvision_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert main(["layers", "resnet18"]) == 1
    assert "needs torchvision: pip install torchvision" in capsys.readouterr().err
