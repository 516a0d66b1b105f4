"""Levels on disk: any Zarr reader opens them, and an interrupted write leaves whole shards."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorstore

from evaluation.masking import level_files as maps_module
from evaluation.masking.level_files import (
    CHUNK_IMAGES,
    SHARD_IMAGES,
    Levels,
    bytes_an_image,
    levels_hash,
    unpack_levels,
)
from evaluation.masking.levels import MODES, Masking, saliency_levels
from evaluation.storage.hashes import ContentHash, content_hash
from evaluation.storage.sealed import Unfit

CUTS = (0.1, 0.3, 0.5, 0.7, 0.9)
SHAPE = (2500, 8, 8)  # two whole shards and a part of one


@pytest.fixture(scope="module")
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 6, SHAPE, dtype=np.uint8)


@pytest.fixture
def written(tmp_path, array) -> Levels:
    levels = Levels.create(tmp_path / "train.zarr", SHAPE, CUTS)
    for shard in levels.shards():
        levels.write(shard, array[shard.start : shard.stop])
    return levels


def test_shards_cover_every_image_once(written):
    assert [len(shard) for shard in written.shards()] == [1024, 1024, 452]
    assert [i for shard in written.shards() for i in shard] == list(range(2500))


def test_content_comes_back(written, array):
    again = Levels(written.path)
    np.testing.assert_array_equal(again.read(0, 2500), array)
    np.testing.assert_array_equal(again.read(1020, 1030), array[1020:1030])


def test_metadata_is_zarr_version_3_with_the_decided_layout(written):
    metadata = json.loads((written.path / "zarr.json").read_text())
    assert metadata["zarr_format"] == 3
    assert metadata["data_type"] == "uint8"
    assert metadata["attributes"] == {"cuts": list(CUTS)}
    grid = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    assert grid == [1024, 8, 8] == [SHARD_IMAGES, 8, 8]
    (codec,) = metadata["codecs"]
    assert codec["name"] == "sharding_indexed"
    assert codec["configuration"]["chunk_shape"] == [64, 8, 8] == [CHUNK_IMAGES, 8, 8]
    assert [inner["name"] for inner in codec["configuration"]["codecs"]] == ["bytes", "zstd"]


def test_zarr_python_reads_it(written, array):
    zarr = pytest.importorskip("zarr", minversion="3")
    opened = zarr.open_array(written.path, mode="r")
    np.testing.assert_array_equal(opened[:], array)
    assert opened.attrs["cuts"] == list(CUTS)


def test_inner_chunks_decode_from_the_bytes_of_the_specification(written, array):
    # The index of a shard is its last bytes: (offset, size) little-endian a chunk, then crc32c.
    raw = (written.path / "c" / "0" / "0" / "0").read_bytes()
    chunks = SHARD_IMAGES // CHUNK_IMAGES
    index = np.frombuffer(raw[-16 * chunks - 4 : -4], dtype="<u8").reshape(chunks, 2)
    offset, size = (int(value) for value in index[3])
    kept = tensorstore.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "memory", "path": "one/"},
            "metadata": {
                "shape": [64, 8, 8],
                "data_type": "uint8",
                "chunk_grid": {
                    "name": "regular",
                    "configuration": {"chunk_shape": [64, 8, 8]},
                },
                "codecs": [{"name": "bytes"}, {"name": "zstd"}],
            },
            "create": True,
        }
    ).result()
    kept.kvstore.write("c/0/0/0", raw[offset : offset + size]).result()
    np.testing.assert_array_equal(kept.read().result(), array[192:256])


def test_all_fractions_and_modes_come_from_the_one_array(tmp_path):
    saliency = np.random.default_rng(1).random((64, 16, 16))
    levels = Levels.create(tmp_path / "t.zarr", saliency.shape, CUTS)
    levels.write(levels.shards()[0], saliency_levels(saliency, CUTS, np.arange(64)))
    mapped = unpack_levels(levels, tmp_path / "t.npy")
    flat = saliency.reshape(64, -1)
    for fraction in CUTS:
        k = round(256 * fraction)
        top = np.zeros((64, 256), dtype=bool)
        np.put_along_axis(top, np.argpartition(-flat, k - 1)[:, :k], True, axis=1)
        for mode in MODES:
            kept = Masking(mode, fraction, CUTS).kept(mapped).reshape(64, -1)
            np.testing.assert_array_equal(kept, ~top if mode == "roar" else top)


def test_a_second_create_keeps_what_is_there(written, array):
    again = Levels.create(written.path, SHAPE, CUTS)
    assert all(again.has(shard) for shard in again.shards())
    np.testing.assert_array_equal(again.read(0, 2500), array)


def test_levels_of_the_most_salient_alone_are_stored_too(tmp_path):
    # 0 is the fill value of the array, which a writer might leave out.
    levels = Levels.create(tmp_path / "z.zarr", (10, 4, 4), CUTS)
    shard = levels.shards()[0]
    block = np.zeros((10, 4, 4), np.uint8)
    block[:, 0, 0] = 5
    levels.write(shard, block)
    assert levels.has(shard)
    np.testing.assert_array_equal(Levels(levels.path).read(0, 10), block)


_WRITE_AND_DIE = """
import os, sys
import numpy as np
from pathlib import Path
from evaluation.masking.level_files import Levels

