"""`fastsal maps`: its pictures and manifest against the library, its restarts after anything."""

import hashlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastsal import FastCAM, SMOEScale, __version__, find_scales
from fastsal.cli import map_writer
from fastsal.cli.main import main
from fastsal.cli.manifest import folder_lock
from fastsal.cli.names import class_index
from fastsal.images.colour import heatmap, overlay
from fastsal.networks.preprocessing import IMAGENET_MEAN, IMAGENET_STD, preprocessing_of

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[3]

NETWORK = """
import os
import signal

import torch
from PIL import Image
from torch import nn

def classifier():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )

def strided():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(),
    )

def signed():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1), nn.SiLU(),
    )

def hopeless():
    network = classifier()
    with torch.no_grad():
        network[7].weight.zero_()
    return network

class Square(nn.Sequential):
    def forward(self, x):
        if x.shape[2] != x.shape[3]:
            raise IndexError("this network takes squares")
        return super().forward(x)

def square():
    return Square(*classifier())

class Still(nn.Sequential):
    def forward(self, x):
        assert tuple(x.shape[2:]) == (20, 30), "this network takes 20x30"
        return super().forward(x)

def still():
    return Still(*classifier())

# In a process of its own: the picture after so many is begun, then the process gets a signal.
if "STOP_AFTER" in os.environ:
    left, save = int(os.environ["STOP_AFTER"]), Image.Image.save

    def stop(self, file, **arguments):
        global left
        left -= 1
        if left < 0:
            file.write(b"half a picture")
            file.flush()
            os.kill(os.getpid(), int(os.environ["STOP_BY"]))
        save(self, file, **arguments)

    Image.Image.save = stop
"""

PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "networks.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "inner").mkdir(parents=True)
    Image.fromarray(PIXELS).save(tmp_path / "photos" / "one.png")
    Image.fromarray(PIXELS[:, :, 0]).save(tmp_path / "photos" / "grey.png")
    Image.fromarray(PIXELS[::-1]).save(tmp_path / "photos" / "inner" / "one.png")
    broken = (tmp_path / "photos" / "one.png").read_bytes()[:200]
    (tmp_path / "photos" / "broken.png").write_bytes(broken)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path


def maps(*arguments, network="classifier", out="maps"):
    model = f"networks.py:{network}"
    return main(["maps", *map(str, arguments), "--model", model, "--out", str(out), "--quiet"])


def manifest(out="maps"):
    lines = (Path(out) / "manifest.jsonl").read_text().splitlines()
    return {entry["file"]: entry for entry in map(json.loads, lines)}


def times(out="maps"):
    return {path: path.stat().st_mtime_ns for path in Path(out).rglob("*.png")}


def network_of(name):
    names = {}
    exec(NETWORK, names)
    return names[name]()


def shown(name="photos/one.png"):
    pixels = np.asarray(Image.open(name)).astype("float32") / 255
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return image, (image - mean) / std


def assert_written(path, picture):
    expected = picture[0].permute(1, 2, 0).mul(255).round().numpy().astype(int)
    # One level apart where a value lies between two of them.
    assert np.abs(np.asarray(Image.open(path)).astype(int) - expected).max() <= 1


