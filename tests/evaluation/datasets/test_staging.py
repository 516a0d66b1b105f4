"""Staging of images in blocks: after a kill, a changed file or a full disk."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.datasets import staging
from evaluation.datasets.channel_sums import ChannelSums
from evaluation.datasets.dataset import DatasetError, open_staged
from evaluation.datasets.image_files import FilePixels
from evaluation.datasets.listing import Names
from evaluation.datasets.load import Request, load_dataset, stage, unchanged
from evaluation.datasets.shapes import make_shapes
from evaluation.storage.array_files import ResumableArray, unfinished_path
from evaluation.storage.checked_arrays import open_checked

ROOT = Path(__file__).parents[3]
PER_CLASS = {"train": 30, "test": 4}
# Of 300 and 100 shapes of seed 2, by the code that read all images at once.
RECORDED = "7f7077d23c826165"


@pytest.fixture
def pets(tmp_path) -> Path:
    """Noise of three classes; one training image of the middle class is broken."""
    rng = np.random.default_rng(0)
    for split, count in PER_CLASS.items():
        for name in ("cat", "dog", "owl"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    (tmp_path / "pets" / "train" / "dog" / "07.png").write_bytes(b"broken")
    return tmp_path / "pets"


@pytest.fixture
def small_steps(monkeypatch):
    """Blocks and checkpoints of a few 8x8 images, so that few images have many of them."""
    monkeypatch.setattr("evaluation.datasets.image_files.BLOCK_BYTES", 4 * 192)
    monkeypatch.setattr(staging, "CHECKPOINT_BYTES", 8 * 192)


class Killed(BaseException):
    """An error that no code catches, as a kill."""


def _killed_at(count: int):
    def progress(done: int, total: int) -> None:
        if done >= count:
            raise Killed

    return progress


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:.*skipped")
@pytest.mark.parametrize("kills", [(1,), (9,), (37, 41, 60), (89,), (90,), (94, 101), (102,)])
def test_staging_goes_on_after_a_kill(pets, tmp_path, small_steps, kills):
    data = f"folder:{pets}"
    hashes = stage(data, Request(), tmp_path / "once")
    for count in kills:
        with pytest.raises(Killed):
            stage(data, Request(), tmp_path / "often", _killed_at(count))
        assert not (tmp_path / "often" / "meta.json").exists()
    told: list[tuple[int, int]] = []
    assert stage(data, Request(), tmp_path / "often", lambda *said: told.append(said)) == hashes
    assert _content(tmp_path / "often") == _content(tmp_path / "once")
    # At most two checkpoints of eight images before the kill are read again.
    assert told[0][0] >= kills[-1] - 16
    assert told[-1] == (102, 102)


def test_what_was_noted_is_not_read_again(pets, tmp_path, small_steps, monkeypatch):
    (pets / "train" / "dog" / "07.png").unlink()
    read = []
    whole = FilePixels._read

    def counted(self, index):
        read.append(self.names[index])
        return whole(self, index)

    monkeypatch.setattr(FilePixels, "_read", counted)
    monkeypatch.setattr("evaluation.datasets.image_files._threads", lambda: 1)
    with pytest.raises(Killed):
        stage(f"folder:{pets}", Request(), tmp_path / "staged", _killed_at(80))
    read.clear()
    stage(f"folder:{pets}", Request(), tmp_path / "staged")
    assert read[0] == "train/owl/21.png"  # after 30 cats, 29 dogs and 21 owls
    assert len(read) == 9 + 12
    read.clear()
    stage(f"folder:{pets}", Request(), tmp_path / "staged")
    assert read == []


@pytest.mark.heavy
def test_a_process_that_dies_leaves_what_the_next_goes_on_with(tmp_path):
    # os._exit ends a process as a kill does: nothing is closed, nothing is tidied up.
    program = (
        "import os, sys, pathlib\n"
        "from evaluation.datasets import staging\n"
        "from evaluation.datasets.load import Request, stage\n"
        "staging.CHECKPOINT_BYTES = 1\n"
        "stage('shapes', Request(train_images=3000, test_images=64), pathlib.Path(sys.argv[1]),\n"
        "      lambda done, total: os._exit(9) if done >= 1000 else None)\n"
    )
    folder = tmp_path / "staged"
    done = subprocess.run([sys.executable, "-c", program, str(folder)], cwd=ROOT, check=False)
    assert done.returncode == 9
    told: list[int] = []
    request = Request(train_images=3000, test_images=64)
    stage("shapes", request, folder, lambda done, _: told.append(done))
    assert told[0] >= 1000
    train, test = make_shapes(train=3000, test=64)
    staged = open_staged(folder)
    np.testing.assert_array_equal(staged.train.images, train.images)
    np.testing.assert_array_equal(staged.train.object_masks, train.object_masks)
    np.testing.assert_array_equal(staged.test.images, test.images)


@pytest.mark.filterwarnings("ignore:.*skipped")
@pytest.mark.parametrize(
    ("lose", "at"),
    [("train_images.npy.growing", 60), ("train.journal.json", 60), ("test.journal.json", 100)],
)
def test_what_is_lost_meanwhile_is_staged_anew(pets, tmp_path, small_steps, lose, at):
    data = f"folder:{pets}"
    stage(data, Request(), tmp_path / "once")
    with pytest.raises(Killed):
        stage(data, Request(), tmp_path / "often", _killed_at(at))
    (tmp_path / "often" / lose).unlink()
    stage(data, Request(), tmp_path / "often")
    assert _content(tmp_path / "often") == _content(tmp_path / "once")


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_a_kill_between_two_renames_loses_nothing(tmp_path, monkeypatch):
    request = Request(train_images=128, test_images=64)
    stage("shapes", request, tmp_path / "once")
    whole = ResumableArray.finish

    def finish(self):
        if self._path.name == "train_object_masks.npy":
            raise Killed
        whole(self)

    monkeypatch.setattr(ResumableArray, "finish", finish)
    with pytest.raises(Killed):
        stage("shapes", request, tmp_path / "often")
    assert (tmp_path / "often" / "train_images.npy").exists()
    assert unfinished_path(tmp_path / "often" / "train_object_masks.npy").exists()
    monkeypatch.undo()
    told: list[int] = []
    stage("shapes", request, tmp_path / "often", lambda done, _: told.append(done))
    assert told[0] == 128
    assert _content(tmp_path / "often") == _content(tmp_path / "once")


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_files_that_changed_meanwhile_are_staged_anew(pets, tmp_path, small_steps):
    data = f"folder:{pets}"
    with pytest.raises(Killed):
        stage(data, Request(), tmp_path / "staged", _killed_at(60))
    Image.new("RGB", (8, 8), (1, 2, 3)).save(pets / "train" / "cat" / "00.png")
    told: list[int] = []
    stage(data, Request(), tmp_path / "staged", lambda done, _: told.append(done))
    assert told[0] == 0
    assert (open_staged(tmp_path / "staged").train.images[0] == (1, 2, 3)).all()


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_staged_and_in_memory_are_the_same(pets, tmp_path, small_steps):
    hashes = stage(f"folder:{pets}", Request(), tmp_path / "staged")
    there, here = open_staged(tmp_path / "staged"), load_dataset(f"folder:{pets}", Request())
    assert hashes["data"] == there.content_hash() == here.content_hash()
    assert (there.mean, there.std, there.skipped) == (here.mean, here.std, here.skipped)
    assert there.train.labels.tolist() == [0] * 30 + [1] * 29 + [2] * 30
    # The dog after the broken one has its own pixels.
    with Image.open(pets / "train" / "dog" / "08.png") as image:
        np.testing.assert_array_equal(there.train.images[37], np.asarray(image))


def test_images_that_cannot_be_used_leave_nothing(pets, tmp_path, small_steps):
    odd = pets / "train" / "owl" / "20.png"
    Image.new("RGB", (5, 9)).save(odd)
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(DatasetError, match="images of different sizes"),
    ):
        stage(f"folder:{pets}", Request(), tmp_path / "staged")
    assert _content(tmp_path / "staged") == {}


def test_splits_of_different_sizes_are_refused_at_the_first_test_image(tmp_path):
    for split, size in (("train", (8, 8)), ("test", (6, 6))):
        for name in ("a", "b"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            Image.new("RGB", size).save(tmp_path / "pets" / split / name / "0.png")
    with pytest.raises(DatasetError, match=r"differ in size \(6x6, 8x8\): give --image-size"):
        stage(f"folder:{tmp_path / 'pets'}", Request(), tmp_path / "staged")


def test_files_that_were_touched_are_the_same_images(pets, tmp_path):
    data = f"folder:{pets}"
    with pytest.warns(UserWarning, match="skipped"):
        stage(data, Request(), tmp_path / "staged")
    staged = open_staged(tmp_path / "staged")
    for path in pets.rglob("*.png"):
        os.utime(path, (1, 1))
    with pytest.warns(UserWarning, match="skipped"):
        assert unchanged(data, Request(), staged)
    with Image.open(pets / "test" / "owl" / "03.png") as image:
        pixels = np.asarray(image).copy()
    pixels[7, 7, 2] ^= 1
    Image.fromarray(pixels).save(pets / "test" / "owl" / "03.png")
    with pytest.warns(UserWarning, match="skipped"):
        assert not unchanged(data, Request(), staged)


def test_an_image_that_is_gone_is_a_change(pets, tmp_path):
    (pets / "train" / "dog" / "07.png").unlink()
    data = f"folder:{pets}"
    stage(data, Request(), tmp_path / "staged")
    (pets / "test" / "owl" / "03.png").unlink()
    assert not unchanged(data, Request(), open_staged(tmp_path / "staged"))


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_a_disk_that_fails_is_no_broken_file(number):
    names = Names()
    names.append("train/a/0.png")

    def fail(index: int) -> Path:
        raise OSError(number, os.strerror(number))

    class Failing(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError(number, os.strerror(number))

    pixels = FilePixels(names, lambda _: Failing(b"x" * 100), None)
    with pytest.raises(OSError, match=r"'train/a/0.png' could not be read"):
        list(pixels.blocks(np.array([0]), None))


def test_images_stay_in_order_however_long_each_takes():
    names = Names()
    for number in range(60):
        names.append(str(number))

    def slow(index: int) -> io.BytesIO:
        time.sleep(0.004 * (index % 5 == 0))
        stream = io.BytesIO()
        Image.new("RGB", (4, 4), (index, 0, 0)).save(stream, "PNG")
        stream.seek(0)
        return stream

    wanted = np.arange(59, -1, -1)
    blocks = list(FilePixels(names, slow, None).blocks(wanted, None))
    found = np.concatenate([block.images[:, 0, 0, 0] for block in blocks])
    assert found.tolist() == wanted.tolist()


def test_sums_are_exact_in_whatever_order():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 7, 5, 3), dtype=np.uint8)
    images[..., 2] = images[..., 2] // 2 + 100
    sums = ChannelSums()
    for part in np.array_split(images, 7)[::-1]:
        sums.add(part)
    pixels = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(sums.mean(), pixels.mean(0), rtol=1e-13)
    np.testing.assert_allclose(sums.std(), pixels.std(0), rtol=1e-13)


@pytest.mark.parametrize(("first", "then", "kept"), [(1000, 9, 7), (3, 1200, 3), (0, 5, 0)])
def test_an_array_that_grew_in_two_goes_is_what_numpy_saves(tmp_path, first, then, kept):
    path = tmp_path / "images.npy"
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 256, (count, 4, 2), dtype=np.uint8) for count in (first, then)]
    array = ResumableArray(path, (4, 2), "uint8", "numbers")
    array.append(parts[0][:kept])
    digests = array.digests()
    array.append(parts[0][kept:])
    array.close()
    assert not path.exists()
    array = ResumableArray(path, (4, 2), "uint8", "numbers", kept, digests)
    array.append(parts[1])
    array.finish()
    expected = np.concatenate([parts[0][:kept], parts[1]])
    np.testing.assert_array_equal(np.load(path), expected)
    np.testing.assert_array_equal(open_checked(path, "numbers"), expected)
    np.save(tmp_path / "numpy.npy", expected)
    assert path.read_bytes() == (tmp_path / "numpy.npy").read_bytes()
    assert not unfinished_path(path).exists()


def test_an_array_that_is_shorter_than_it_should_be_is_refused(tmp_path):
    array = ResumableArray(tmp_path / "images.npy", (4,), "uint8", "numbers")
    array.append(np.zeros((3, 4), np.uint8))
    array.close()
    with pytest.raises(OSError, match="fewer than 4 entries"):
        ResumableArray(tmp_path / "images.npy", (4,), "uint8", "numbers", 4, array.digests())


def test_an_array_whose_last_entries_changed_is_not_continued(tmp_path):
    path = tmp_path / "images.npy"
    array = ResumableArray(path, (4,), "uint8", "numbers")
    array.append(np.zeros((3, 4), np.uint8))
    array.close()
    growing = unfinished_path(path)
    growing.write_bytes(growing.read_bytes()[:-1] + b"x")
    with pytest.raises(OSError, match="the last entries are not those that were written"):
        ResumableArray(path, (4,), "uint8", "numbers", 3, array.digests())


def test_another_request_is_staged_anew_in_the_same_folder(tmp_path):
    stage("shapes", Request(train_images=64, test_images=8), tmp_path)
    stage("shapes", Request(train_images=64, test_images=8, seed=1), tmp_path)
    expected, _ = make_shapes(train=64, test=8, seed=1)
    np.testing.assert_array_equal(open_staged(tmp_path).train.images, expected.images)


def test_the_hash_is_the_one_that_earlier_versions_recorded(tmp_path):
    # Of runs that exist: their cells' ids and their checks are made of it.
    hashes = stage("shapes", Request(train_images=300, test_images=100, seed=2), tmp_path)
    assert hashes == {"data": RECORDED}
    assert json.loads((tmp_path / "meta.json").read_text())["content"] == RECORDED
