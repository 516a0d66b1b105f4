"""Files are whole or absent: after a full disk, a kill, or somebody else's pickle."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.storage.array_files import ArrayFile
from evaluation.storage.hashes import content_hash, spec_id
from evaluation.storage.records import METRICS, CellResult, Record, pack_bits, unpack_bits
from evaluation.storage.sealed import Unfit
from evaluation.storage.store import Store
from evaluation.storage.writing import remove_partial, write_atomically, write_once

ROOT = Path(__file__).parents[3]
RECORD = Record(
    "centre",
    {"a": 1},
    "shapes",
    "resnet9",
    "roar",
    0.3,
    None,
    "accuracy",
    1 / 3,
    "1",
    0,
    "0.1",
    "c",
)


def _result(name: str, records: int = 1) -> CellResult:
    return CellResult(
        name,
        "retrain",
        {"method": "centre", "fraction": 0.1 + 0.2},
        (RECORD,) * records,
        correct=pack_bits(np.arange(11) % 3 == 0),
        images=11,
        hashes={"init": "00"},
        history=({"epoch": 1, "loss": 0.1}, {"epoch": 2, "loss": 1e-17}),
        seconds=1.5,
        environment={"torch": "2", "threads": 1},
    )


def test_a_result_comes_back_to_the_last_digit(tmp_path):
    store = Store(tmp_path / "run")
    store.save_result(_result("ab"))
    assert store.result("ab") == _result("ab")
    assert store.result("cd") is None


@pytest.mark.parametrize("images", [1, 7, 8, 9, 1000])
def test_bits_come_back(images):
    correct = np.random.default_rng(images).random(images) < 0.4
    text = pack_bits(correct)
    np.testing.assert_array_equal(unpack_bits(text, images), correct)
    in_bytes = (images + 7) // 8
    assert len(text) == 4 * ((in_bytes + 2) // 3)


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="unknown metric 'acuracy': expected one of accuracy"):
        replace(RECORD, metric="acuracy")
    assert all(name == metric.name for name, metric in METRICS.items())


def test_the_id_of_a_specification_is_that_of_its_content():
    spec = {"b": [1, 2.5], "a": {"y": None, "x": "ü"}}
    assert spec_id(spec) == spec_id({"a": {"x": "ü", "y": None}, "b": (1, 2.5)})
    assert spec_id(spec) != spec_id(spec | {"b": [1, 2.5000001]})
    # Ids name the cells of finished runs: this one may never change.
    assert spec_id({"a": 1, "b": [0.1, None]}) == "e4a9ad4b96810689"


def test_the_content_hash_sees_type_shape_and_order():
    array = np.arange(6, dtype=np.uint8)
    hashes = [
        content_hash(array),
        content_hash(array.reshape(2, 3)),
        content_hash(array.astype(np.int8)),
        content_hash(array[::-1]),
        content_hash(array[:3], array[3:]),
    ]
    assert len(set(hashes)) == 5
    assert content_hash(np.asfortranarray(array.reshape(2, 3))) == hashes[1]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "cells" / "x.json"
    write_atomically(path, lambda file: file.write(b"old"))

    def fails(file) -> None:
        file.write(b"half of the new")
        raise KeyError("while writing")

    with pytest.raises(KeyError):
        write_atomically(path, fails)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.json"]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call):
    store = Store(tmp_path)
    store.save_result(_result("ab"))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def no_space(*_: object) -> None:
        raise full

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match="No space left"):
            store.save_result(_result("ab", records=5))
        with pytest.raises(OSError, match="No space left"):
            store.save_model("m", {"weight": torch.zeros(3)})
    else:
        with pytest.raises(OSError, match="No space left"):
            write_atomically(store.cell("ab"), no_space)
    assert store.result("ab") == _result("ab")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["ab.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_what_the_device_that_is_always_full_refuses_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "x.npy"
    write_atomically(path, lambda file: np.save(file, np.arange(3)))
    opened = Path.open

    def full_device(place: Path, mode: str):
        return opened(Path("/dev/full") if mode == "wb" else place, mode)

    monkeypatch.setattr(Path, "open", full_device)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, lambda file: np.save(file, np.zeros(100_000)))
    monkeypatch.setattr(Path, "open", opened)
    np.testing.assert_array_equal(np.load(path), np.arange(3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.npy"]


_WRITE_SLOWLY = """
import sys, time
from evaluation.storage.records import CellResult
from evaluation.storage.sealed import Unfit
from evaluation.storage.store import Store
from evaluation.storage.writing import write_atomically

