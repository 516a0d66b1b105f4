"""Maps of a video against SciPy's filter over its frames' maps; reading and writing of files."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fastsal import SMOEScale, heatmap
from fastsal.attribution.video import maps
from fastsal.cli.main import main


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def frames(count=7, height=16, width=24):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("at_once", [1, 3, 10])
def test_without_smoothing_the_maps_are_the_frames_own(at_once):
    given, net = frames(), network()
    expected = SMOEScale(net).maps(given)
    found = list(maps(given, SMOEScale(net), at_once=at_once))
    # The rounding of a convolution depends on the batch size.
    torch.testing.assert_close(torch.cat([one.combined for one in found]), expected.combined)
    second = torch.cat([one.per_scale[1] for one in found])
    torch.testing.assert_close(second, expected.per_scale[1])
    torch.testing.assert_close(torch.cat([one.logits for one in found]), expected.logits)


@pytest.mark.parametrize("smoothing", [0.5, 0.9])
def test_smoothing_is_scipys_filter(smoothing):
    signal = pytest.importorskip("scipy.signal")
    given, net = frames(), network()
    own = SMOEScale(net).maps(given)
    found = list(maps(given, SMOEScale(net), smoothing=smoothing, at_once=2))
    for values, smoothed in (
        (own.combined, [one.combined for one in found]),
        (own.per_scale[0], [one.per_scale[0] for one in found]),
    ):
        start = smoothing * values[:1].numpy().astype(np.float64)
        expected, _ = signal.lfilter([1 - smoothing], [1, -smoothing], values, axis=0, zi=start)
        np.testing.assert_allclose(torch.cat(smoothed).numpy(), expected, rtol=1e-5, atol=1e-6)
    # The average of the scales is the average that was smoothed.
    assert found[-1].combined.shape == (1, 16, 24)


def test_frames_are_taken_as_they_come():
    taken = []

    def stream():
        for index, frame in enumerate(frames()):
            taken.append(index)
            yield frame

    found = maps(stream(), SMOEScale(network()), at_once=2)
    assert taken == []
    next(found), next(found)
    assert taken == [0, 1]
    next(found)
    assert taken == [0, 1, 2, 3]


def test_wrong_frames_and_numbers_are_told():
    attributor = SMOEScale(network())
    for smoothing in (1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="smoothing is 0 for none"):
            next(maps(frames(), attributor, smoothing=smoothing))
    with pytest.raises(ValueError, match="at_once"):
        next(maps(frames(), attributor, at_once=0))
    odd = [torch.rand(3, 16, 16), torch.rand(3, 16, 18)]
    with pytest.raises(ValueError, match=r"frame 1 has shape \(3, 16, 18\).*one size"):
        list(maps(odd, attributor))


NETWORK = """
import torch
from torch import nn

def classifier():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    return tmp_path


def command(*arguments):
    return main(["maps", *arguments, "--model", "net.py:classifier", "--out", "out", "--quiet"])


def entries():
    return [json.loads(line) for line in Path("out/manifest.jsonl").read_text().splitlines()]


def pictures(count):
    """A bright square that moves over a dark background."""
    shown = np.full((count, 64, 96, 3), 40, np.uint8)
    for index in range(count):
        shown[index, 16:40, 8 + 6 * index : 32 + 6 * index] = (230, 180, 60)
    return shown


def clip(path, count=6):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 96, 64, "yuv420p", 4_000_000
        for picture in pictures(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def decoded(path):
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return np.stack(shown), stream.average_rate


def test_a_video_file_gives_videos(folder):
    clip("moving.mp4")
    assert command("moving.mp4", "--size", "original", "--lovi", "--smoothing", "0.6") == 0
    (entry,) = entries()
    assert entry["frames"] == 6
    assert entry["rate"] == 10
    assert entry["image_size"] == entry["shown_size"] == [96, 64]
    assert entry["pictures"] == {kind: f"moving_{kind}.mp4" for kind in ("map", "overlay", "lovi")}
    from fastsal.networks.by_name import build_network
    from fastsal.networks.preprocessing import IMAGENET_MEAN, IMAGENET_STD

    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    given = torch.from_numpy(decoded("moving.mp4")[0]).movedim(-1, 1) / 255
    net = build_network("net.py:classifier", None, pretrained=False)
    expected = [
        heatmap(one.combined)[0].mul(255).movedim(0, -1).numpy()
        for one in maps((given - mean) / std, SMOEScale(net.eval()), smoothing=0.6)
    ]
    found, rate = decoded("out/moving_map.mp4")
    assert rate == 10
    assert found.shape == (6, 64, 96, 3)
    # But for what the codec loses: a few of 255 levels on average, where frames differ by more.
    assert np.abs(found - np.stack(expected)).mean() < 6
    assert np.abs(found[0].astype(float) - found[-1]).mean() > 12
    before = [path.stat().st_mtime_ns for path in sorted((folder / "out").glob("*.mp4"))]
    assert command("moving.mp4", "--size", "original", "--lovi", "--smoothing", "0.6") == 0
    assert before == [path.stat().st_mtime_ns for path in sorted((folder / "out").glob("*.mp4"))]


def test_a_broken_video_is_recorded_and_leaves_nothing(folder):
    clip("fine.mp4", 2)
    content = (folder / "fine.mp4").read_bytes()
    (folder / "torn.mp4").write_bytes(content[: len(content) // 2])
    (folder / "other.mp4").write_bytes(b"anything else")
    assert command("torn.mp4", "other.mp4", "fine.mp4") == 1
    torn, other, fine = entries()
    assert "torn.mp4" in torn["error"]
    assert "other.mp4 cannot be read as a video" in other["error"]
    assert fine["frames"] == 2
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "fine_map.mp4",
        "fine_overlay.mp4",
        "manifest.jsonl",
    ]


def test_a_folder_of_frames_is_smoothed_in_the_order_of_their_names(folder):
    pillow = pytest.importorskip("PIL.Image")
    for name in ("one", "two"):
        (folder / "frames" / name).mkdir(parents=True)
        for index, picture in enumerate(pictures(3)[:: 1 if name == "one" else -1]):
            pillow.fromarray(picture).save(folder / f"frames/{name}/{index:03d}.png")
    assert command("frames", "--size", "original") == 0
    own = sorted((folder / "out").rglob("*_map.png"))
    alone = [np.asarray(pillow.open(path)) for path in own]
    assert command("frames", "--size", "original", "--smoothing", "0.5", "--overwrite") == 0
    smoothed = [np.asarray(pillow.open(path)) for path in own]
    changed = [not np.array_equal(a, b) for a, b in zip(alone, smoothed, strict=True)]
    # The first of each folder is its own map; no folder goes on where another ended.
    assert changed == [False, True, True, False, True, True]
    # Every frame depends on those before it.
    (folder / "out/one/001_map.png").write_bytes(b"")
    assert command("frames", "--size", "original", "--smoothing", "0.5") == 0
    again = [np.asarray(pillow.open(path)) for path in own]
    assert all(np.array_equal(a, b) for a, b in zip(again, smoothed, strict=True))


def test_without_pyav_a_video_says_what_to_install(folder, monkeypatch, capsys):
    (folder / "clip.mp4").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "av", None)
    assert command("clip.mp4") == 1
    assert "pip install 'fastsal[video]'" in capsys.readouterr().err
