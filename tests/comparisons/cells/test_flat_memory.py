"""Maps, staging and training of many images take the memory that few take."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from comparisons.methods.map_set import MapSet
from evaluation.datasets.dataset import Dataset, Split
from evaluation.masking import level_files as maps_module
from evaluation.masking.level_files import Levels, unpack_levels
from evaluation.masking.levels import Masking
from evaluation.masking.views import InputView
from evaluation.storage.array_files import ArrayFile

pytestmark = pytest.mark.training

ROOT = Path(__file__).parents[3]


def _on_disk(folder: Path, images: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (images, size, size, 3)
    with ArrayFile(folder / "images.npy", shape, "|u1", "images") as file:
        for start in range(0, images, 100):
            count = min(100, images - start)
            file.append(rng.integers(0, 256, (count, *shape[1:]), np.uint8))
    return np.load(folder / "images.npy", mmap_mode="r")


@contextmanager
def _traced() -> Iterator[Callable[[], int]]:
    """What NumPy and Python hold at most, asked for as often as one likes."""

    def peak() -> int:
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        return found

    tracemalloc.start()
    try:
        yield peak
    finally:
        tracemalloc.stop()


def _peaks(folder: Path, images: int, unit: str) -> list[int]:
    """The peaks of memory while maps are made, hashed and staged."""
    train, test = _on_disk(folder, images, 24), _on_disk(folder / "test", 64, 24)
    labels = np.arange(images) % 8
    dataset = Dataset("d", tuple("12345678"), Split(train, labels), Split(test, labels[:64]))
    targets = {"train": labels, "test": labels[:64]}
    maps = MapSet(lambda b: b.inputs.sum(1), dataset, targets, folder, (0.5,), 0, unit=unit)
    with _traced() as peak:
        maps.write(range(1000))
        peaks = [peak()]
        maps.finish()
        peaks.append(peak())
        unpack_levels(Levels(folder / "train.zarr"), folder / "train.npy")
        return [*peaks, peak()]


@pytest.mark.parametrize("unit", ["pixel", "element"])
def test_maps_and_staging_hold_no_more_of_many_images_than_of_few(tmp_path, unit, monkeypatch):
    monkeypatch.setattr(maps_module, "SHARD_IMAGES", 128)
    read = Levels.read
    # A copy, since what TensorStore allocates is not traced.
    monkeypatch.setattr(Levels, "read", lambda *arguments: np.array(read(*arguments)))
    _peaks(tmp_path / "imports", 64, unit)  # what is made once and kept
    few, many = (_peaks(tmp_path / str(images), images, unit) for images in (256, 1024))
    levels = 24 * 24 * (3 if unit == "element" else 1)
    for after, before in zip(many, few, strict=True):
        assert after - before < 0.1 * (1024 - 256) * levels
    assert many[0] < 1.1 * few[0]


def test_a_fill_holds_no_more_of_many_images_than_of_few(tmp_path):
    masking = Masking("roar", 0.5, (0.5,), "noisy-linear")
    peaks = []
    for images in (64, 256, 1024):
        pixels = _on_disk(tmp_path / str(images), images, 8)
        levels = np.arange(images * 64, dtype=np.uint8).reshape(images, 8, 8) % 2
        with _traced() as peak:
            InputView(pixels, (0.5,) * 3, (0.2,) * 3, levels, masking).filled(0, tmp_path)
            peaks.append(peak())
    assert peaks[2] < 1.1 * peaks[1]


# RssAnon, the private memory of a process. Pages of memory maps are not in it: they are the disk's
# cache, which the system takes back when it needs to.
_PEAK = """
import json, sys, threading, time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from comparisons.methods.map_set import MapSet
from comparisons.methods import METHODS
from evaluation.datasets.dataset import Dataset, Split
from evaluation.masking.level_files import Levels, unpack_levels
from evaluation.masking.levels import Masking
from evaluation.training.retraining import Recipe, correctness, train
from evaluation.masking.views import InputView
from tests.comparisons.cells.test_flat_memory import _on_disk

def private():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

class Sampler(threading.Thread):
    peak, on = 0, True
    def run(self):
        while self.on:
            self.peak = max(self.peak, private())
            time.sleep(0.002)

torch.set_num_threads(1)
folder, images = Path(sys.argv[1]), int(sys.argv[2])
data, test = _on_disk(folder, images, 32), _on_disk(folder / "test", 512, 32)
labels = np.arange(images) % 8
dataset = Dataset("d", tuple("12345678"), Split(data, labels), Split(test, labels[:512]))
network = nn.Sequential(
    nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8)
)
before, sampler = private(), Sampler(daemon=True)
sampler.start()
targets = {"train": labels, "test": labels[:512]}
maps = MapSet(METHODS["gradient"].prepare(network), dataset, targets, folder, (0.1, 0.5, 0.9), 0)
maps.finish()
peaks = {"maps": sampler.peak}
staged = {s: unpack_levels(Levels(folder / f"{s}.zarr"), folder / f"{s}.npy") for s in targets}
peaks["staged"] = sampler.peak
views = [
    InputView(d, dataset.mean, dataset.std, staged[s], Masking("roar", 0.5, (0.1, 0.5, 0.9), fill))
    for s, d, fill in (("train", data, "mean"), ("test", test, "noisy-linear"))
]
train(network, views[0], labels, Recipe(epochs=1, batch_size=64), 0)
peaks["trained"] = sampler.peak
correctness(network, views[1].filled(images, folder), labels[:512])
sampler.on = False
print(json.dumps({"images": images, "before": before, **peaks, "peak": sampler.peak}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for its memory")
def test_peak_private_memory_is_that_of_a_thousand_images(tmp_path, capsys):
    peaks = {}
    for images in (1_000, 10_000, 50_000):
        command = [sys.executable, "-W", "ignore", "-c", _PEAK, tmp_path / str(images), str(images)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks[images] = json.loads(done.stdout)
        with capsys.disabled():
            print(done.stdout.strip())
    assert peaks[10_000]["peak"] < 1.1 * peaks[1_000]["peak"]
    assert peaks[50_000]["peak"] < 1.1 * peaks[1_000]["peak"]
    # Most of it is code that was imported. What the work added may not hold the levels either;
    # a training holds its labels, order and crops, some 40 bytes an image.
    few, many = (peaks[images]["peak"] - peaks[images]["before"] for images in (1_000, 50_000))
    assert many - few < 0.4 * 49_000 * 32 * 32