store = Store(sys.argv[1])
text = CellResult("ab", "base", {"new": True}, ()).to_json().encode()

def write(file):
    file.write(text[: len(text) // 2])
    file.flush()
    print("half", flush=True)
    time.sleep(600)

write_atomically(store.cell("ab"), write)
"""


@pytest.mark.heavy
def test_a_kill_in_the_middle_of_a_write_leaves_nothing_that_is_read(tmp_path):
    store = Store(tmp_path)
    store.save_result(_result("ab"))
    store.save_result(_result("zz"))
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITE_SLOWLY, tmp_path], stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert writer.stdout.readline() == b"half\n"
        assert store.result("ab") == _result("ab")
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait(30)
        writer.stdout.close()
    left = [path for path in (tmp_path / "cells").iterdir() if path.name.startswith(".partial-")]
    assert len(left) == 1  # the half file is there, and nobody reads it
    with pytest.raises(json.JSONDecodeError):
        json.loads(left[0].read_text())
    assert store.result("ab") == _result("ab")
    assert [result.id for result in store.results()] == ["ab", "zz"]
    store.save_result(replace(_result("cd"), seconds=9.0))
    assert store.result("cd").seconds == 9.0


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    # Each writes half, waits for the other, writes the rest: the last one wins whole.
    path = tmp_path / "x"

    def outer(file) -> None:
        file.write(b"a" * 1000)
        write_atomically(path, lambda inner: inner.write(b"b" * 2000))
        assert path.read_bytes() == b"b" * 2000
        file.write(b"a" * 1000)

    write_atomically(path, outer)
    assert path.read_bytes() == b"a" * 2000


def test_results_come_in_the_order_of_their_ids_and_without_partial_files(tmp_path):
    store = Store(tmp_path)
    assert list(store.results()) == []
    for name in ("c", "a", "b"):
        store.save_result(_result(name))
    (tmp_path / "cells" / ".partial-xyz.json").write_text("{")
    (tmp_path / "cells" / ".partial-abc").write_text("{")
    assert [result.id for result in store.results()] == ["a", "b", "c"]


def test_files_can_be_read_by_others(tmp_path):
    write_atomically(tmp_path / "x", lambda file: file.write(b"x"))
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_weights_come_back(tmp_path):
    store = Store(tmp_path)
    state = {"a": torch.randn(3, 4), "n": torch.tensor(7)}
    store.save_model("m", state)
    loaded = store.load_model("m")
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


class _Harmful:
    def __reduce__(self):
        return Path.touch, (Path(os.environ["FASTSAL_TEST_MARK"]),)


def test_weights_that_carry_code_are_refused(tmp_path, monkeypatch):
    mark = tmp_path / "ran"
    monkeypatch.setenv("FASTSAL_TEST_MARK", str(mark))
    store = Store(tmp_path)
    place = store.model("m")
    place.parent.mkdir()
    torch.save({"weight": _Harmful()}, place)
    with pytest.raises(Unfit, match=r"m.pt cannot be read \([Ww]eights.only"):
        store.load_model("m")
    assert not mark.exists()


def test_arrays_that_carry_code_are_refused(tmp_path):
    place = tmp_path / "x.npz"
    Store(tmp_path).save_arrays(place, {"train": np.arange(3), "test": np.arange(2)})
    with np.load(place, allow_pickle=False) as loaded:
        assert {name: loaded[name].tolist() for name in ("train", "test")} == {
            "train": [0, 1, 2],
            "test": [0, 1],
        }
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        Store(tmp_path).save_arrays(place, {"train": np.array([_Harmful()], dtype=object)})
    with np.load(place, allow_pickle=False) as loaded:
        assert loaded["train"].tolist() == [0, 1, 2]


def test_the_first_recorded_result_of_a_cell_stays(tmp_path):
    store = Store(tmp_path)
    first, second = replace(_result("ab"), seconds=1.0), replace(_result("ab"), seconds=2.0)
    assert store.save_result(first) == first
    assert store.save_result(second) == first
    assert store.result("ab") == first
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["ab.json"]


_RECORD = """
import sys, time
from dataclasses import replace
from evaluation.storage.records import CellResult
from evaluation.storage.sealed import Unfit
from evaluation.storage.store import Store

store, mine = Store(sys.argv[1]), float(sys.argv[2])
sys.stdin.readline()
for number in range(200):
    result = CellResult(f"{number:03}", "base", {}, (), seconds=mine)
    print(store.save_result(result).seconds)
"""


@pytest.mark.heavy
def test_of_two_attempts_at_a_cell_both_get_what_is_recorded(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _RECORD, tmp_path, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for number in (1, 2)
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[0].split() for process in processes]
    recorded = [str(result.seconds) for result in Store(tmp_path).results()]
    assert len(recorded) == 200
    assert told == [recorded, recorded]


def test_a_disk_without_hard_links_keeps_the_first_too(tmp_path, monkeypatch):
    def none(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", none)
    assert write_once(tmp_path / "x", lambda file: file.write(b"first"))
    assert not write_once(tmp_path / "x", lambda file: file.write(b"second"))
    assert (tmp_path / "x").read_bytes() == b"first"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_result_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.save_result(_result("ab"))
    read, failures = Path.read_bytes, [errno.ESTALE, errno.ESTALE]

    def stale(self, *arguments, **options):
        if failures:
            number = failures.pop()
            raise OSError(number, os.strerror(number))
        return read(self, *arguments, **options)

    monkeypatch.setattr(Path, "read_bytes", stale)
    assert store.result("ab") == _result("ab")
    failures += [errno.EIO]
    with pytest.raises(OSError, match="Input/output error"):
        store.result("ab")


def test_an_array_file_is_numpys_own_and_there_only_when_every_entry_was_written(tmp_path):
    array = np.random.default_rng(0).random((7, 3, 2)).astype(np.float32)
    np.save(tmp_path / "expected.npy", array)
    with ArrayFile(tmp_path / "made.npy", array.shape, "<f4", "numbers") as file:
        file.append(array[:5])
        assert not (tmp_path / "made.npy").exists()
        file.append(array[5:, :, ::-1][:, :, ::-1])
    assert (tmp_path / "made.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    with ArrayFile(tmp_path / "short.npy", array.shape, "<f4", "numbers") as file:
        file.append(array[:5])
        with pytest.raises(ValueError, match=r"entries 5 to 8 of shape .*is for 7 of shape"):
            file.append(array[:3])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("expected.npy", "made.hash", "made.npy"),
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_an_array_file_on_a_full_disk_is_an_error(tmp_path, monkeypatch):
    opened = os.fdopen

    def full_device(handle: int, mode: str):
        os.close(handle)
        return Path("/dev/full").open(mode)

    monkeypatch.setattr(os, "fdopen", full_device)
    with (
        pytest.raises(OSError, match="No space left"),
        ArrayFile(tmp_path / "x.npy", (100_000,), "<f8", "numbers") as file,
    ):
        file.append(np.zeros(100_000))
    monkeypatch.setattr(os, "fdopen", opened)
    assert list(tmp_path.iterdir()) == []


def test_what_was_killed_while_it_copied_a_folder_is_removed_too(tmp_path):
    (tmp_path / "data" / ".partial-d0-abc" / "inside").mkdir(parents=True)
    (tmp_path / "data" / ".partial-d0-abc" / ".partial-x").write_bytes(b"x")
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / ".partial-y").write_bytes(b"y")
    (tmp_path / "cells" / "y.json").write_bytes(b"{}")
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["y.json"]
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("together", [1, 100, 2**26])
def test_a_hash_is_that_of_the_bytes_however_many_are_hashed_at_once(monkeypatch, together):
    monkeypatch.setattr("evaluation.storage.hashes._HASHED_TOGETHER", together)
    numbers = np.random.default_rng(0).random((50, 7))
    for array in (numbers, numbers.T, numbers[::3], np.zeros((0, 3)), np.float64(2)):
        described = f"{array.dtype.str}{array.shape}".encode()
        expected = hashlib.sha256(described + array.tobytes()).hexdigest()[:16]
        assert content_hash(array) == expected