@pytest.mark.usefixtures("folder")
def test_pictures_and_manifest_are_the_librarys(capsys):
    assert maps("photos", "--lovi", "--size", 20) == 1  # for the broken one
    said = capsys.readouterr()
    assert "3 written, 0 done before, 1 failed" in said.out
    assert "broken.png: image file is truncated" in said.err
    told = "fastsal: 1 of 4 files have no map; maps/manifest.jsonl says why"
    assert said.err.splitlines()[-1] == told
    assert {path.relative_to("maps").as_posix() for path in times()} == {
        f"{stem}_{kind}.png"
        for stem in ("one", "grey", "inner/one")
        for kind in ("map", "overlay", "lovi")
    }
    image, inputs = shown()
    network = network_of("classifier")
    found = SMOEScale(network, find_scales(network, inputs)).maps(inputs)
    assert_written("maps/one_map.png", heatmap(found.combined))
    assert_written("maps/one_lovi.png", overlay(image, found.stacked))
    assert_written("maps/one_overlay.png", overlay(image, found.combined))

    entries = manifest()
    assert list(entries) == [
        f"../photos/{name}" for name in ("broken.png", "grey.png", "one.png", "inner/one.png")
    ]
    one = entries["../photos/one.png"]
    assert one["sha256"] == hashlib.sha256(Path("photos/one.png").read_bytes()).hexdigest()
    assert one["image_size"] == one["shown_size"] == [30, 20]
    assert one["scales"] == [
        {"name": "1", "stride": 1, "size": [30, 20]},
        {"name": "4", "stride": 2, "size": [15, 10]},
    ]
    probabilities = network(inputs)[0].softmax(0).detach()
    assert one["predicted_class"] == int(probabilities.argmax())
    assert one["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)
    assert one["class_name"] is None
    assert one["range"] == [0, 1]
    assert one["environment"] == {"torch": torch.__version__, "device": "cpu"}
    assert one["settings"]["fastsal"] == __version__
    assert one["settings"]["model"] == "networks.py:classifier"
    assert one["settings"]["method"] == "smoe"
    assert all((Path("maps") / name).is_file() for name in one["pictures"].values())
    assert "truncated" in entries["../photos/broken.png"]["error"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("cam", ["gradcam", "gradcam++"])
def test_fast_cam_of_the_predicted_class_and_of_any(cam):
    fastcam = ("photos/one.png", "--method", "fastcam", "--cam", cam, "--size", "original")
    _, inputs = shown()
    network = network_of("classifier")
    for target in (None, 1, 2):
        given = () if target is None else ("--target", target)
        assert maps(*fastcam, *given, out=f"of-{target}") == 0
        expected = FastCAM(network, cam=cam).attribute(inputs, target, expand_channels=False)
        assert_written(f"of-{target}/one_map.png", heatmap(expected[:, 0]))
        assert manifest(f"of-{target}")["../photos/one.png"]["settings"]["target"] == target


@pytest.mark.usefixtures("folder")
def test_every_option_reaches_the_library():
    options = ("--layers", 1, 4, "--statistic", "std", "--scale-weights", "3,1")
    normalised = ("--normalize", "minmax", "--mean", 0, 0, 0, "--std", 0.5, 0.5, 0.5)
    assert maps("photos/one.png", *options, *normalised, "--size", "original") == 0
    image, _ = shown()
    expected = SMOEScale(
        network_of("classifier"), ["1", "4"], statistic="std", weights=(3, 1), normalize="minmax"
    ).maps(image / 0.5)
    assert_written("maps/one_map.png", heatmap(expected.combined))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("method", ["smoe", "fastcam"])
def test_maps_without_normalisation_say_what_their_colours_stand_for(method):
    given = ("--normalize", "none", "--size", "original", "--lovi", "--method", method)
    assert maps("photos/one.png", *given) == 0
    image, inputs = shown()
    network = network_of("classifier")
    found = SMOEScale(network, normalize="none").maps(inputs)
    combined = found.combined
    if method == "fastcam":
        attributor = FastCAM(network, normalize="none")
        combined = attributor.attribute(inputs, expand_channels=False)[:, 0]
    low, high = manifest()["../photos/one.png"]["range"]
    assert low == 0
    assert high == pytest.approx(combined.max().item(), rel=1e-5)
    assert_written("maps/one_map.png", heatmap(combined / high))
    assert_written("maps/one_lovi.png", overlay(image, found.stacked / found.stacked.max()))


@pytest.mark.usefixtures("folder")
def test_what_is_done_is_left(capsys):
    arguments = ("photos", "--size", 20)
    assert maps(*arguments, "--lovi") == 1
    done = times()
    assert maps(*arguments, "--lovi") == 1
    assert "0 written, 3 done before, 1 failed" in capsys.readouterr().out
    assert times() == done

    # From elsewhere, by other names of the same files, and where the photograph was only touched.
    Path("photos/one.png").touch()
    assert maps(Path("photos").absolute(), "--size", 20, "--lovi") == 1
    assert maps("photos/inner/../one.png", "--size", 20, "--lovi") == 0
    assert times() == done

    # A changed photograph and a picture that is gone.
    Path("photos/grey.png").write_bytes(Path("photos/inner/one.png").read_bytes())
    Path("maps/inner/one_map.png").unlink()
    capsys.readouterr()
    assert maps(*arguments, "--lovi") == 1
    assert "2 written, 1 done before, 1 failed" in capsys.readouterr().out
    assert times()[Path("maps/one_map.png")] == done[Path("maps/one_map.png")]
    assert Path("maps/grey_map.png").read_bytes() == Path("maps/inner/one_map.png").read_bytes()

    # Other options; LOVI is no longer asked for, and no stale one is left.
    assert maps(*arguments, "--overwrite") == 1
    assert "3 written, 0 done before, 1 failed" in capsys.readouterr().out
    assert {path.name for path in times()} == {
        f"{stem}_{kind}.png" for stem in ("one", "grey") for kind in ("map", "overlay")
    }
    assert len(manifest()) == len(Path("maps/manifest.jsonl").read_text().splitlines()) == 4


@pytest.mark.usefixtures("folder")
def test_other_weights_are_other_maps(capsys):
    network = network_of("classifier")
    nn.init.ones_(network[3].weight)
    torch.save({"state_dict": network.state_dict()}, "state.pt")
    arguments = ("photos/one.png", "--size", "original")
    assert maps(*arguments) == 0
    before = Path("maps/one_map.png").read_bytes()
    assert maps(*arguments, "--weights", "state.pt") == 1
    assert "made otherwise: with other weights; give --out" in capsys.readouterr().err
    assert Path("maps/one_map.png").read_bytes() == before
    assert maps(*arguments, "--weights", "state.pt", "--overwrite") == 0
    assert "1 written, 0 done before" in capsys.readouterr().out.splitlines()[-1]
    _, inputs = shown()
    assert_written("maps/one_map.png", heatmap(SMOEScale(network).maps(inputs).combined))
    assert Path("maps/one_map.png").read_bytes() != before
    torch.save({"weight": torch.ones(1)}, "wrong.pt")
    for wrong, message in {
        "wrong.pt": "do not fit model 'networks.py:classifier'",
        "absent.pt": "there is no such file",
        "photos/one.png": "cannot be read as a state dict",
    }.items():
        assert maps(*arguments, "--weights", wrong) == 1
        said = capsys.readouterr().err
        assert f"weights {wrong}" in said
        assert message in said


@pytest.mark.usefixtures("folder")
def test_maps_of_other_settings_are_not_overwritten(capsys):
    """A folder is as it was; other photographs may go to it; `--overwrite` replaces."""
    assert maps("photos/one.png", "--size", 20) == 0
    before = {path: path.read_bytes() for path in Path("maps").iterdir()}
    for given, said in {
        ("--size", 16): "size 20, now 16;",
        ("--size", "original"): "size 20, now original;",
        ("--size", 20, "--lovi"): "lovi off, now on;",
        ("--size", 20, "--smoothing", "0.5"): "smoothing 0.0, now 0.5;",
        ("--size", 20, "--layers", 1, 4): "layers not given, now 1,4;",
        (
            "--size",
            20,
            "--method",
            "fastcam",
        ): "method smoe, now fastcam; cam not",
    }.items():
        assert maps("photos", *given) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"maps holds maps of 1 of these files that were made otherwise: {said}" in error
        assert error.endswith("give --out another folder, or --overwrite to replace them")
        assert {path: path.read_bytes() for path in Path("maps").iterdir()} == before
    assert maps("photos/grey.png", "--size", 16) == 0
    assert maps("photos/one.png", "--size", 16, "--overwrite") == 0
    assert manifest()["../photos/one.png"]["settings"]["size"] == 16
    assert Path("maps/one_map.png").read_bytes() != before[Path("maps/one_map.png")]


@pytest.mark.usefixtures("folder")
def test_the_class_and_its_probability_are_said_of_each_file(capsys):
    arguments = ["photos/one.png", "--model", "networks.py:classifier", "--size", "original"]
    assert main(["maps", *arguments, "--out", "maps"]) == 0
    probability, index = network_of("classifier")(shown()[1])[0].softmax(0).detach().max(0)
    first, counts = capsys.readouterr().out.splitlines()
    assert first == f"photos/one.png: class {int(index)}, {100 * float(probability):.0f} %"
    assert counts.startswith("1 written")
    # What is done is not said again, and nothing of a network without classes.
    assert main(["maps", *arguments, "--out", "maps"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    arguments[2] = "networks.py:strided"
    assert main(["maps", *arguments, "--out", "features"]) == 0
    assert "photos/one.png: map, no class" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_random_weights_are_the_same_at_every_call(capsys):
    for _ in range(2):
        torch.rand(1)
        arguments = ["photos/one.png", "--model", "squeezenet1_1", "--random-weights"]
        assert main(["maps", *arguments, "--size", "64", "--out", "maps", "--quiet"]) == 0
    assert "0 written, 1 done before" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.usefixtures("folder")
def test_a_photograph_that_broke_leaves_no_pictures():
    assert maps("photos/one.png", "--size", 20) == 0
    Path("photos/one.png").write_bytes(b"broken")
    assert maps("photos", "--size", 20) == 1
    assert not Path("maps/one_map.png").exists()
    assert "error" in manifest()["../photos/one.png"]


@pytest.mark.usefixtures("folder")
def test_pictures_are_not_taken_for_photographs(capsys):
    for _ in range(2):
        assert maps("photos", "--size", 20, out="photos/maps") == 1
    assert "0 written, 3 done before, 1 failed" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.usefixtures("folder")
def test_photographs_of_one_name_have_pictures_of_their_own(capsys):
    Image.fromarray(PIXELS[:, ::-1]).save("photos/one.bmp")
    given = ("photos/one.png", "photos/one.bmp", "photos/inner/one.png")
    assert maps(*given, "--size", 20) == 0
    pictures = [entry["pictures"]["map"] for entry in manifest().values()]
    assert pictures == ["one_map.png", "one-2_map.png", "inner/one_map.png"]
    contents = [(Path("maps") / picture).read_bytes() for picture in pictures]
    assert len(set(contents)) == 3
    # In another order they keep their names.
    assert maps(*given[::-1], "--size", 20) == 0
    assert "0 written, 3 done before" in capsys.readouterr().out.splitlines()[-1]


def in_a_process(*arguments, **environment):
    command = [sys.executable, "-m", "fastsal", "maps", *arguments, "--out", "maps"]
    known = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    # Without any screen.
    known.pop("DISPLAY", None)
    return subprocess.run(command, env=known, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_of_a_picture_the_same_command_goes_on(by, capsys):
    arguments = ("photos", "--model", "networks.py:classifier", "--size", "20")
    # The second photograph's overlay is begun.
    stopped = in_a_process(*arguments, STOP_AFTER="3", STOP_BY=str(int(by)))
    if by == signal.SIGINT:
        assert stopped.returncode == 130
        assert stopped.stderr.splitlines()[-1].startswith("fastsal: stopped")
        assert "Traceback" not in stopped.stderr
    else:
        assert stopped.returncode == -signal.SIGKILL
    assert [entry["file"] for entry in manifest().values() if "error" not in entry] == [
        "../photos/grey.png"
    ]
    for path in times():
        if not path.name.startswith("."):
            Image.open(path).load()
    assert not Path("maps/one_overlay.png").exists()
    done = Path("maps/grey_map.png").stat().st_mtime_ns
    assert main(["maps", *arguments, "--out", "maps"]) == 1
    assert "2 written, 1 done before, 1 failed" in capsys.readouterr().out
    assert Path("maps/grey_map.png").stat().st_mtime_ns == done


@pytest.mark.usefixtures("folder")
def test_killed_while_redone_the_old_options_are_not_vouched_for(capsys):
    arguments = ("photos/one.png", "--model", "networks.py:classifier", "--size", "20")
    assert main(["maps", *arguments, "--out", "maps"]) == 0
    before = {path.name: path.read_bytes() for path in times()}
    other = (*arguments, "--scale-weights", "equal", "--overwrite")
    in_a_process(*other, STOP_AFTER="1", STOP_BY=str(int(signal.SIGKILL)))
    assert Path("maps/one_map.png").read_bytes() != before["one_map.png"]
    assert main(["maps", *arguments, "--out", "maps"]) == 0
    assert "1 written, 0 done before" in capsys.readouterr().out.splitlines()[-1]
    for name, content in before.items():
        assert (Path("maps") / name).read_bytes() == content


def test_two_runs_at_once_in_one_folder_are_told(folder, capsys):
    Path("maps").mkdir()
    arguments = ["maps", "photos/one.png", "--model", "networks.py:classifier", "--out", "maps"]
    with folder_lock(Path("maps")):
        assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error == (
        "fastsal: loading networks.py:classifier with the weights that its function gives it ...\n"
        "fastsal: another run writes to maps; wait for it, or give this one another folder\n"
    )
    assert list(Path("maps").iterdir()) == []
    assert main(arguments) == 0


def test_a_device_that_torch_was_built_without_is_told_in_one_line(folder, monkeypatch, capsys):
    def built_without(*_):
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(torch.nn.Module, "to", built_without)
    arguments = ["maps", "photos/one.png", "--model", "networks.py:classifier", "--out", "maps"]
    assert main([*arguments, "--device", "cuda", "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error == (
        "fastsal: device 'cuda' cannot be used: Torch not compiled with CUDA enabled\n"
    )


def test_a_full_disk_ends_the_run_in_one_line(folder, monkeypatch, capsys):
    def full(picture, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(map_writer, "write_png", full)
    assert maps("photos", "--size", 20) == 1
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert [entry for entry in manifest().values() if "error" not in entry] == []


def test_a_file_gone_between_listing_and_reading_is_recorded(folder, monkeypatch):
    find = map_writer.find_photographs

    def found_then_gone(paths, out):
        found = list(find(paths, out))
        (folder / "photos" / "grey.png").unlink()
        return found

    monkeypatch.setattr(map_writer, "find_photographs", found_then_gone)
    assert maps("photos", "--size", 20) == 1
    assert "No such file" in manifest()["../photos/grey.png"]["error"]
    assert "error" not in manifest()["../photos/one.png"]


@pytest.mark.usefixtures("folder")
def test_a_photograph_the_network_refuses_is_recorded(capsys):
    assert maps("photos/one.png", "photos/grey.png", "--size", 20, network="square") == 1
    assert "this network takes squares" in capsys.readouterr().err
    Image.fromarray(PIXELS[:, :20]).save("photos/cropped.png")
    assert maps("photos", "--size", 20, network="square") == 1
    errors = {file: entry.get("error") for file, entry in manifest().items()}
    assert errors["../photos/one.png"] == "this network takes squares"
    assert errors["../photos/cropped.png"] is None


@pytest.mark.usefixtures("folder")
def test_a_network_of_one_size_takes_photographs_of_that_size(capsys):
    Image.fromarray(PIXELS[:9]).save("photos/a_strip.png")
    assert maps("photos", "--size", "original", network="still") == 1
    assert "3 written, 0 done before, 2 failed" in capsys.readouterr().out
    assert "takes 20x30" in manifest()["../photos/a_strip.png"]["error"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("shape", [(1, 60), (60, 1), (2, 3), (1, 3)])
@pytest.mark.parametrize("size", ["original", 8])
def test_tiny_photographs_have_maps(shape, size):
    Image.new("RGB", shape[::-1], "red").save("photos/a_tiny.png")
    arguments = ("photos/a_tiny.png", "photos/one.png", "--size", size)
    assert maps(*arguments, network="strided") == 0
    # The first photograph does not decide which scales are read.
    for entry in manifest().values():
        assert [scale["stride"] for scale in entry["scales"]] == [1, 2]
        assert Image.open(Path("maps") / entry["pictures"]["map"]).size == tuple(
            entry["shown_size"]
        )


@pytest.mark.usefixtures("folder")
def test_of_a_photograph_of_one_pixel_there_is_no_map():
    Image.new("RGB", (1, 1), "red").save("photos/a_pixel.png")
    arguments = ("photos/a_pixel.png", "photos/one.png", "--size", "original")
    assert maps(*arguments, network="strided") == 1
    entries = manifest()
    assert "of images of 1x1 pixels" in entries["../photos/a_pixel.png"]["error"]
    assert entries["../photos/one.png"].get("error") is None


@pytest.mark.usefixtures("folder")
def test_warnings_are_recorded_with_their_photograph(capsys):
    assert maps("photos", "--size", 20, network="signed") == 1
    said = capsys.readouterr().err
    assert said.count("give negative activations") == 1
    assert "UserWarning" not in said
    arguments = ("photos", "--size", 20, "--method", "fastcam")
    assert maps(*arguments, network="hopeless", out="zero") == 1
    said = capsys.readouterr().err
    for name in ("one.png", "grey.png", "inner/one.png"):
        (told,) = manifest("zero")[f"../photos/{name}"]["warnings"]
        assert told.startswith("gradcam is 0 everywhere")
        assert f"fastsal: photos/{name}: {told}" in said


@pytest.mark.usefixtures("folder")
def test_a_huge_photograph_is_warned_of_and_one_beyond_is_recorded(monkeypatch, capsys):
    # Pillow warns above its limit and refuses twice the limit; a photograph here has 600 pixels.
    Image.fromarray(np.tile(PIXELS, (2, 1, 1))).save("photos/twice.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 550)
    assert maps("photos/one.png", "photos/twice.png", "--size", 20) == 1
    assert "exceeds limit of 550 pixels" in manifest()["../photos/one.png"]["warnings"][0]
    assert "exceeds limit of 1100 pixels" in manifest()["../photos/twice.png"]["error"]
    assert "UserWarning" not in capsys.readouterr().err


class Terminal(io.StringIO):
    """A stream that says it is a screen."""

    def isatty(self):
        """Say so."""
        return True


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("quiet", "terminal"), [(False, True), (True, True), (False, False)])
def test_the_progress_bar_is_for_a_terminal(monkeypatch, quiet, terminal):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    arguments = ["maps", "photos", "--model", "networks.py:classifier", "--size", "20"]
    assert main([*arguments, "--out", "maps", *(["--quiet"] if quiet else [])]) == 1
    assert ("4/4" in stream.getvalue()) == (terminal and not quiet)
    assert "broken.png: image file is truncated" in stream.getvalue()


def test_published_preprocessing():
    found = preprocessing_of("resnet18", nn.Identity())
    assert (found.mean, found.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert found.classes[281] == "tabby"
    # A detector scales its input itself.
    found = preprocessing_of("fasterrcnn_resnet50_fpn", nn.Identity())
    assert (found.mean, found.std) == ((0, 0, 0), (1, 1, 1))
    found = preprocessing_of("networks.py:classifier", nn.Identity())
    assert (found.mean, found.std, found.classes) == (IMAGENET_MEAN, IMAGENET_STD, ())


def test_published_preprocessing_of_timm():
    timm = pytest.importorskip("timm")
    network = timm.create_model("tf_efficientnet_lite0")
    found = preprocessing_of("timm:tf_efficientnet_lite0", network)
    assert (found.mean, found.std) == ((0.5,) * 3, (0.5,) * 3)
    assert found.classes[281] == "tabby, tabby cat"
    # From a file's function too: the network itself tells.
    assert preprocessing_of("mine.py:build", network) == found
    other = timm.create_model("tf_efficientnet_lite0", num_classes=7)
    assert preprocessing_of("timm:tf_efficientnet_lite0", other).classes == ()


@pytest.mark.usefixtures("folder")
def test_the_class_has_its_name():
    arguments = ["photos/one.png", "--model", "squeezenet1_1", "--random-weights", "--size", "64"]
    fastcam = ["--method", "fastcam", "--target", "tabby", "--out", "maps", "--quiet"]
    assert main(["maps", *arguments, *fastcam]) == 0
    entry = manifest()["../photos/one.png"]
    known = preprocessing_of("squeezenet1_1", nn.Identity()).classes
    assert entry["class_name"] == known[entry["predicted_class"]]
    assert entry["settings"]["target"] == 281


def test_classes_by_name():
    names = preprocessing_of("resnet18", nn.Identity()).classes
    assert class_index("Egyptian cat", names) == 285
    with pytest.raises(ValueError, match=r"classes \[134, 517\] are all called 'crane'"):
        class_index("crane", ("x",) * 134 + ("crane",) + ("x",) * 382 + ("crane",))
    with pytest.raises(ValueError, match="'taby'; did you mean 'tabby'"):
        class_index("taby", names)
    with pytest.raises(ValueError, match="no class is called 'zzzz'; give the number"):
        class_index("zzzz", names)


FORMS = """
import torch
from torch import nn

def build(channels, dtype=torch.float32):
    torch.manual_seed(channels)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
    ).to(dtype)

def one(): return build(1)
def two(): return build(2)
def four(): return build(4)
def five(): return build(5)
def thirteen(): return build(13)
def volumes(): return nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU())
def signals(): return nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU())
def half(): return build(3, torch.float16)
def double(): return build(3, torch.float64)
"""
RGBA = np.random.default_rng(0).integers(0, 256, (16, 24, 4), dtype=np.uint8)


def forms(tmp_path, monkeypatch):
    (tmp_path / "planted_forms.py").write_text(FORMS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Image.fromarray(RGBA).save("clear.png")
    Image.fromarray(RGBA[..., :3]).save("opaque.png")
    return importlib.import_module("planted_forms")


def as_grey(rgb):
    return rgb @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("kind", ["one", "two", "four", "half", "double"])
@pytest.mark.parametrize("file", ["clear", "opaque"])
def test_networks_of_other_channels_and_types(tmp_path, monkeypatch, kind, file):
    """The inputs written out from the file's bytes, with ImageNet's mean and deviation."""
    module = forms(tmp_path, monkeypatch)
    command = ["--model", f"planted_forms:{kind}", "--out", "maps", "--size", "original", "--quiet"]
    assert main(["maps", f"{file}.png", *command]) == 0
    rgba = RGBA / 255
    if file == "opaque":
        rgba[..., 3] = 1
    opacity = rgba[..., 3:]
    on_white = rgba[..., :3] * opacity + 1 - opacity
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    grey_mean, grey_std = mean.mean(), std.mean()
    colours = (rgba[..., :3] - mean) / std
    channels = {
        "one": (as_grey(on_white)[..., None] - grey_mean) / grey_std,
        "two": np.concatenate(
            [(as_grey(rgba[..., :3])[..., None] - grey_mean) / grey_std, opacity], -1
        ),
        "four": np.concatenate([colours, opacity], -1),
    }
    given = channels.get(kind, (on_white - mean) / std)
    network = getattr(module, kind)()
    image = torch.from_numpy(given).permute(2, 0, 1)[None].to(network[0].weight.dtype)
    expected = SMOEScale(network).attribute(image, expand_channels=False)[0, 0].float()
    picture = np.array(Image.open(f"maps/{file}_map.png")).astype(float)
    shown = heatmap(expected[None])[0].permute(1, 2, 0).numpy() * 255
    # A composite in eight bits is half a level off.
    assert np.abs(picture - shown).mean() < 1.5


@pytest.mark.parametrize("window", [None, (100, 4095), (30000, 31000)])
def test_a_window_of_a_sixteen_bit_picture_keeps_its_steps(tmp_path, monkeypatch, capsys, window):
    module = forms(tmp_path, monkeypatch)
    low, high = window or (0, 65535)
    values = np.linspace(low, high, 16 * 24).reshape(16, 24)
    values = np.clip(
        values + np.random.default_rng(0).normal(0, (high - low) / 9, values.shape), 0, 65535
    )
    stored = values.round().astype(np.uint16)
    Image.fromarray(stored).save("scan.png")
    command = ["--model", "planted_forms:one", "--out", "maps", "--size", "original", "--quiet"]
    given = [] if window is None else ["--window", f"{low},{high}"]
    assert main(["maps", "scan.png", *command, *given]) == 0
    mean, std = np.mean([0.485, 0.456, 0.406]), np.mean([0.229, 0.224, 0.225])
    grey = np.clip((stored.astype(float) - low) / (high - low), 0, 1)
    image = torch.from_numpy((grey - mean) / std).float()[None, None]
    expected = SMOEScale(module.one()).attribute(image, expand_channels=False)[0, 0]
    picture = np.array(Image.open("maps/scan_map.png")).astype(float)
    shown = heatmap(expected[None])[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(picture - shown).mean() < 1.5
    entry = json.loads(Path("maps/manifest.jsonl").read_text().splitlines()[-1])
    assert entry["settings"].get("window") == (None if window is None else [low, high])


def test_a_window_is_two_grey_values(tmp_path, monkeypatch, capsys):
    forms(tmp_path, monkeypatch)
    command = ["maps", "opaque.png", "--model", "planted_forms:one", "--out", "maps", "--quiet"]
    for text in ("9,1", "1", "a,b", "1,2,3"):
        with pytest.raises(SystemExit):
            main([*command, "--window", text])
        assert "expected LOW,HIGH, two grey values" in capsys.readouterr().err
    assert main([*command, "--window", "0,99"]) == 1
    recorded = json.loads(Path("maps/manifest.jsonl").read_text().splitlines()[-1])
    assert "a window 0,99 is for grey pictures" in recorded["error"]


@pytest.mark.parametrize("kind", ["volumes", "signals"])
def test_networks_of_other_grids_are_refused_in_a_sentence(tmp_path, monkeypatch, capsys, kind):
    forms(tmp_path, monkeypatch)
    for command in (
        ["layers", f"planted_forms:{kind}"],
        ["maps", "clear.png", "--model", f"planted_forms:{kind}", "--out", "maps", "--quiet"],
        ["export", f"planted_forms:{kind}", "--out", "a.onnx"],
    ):
        assert main(command) == 1
        assert f"the network takes {kind} (N, C" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["one", "two", "four", "five", "thirteen", "half", "double"])
def test_layers_of_networks_of_other_channels_and_types(tmp_path, monkeypatch, capsys, kind):
    forms(tmp_path, monkeypatch)
    assert main(["layers", f"planted_forms:{kind}", "--size", "16"]) == 0
    assert capsys.readouterr().out.count("yes") == 2


def test_more_channels_than_an_image_file_has_are_named(tmp_path, monkeypatch, capsys):
    forms(tmp_path, monkeypatch)
    command = ["--model", "planted_forms:five", "--out", "maps", "--size", "16", "--quiet"]
    assert main(["maps", "clear.png", *command]) == 1
    assert "the network takes 5 channels, and an image file has 1 to 4" in capsys.readouterr().err
    assert main(["maps", "clear.png", *command[:1], "planted_forms:one", *command[2:]]) == 0


def test_channels_that_the_first_convolution_does_not_tell(tmp_path, monkeypatch):
    forms(tmp_path, monkeypatch)
    (tmp_path / "planted_stack.py").write_text(
        "from torch import nn\nimport planted_forms\n"
        "class Stacked(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.body = planted_forms.build(3)\n"
        "    def forward(self, x):\n"
        "        return self.body(x.expand(-1, 3, -1, -1))\n"
        "def net(): return Stacked()\n"
    )
    command = ["--model", "planted_stack:net", "--out", "maps", "--size", "16", "--quiet"]
    assert main(["maps", "opaque.png", *command, "--channels", "1"]) == 0
    assert main(["maps", "opaque.png", *command[:3], "other", *command[4:], "--channels", "2"]) == 1