array = np.load(sys.argv[2])
levels = Levels.create(Path(sys.argv[1]), array.shape, (0.5,))
first, second, _ = levels.shards()
levels.write(first, array[first.start : first.stop])
levels._array[second.start : second.stop].write(array[second.start : second.stop])
os.kill(os.getpid(), 9)  # without waiting for the write of the second shard
"""


@pytest.mark.heavy
def test_after_a_kill_only_whole_shards_are_visible_and_the_rest_is_written(tmp_path, array):
    path = tmp_path / "train.zarr"
    np.save(tmp_path / "array.npy", array)
    died = subprocess.run(
        [sys.executable, "-c", _WRITE_AND_DIE, path, tmp_path / "array.npy"],
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    levels = Levels.create(path, SHAPE, CUTS)
    shards = levels.shards()
    assert levels.has(shards[0])
    assert not levels.has(shards[2])
    for shard in shards:
        if levels.has(shard):
            np.testing.assert_array_equal(
                levels.read(shard.start, shard.stop), array[shard.start : shard.stop]
            )
        else:
            levels.write(shard, array[shard.start : shard.stop])
    np.testing.assert_array_equal(Levels(path).read(0, 2500), array)


def test_a_shard_half_written_beside_its_place_is_not_seen(written, array):
    place = written.path / "c" / "1" / "0"
    whole = place / "0"
    partial = place / "0.__lock"
    partial.write_bytes(whole.read_bytes()[:100])
    whole.unlink()
    levels = Levels(written.path)
    assert [levels.has(shard) for shard in levels.shards()] == [True, False, True]
    levels.write(levels.shards()[1], array[1024:2048])
    np.testing.assert_array_equal(levels.read(0, 2500), array)


def test_stored_bytes_are_what_is_on_disk(written):
    metadata = len((written.path / "zarr.json").read_bytes())
    shards = sum(len((written.path / "c" / str(i) / "0" / "0").read_bytes()) for i in range(3))
    assert written.stored_bytes() == metadata + shards


def test_smooth_levels_take_less_than_a_byte_a_pixel(tmp_path):
    y, x = np.mgrid[:32, :32]
    saliency = np.stack([-((y - i % 20) ** 2 + (x - i // 20) ** 2.0) for i in range(128)])
    levels = Levels.create(tmp_path / "s.zarr", saliency.shape, CUTS)
    levels.write(levels.shards()[0], saliency_levels(saliency, CUTS, np.arange(128)))
    assert levels.stored_bytes() < saliency.size / 4


def test_stage_maps_the_levels_read_only_and_once(written, array, tmp_path):
    place = tmp_path / "train.npy"
    mapped = unpack_levels(written, place)
    assert isinstance(mapped.base, np.memmap)
    assert not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, array)
    before = place.stat()
    shutil.rmtree(written.path / "c")  # a second call must not read the array again
    np.testing.assert_array_equal(unpack_levels(written, place), array)
    after = place.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_levels_that_are_not_there_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no levels at .*make them with Levels.create"):
        Levels(tmp_path / "nothing.zarr")


def test_the_hash_is_that_of_all_shards_at_once_and_a_zarr_reader_sees_it(written, array):
    assert written.content_hash is None
    others = ContentHash()
    expected = content_hash(array[:1024], array[1024:2048], array[2048:])
    assert written.seal(others) == expected == others.digest()
    assert Levels(written.path).content_hash == expected
    written.seal(others)
    shards = (array[:1024], array[1024:2048], array[2048:])
    assert others.digest() == content_hash(*shards, *shards)
    zarr = pytest.importorskip("zarr", minversion="3")
    opened = zarr.open_array(written.path, mode="r")
    assert dict(opened.attrs) == {"cuts": list(CUTS), "content_hash": expected}
    np.testing.assert_array_equal(opened[:], array)


def test_sealed_levels_can_be_written_and_sealed_again(written, array):
    before = written.seal()
    metadata = (written.path / "zarr.json").read_bytes()
    written.write(range(1024, 2048), array[1024:2048])
    assert written.seal() == before
    assert (written.path / "zarr.json").read_bytes() == metadata
    written.write(range(1024, 2048), 5 - array[1024:2048])
    assert written.seal() != before


def test_a_memory_map_can_be_checked_against_the_levels_it_came_from(written, tmp_path):
    written.seal()
    mapped = unpack_levels(written, tmp_path / "train.npy")
    assert levels_hash(mapped) == written.content_hash
    changed = np.array(mapped)
    changed[2047, 7, 7] ^= 1
    assert levels_hash(changed) != written.content_hash


def test_a_memory_map_of_other_levels_is_made_anew(written, array, tmp_path):
    # As on a scratch disk that outlived the run's directory.
    written.seal()
    place = tmp_path / "scratch" / "train.npy"
    np.testing.assert_array_equal(unpack_levels(written, place), array)
    written.write(range(1024), 5 - array[:1024])
    written.seal()
    again = unpack_levels(Levels(written.path), place)
    np.testing.assert_array_equal(again[:1024], 5 - array[:1024])
    assert levels_hash(again) == Levels(written.path).content_hash
    before = place.stat().st_ino
    unpack_levels(Levels(written.path), place)
    assert place.stat().st_ino == before


def test_levels_that_the_disk_changed_are_not_trained_on(written, array, tmp_path):
    written.seal()
    # As if another shard's file had come in its place: it decodes, and is not what was written.
    shards = [written.path / "c" / number / "0" / "0" for number in "01"]
    shards[1].write_bytes(shards[0].read_bytes())
    with pytest.raises(Unfit, match=r"train.zarr has levels of hash .*: expected those of"):
        unpack_levels(Levels(written.path), tmp_path / "staged" / "train.npy")
    assert [path.name for path in (tmp_path / "staged").iterdir()] == [".lock"]


_STAGE = """
import sys, time
from pathlib import Path
from evaluation.masking import level_files

