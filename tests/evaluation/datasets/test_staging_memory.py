"""Memory stays flat as the number of images grows.

What is compared is the peak of *private* memory (`RssAnon` of Linux): what a process allocated.
Pages of files that it maps, among them the staged arrays while they are hashed, are the system's
cache: they are given back as soon as anybody needs the room, and `ru_maxrss` counts them.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux says what is private"
)

PROGRAM = """
import sys, threading, pathlib
from evaluation.datasets.load import Request, stage

def private():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, private())

before = peak = private()
done = threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
stage(sys.argv[1], Request(train_images=int(sys.argv[2])), pathlib.Path(sys.argv[3]))
done.set()
watcher.join()
print(before, peak)
"""


def _peak(data: str, count: int, folder: Path) -> tuple[int, int]:
    """Private bytes of a process before it stages training images, and at its peak."""
    command = [sys.executable, "-c", PROGRAM, data, str(count), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    before, peak = map(int, done.stdout.split())
    assert np.load(folder / "train_labels.npy").shape == (count,)
    return before, peak


def _shards(root: Path, count: int, size: int) -> str:
    """Training samples in shards of a thousand, and ten test samples."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(50):
        stream = io.BytesIO()
        noise = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(stream, "PNG")
        pictures.append(stream.getvalue())
    root.mkdir()
    for split, number in (("train", count), ("test", 10)):
        for first in range(0, number, 1000):
            with tarfile.open(root / f"{split}-{first:06d}.tar", "w") as tar:
                for index in range(first, min(number, first + 1000)):
                    for kind, content in (
                        ("png", pictures[index % 50]),
                        ("cls", str(index % 10).encode()),
                    ):
                        member = tarfile.TarInfo(f"{index:06d}.{kind}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
    return f"webdataset:{root}"


def _peaks(tmp_path: Path, counts: tuple[int, ...], size: int) -> dict[int, int]:
    peaks = {}
    for count in counts:
        data = _shards(tmp_path / f"shards-{count}", count, size)
        before, peaks[count] = _peak(data, count, tmp_path / f"staged-{count}")
        print(
            f"{count} images: {before / 2**20:.1f} MiB before, {peaks[count] / 2**20:.1f} at most"
        )
    return peaks


@pytest.mark.slow
def test_four_times_the_images_take_no_more_memory(tmp_path):
    # Large enough that to keep the 3,000 images more would take a quarter of the memory.
    peaks = _peaks(tmp_path, (1000, 4000), size=96)
    kept = 3000 * 96 * 96 * 3
    assert 1.1 * peaks[1000] < peaks[1000] + kept / 2
    assert peaks[4000] <= 1.1 * peaks[1000]


@pytest.mark.slow
def test_fifty_times_the_images_take_no_more_memory(tmp_path):
    peaks = _peaks(tmp_path, (1000, 10_000, 50_000), size=32)
    assert max(peaks.values()) <= 1.1 * peaks[1000]


@pytest.mark.slow
def test_drawn_images_take_no_more_memory(tmp_path):
    peaks = [_peak("shapes", count, tmp_path / str(count))[1] for count in (1000, 10_000)]
    assert peaks[1] <= 1.1 * peaks[0]
