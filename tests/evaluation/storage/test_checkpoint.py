"""Checkpoints: what comes back, what is refused, and what a full disk costs."""

from __future__ import annotations

import errno

import pytest
import torch

from evaluation.storage import checkpoint as module
from evaluation.storage.checkpoint import Checkpoint
from evaluation.storage.sealed import Unfit

STATE = {"epoch": 3, "weights": {"a": torch.arange(5.0)}, "history": [{"loss": 0.1 + 0.2}]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "unfinished" / "ab.pt"


def test_a_state_comes_back_to_the_last_bit(path):
    Checkpoint(path).save("work", STATE, 0.5)
    found = Checkpoint(path).load("work")
    assert torch.equal(found["weights"].pop("a"), STATE["weights"]["a"])
    assert found == {"epoch": 3, "weights": {}, "history": [{"loss": 0.30000000000000004}]}
    assert [file.name for file in path.parent.iterdir()] == ["ab.pt"]


@pytest.mark.parametrize("change", ["work", "torch"])
def test_other_work_and_another_pytorch_do_not_go_on(path, monkeypatch, change):
    Checkpoint(path).save("work", STATE, 0.5)
    if change == "torch":
        monkeypatch.setattr(torch, "__version__", "0.0")
    checkpoint = Checkpoint(path)
    assert checkpoint.load("other work" if change == "work" else "work") is None
    assert checkpoint.earlier_seconds == 0


@pytest.mark.parametrize("place", [0, 63, 64, 70, -1])
def test_a_changed_byte_is_not_what_was_written(path, place):
    Checkpoint(path).save("work", STATE, 0.5)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(Unfit, match=r"ab\.pt has content of hash [0-9a-f]{64}: expected that of"):
        Checkpoint(path).load("work")


@pytest.mark.parametrize("content", [b"", b"no line feed", b"ab\n"])
def test_no_checkpoint_is_not_what_was_written(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(Unfit):
        Checkpoint(path).load("work")


def test_a_folder_is_not_what_was_written(path):
    path.mkdir(parents=True)
    with pytest.raises(Unfit, match="is a folder"):
        Checkpoint(path).load("work")


def test_nothing_is_unpickled(path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    Checkpoint(path).save("work", {"trap": Trap()}, 0.5)
    with pytest.raises(Unfit, match=r"cannot be read \(.*\): expected a checkpoint"):
        Checkpoint(path).load("work")


def test_a_full_disk_costs_the_way_back_alone(path, monkeypatch):
    said: list[str] = []
    checkpoint = Checkpoint(path, "centre, seed 0", said.append)
    checkpoint.save("work", STATE, 0.5)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_atomically", full)
    checkpoint.save("work", {**STATE, "epoch": 4}, 0.75)
    assert said == [
        "centre, seed 0: 50 % in 0 min",
        "centre, seed 0: 75 % in 0 min, not kept for a later start "
        "([Errno 28] No space left on device)",
    ]
    assert Checkpoint(path).load("work")["epoch"] == 3


def test_seconds_add_up_over_starts(path, monkeypatch):
    now, said = [1000.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    first = Checkpoint(path, "ig", said.append)
    assert not first.due
    now[0] += 300
    assert first.due
    first.save("work", STATE, 0.25)
    assert not first.due
    now[0] += 5000  # nobody works
    second = Checkpoint(path, "ig", said.append)
    second.load("work")
    now[0] += 600
    second.save("work", STATE, 0.75)
    third = Checkpoint(path, "ig", said.append)
    third.load("work")
    assert third.earlier_seconds == 900
    assert said == [
        "ig: 25 % in 5 min",
        "ig: goes on after 25 % in 5 min",
        "ig: 75 % in 15 min",
        "ig: goes on after 75 % in 15 min",
    ]


def test_removing_twice_is_as_good_as_once(path):
    Checkpoint(path).save("work", STATE, 0.5)
    for _ in range(2):
        Checkpoint(path).remove()
    assert Checkpoint(path).load("work") is None