unpack, count = level_files._unpack, Path(sys.argv[3])

def slow(levels, place):
    with count.open("a") as file:
        file.write("x")
    time.sleep(0.5)
    unpack(levels, place)

level_files._unpack = slow
levels = level_files.Levels(Path(sys.argv[1]))
print(level_files.levels_hash(level_files.unpack_levels(levels, Path(sys.argv[2]))))
"""


@pytest.mark.heavy
def test_of_two_processes_that_stage_at_once_one_unpacks_and_both_have_it(written, tmp_path):
    expected = written.seal()
    (tmp_path / "staged").mkdir()
    left = tmp_path / "staged" / ".partial-train.npy-abc"
    left.write_bytes(b"by one that was killed")
    arguments = [written.path, tmp_path / "staged" / "train.npy", tmp_path / "count"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _STAGE, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        for _ in range(2)
    ]
    found = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert found == [expected, expected]
    assert (tmp_path / "count").read_text() == "x"
    assert not left.exists()


def test_staging_reads_a_chunk_of_images_at_a_time(written, tmp_path, monkeypatch):
    read, longest = Levels.read, []

    def noted(self, start, stop):
        longest.append(stop - start)
        return read(self, start, stop)

    monkeypatch.setattr(maps_module.Levels, "read", noted)
    written.seal()
    unpack_levels(written, tmp_path / "train.npy")
    assert max(longest) == CHUNK_IMAGES
    assert sum(longest) == 2 * 2500


@pytest.mark.parametrize("cuts", [CUTS, (0.5,), (0.1, 0.5, 0.9)])
def test_the_stated_bytes_are_the_entropy_of_the_cuts(cuts):
    # Of maps that are drawn evenly, by counting.
    levels = saliency_levels(np.random.default_rng(0).random((1, 100, 100)), cuts, np.arange(1))
    _, counts = np.unique(levels, return_counts=True)
    bits = -sum(count * np.log2(count / 10_000) for count in counts)
    assert bytes_an_image((100, 100), 1, cuts=cuts) == (4e4, pytest.approx(0.75 * bits / 8))
    staged, stored = bytes_an_image((100, 100), 7, cuts=cuts, object_masks=True)
    assert (staged, stored) == (11e4, pytest.approx(7 * 0.75 * bits / 8))


def test_stated_bytes_hold_within_a_fifth_for_maps_as_rough_and_as_smooth_as_they_come(tmp_path):
    y, x = np.mgrid[:32, :32]
    rough = np.random.default_rng(0).random((512, 32, 32))
    smooth = np.stack([-((y - i % 20) ** 2 + (x - i // 20) ** 2.0) for i in range(512)])
    for name, saliency in (("rough", rough), ("smooth", smooth)):
        levels = Levels.create(tmp_path / f"{name}.zarr", saliency.shape, CUTS)
        levels.write(range(512), saliency_levels(saliency, CUTS, np.arange(512)))
        took = 32 * 32 + levels.stored_bytes() / 512
        images, _ = bytes_an_image((32, 32), 0)
        stated = sum(bytes_an_image((32, 32), 1)) - images
        assert 0.8 < took / stated < 1.2
