"""Processes that train one network by gloo, beside one process that trains it alone."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.training.ranks import Ranks
from evaluation.training.recipe import Recipe
from evaluation.training.retraining import train

pytestmark = pytest.mark.training

SCENES = """
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn

from evaluation.networks.build import build_network
from evaluation.training.recipe import Recipe
from evaluation.training.retraining import train
from evaluation.masking.views import InputView
from evaluation.storage.checkpoint import Checkpoint

torch.set_num_threads(1)
compiled = torch.compile
# What the compiler makes of it is the compiler's matter: here its front half is enough.
torch.compile = lambda network, **how: compiled(network, backend="eager", **how)

class Doubled(InputView):
    def to_inputs(self, raw):
        return super().to_inputs(raw).double()

class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.head, self.other = nn.Linear(192, 6), nn.Linear(6, 4), nn.Linear(6, 4)
    def forward(self, x):
        y = self.trunk(x.flatten(1)).tanh()
        return (self.head(y), self.other(y)) if self.training else self.head(y)

def plain():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 4)
    )

STEP = Recipe(epochs=3, batch_size=5, learning_rate=0.05, crop_padding=1, schedule="constant")
# Scene: images, network, recipe. Of 11 images the last batch is one, and the second rank has none.
SCENES = {
    "uneven": (13, plain, STEP),
    "empty": (11, plain, STEP),
    "compiled": (13, plain, replace(STEP, compile=True, channels_last=False)),
    "heads": (13, Heads, STEP),
}

def view(images):
    pixels = np.random.default_rng(0).integers(0, 256, (images, 8, 8, 3), dtype=np.uint8)
    return Doubled(pixels, (0.5,) * 3, (0.25,) * 3)

def scene(name, ranks):
    images, make, recipe = SCENES[name]
    torch.manual_seed(0)
    network, called = make().double(), []
    training = train(
        network, view(images), np.arange(images) % 4, replace(recipe, ranks=ranks), 7,
        on_epoch=lambda *epoch: called.append(epoch),
    )
    return network.state_dict(), training, called

def dropping():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(384, 4),
    )

class Stopping(InputView):
    left = 10**9
    def to_inputs(self, raw):
        if not self.left:
            raise KeyboardInterrupt
        Stopping.left -= 1
        return super().to_inputs(raw)

def interrupted(path, stops):
    # Of six steps an epoch: ranks agree on a checkpoint after the 20th and the 40th step.
    recipe = replace(STEP, epochs=8, batch_size=4, ranks=2)
    for stop in stops:
        Stopping.left = stop
        torch.manual_seed(0)
        network, checkpoint = dropping(), Checkpoint(Path(path), every=0)
        images = Stopping(view(23).images, (0.5,) * 3, (0.25,) * 3)
        try:
            training = train(
                network, images, np.arange(23) % 4, recipe, 7, checkpoint=checkpoint, prefetch=0
            )
        except KeyboardInterrupt:
            continue
        return training.model_hash, training.order_hash, [
            (entry["loss"], entry["accuracy"]) for entry in training.history
        ], checkpoint.earlier_seconds > 0

def main(rank, meeting, out):
    distributed.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=2)
    found = {}
    for name in SCENES:
        state, training, called = scene(name, 2)
        found[name] = state, list(map(dict, training.history)), training.model_hash, called
    normalised = InputView(view(24).images, (0.5,) * 3, (0.25,) * 3)
    network = build_network("resnet9", 4, 0, size=(8, 8))
    recipe = replace(STEP, epochs=1, batch_size=8, ranks=2)
    found["normalised"] = train(network, normalised, np.arange(24) % 4, recipe, 0).model_hash
    many = 10**9
    found["interrupted"] = interrupted(out.rsplit("/", 1)[0] + "/checkpoint.pt", (23, 22, many))
    Checkpoint(Path(out.rsplit("/", 1)[0] + "/checkpoint.pt")).remove()
    distributed.barrier()
    # Each rank has a file of its own that the other does not see: they start again.
    own = f"{out}.checkpoint"
    found["apart"] = interrupted(own, (23, 22, many))
    found["whole"] = interrupted(f"{out}.whole", (many,))
    torch.manual_seed(rank)
    for wrong, ranks in (("start", 2), ("size", 3)):
        try:
            train(plain().double(), view(13), np.arange(13) % 4, replace(STEP, ranks=ranks), 0)
        except RuntimeError as error:
            found[wrong] = str(error)
    torch.save(found, out)
    distributed.destroy_process_group()

if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """The results of each of two processes, and the scenes to run alone."""
    if not torch.distributed.is_available():
        pytest.skip("torch without distributed")
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "scenes.py"
    script.write_text(SCENES)
    root = Path(__file__).parents[3]
    outs = [folder / f"{rank}.pt" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), folder / "meeting", out],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, out in enumerate(outs)
    ]
    try:
        said = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(out.exists() for out in outs), "\n".join(said)
    return [torch.load(out, weights_only=True) for out in outs]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Runs a scene in this process."""
    script = tmp_path_factory.mktemp("alone") / "scenes.py"
    script.write_text(SCENES)
    compiled, threads = torch.compile, torch.get_num_threads()
    yield runpy.run_path(str(script))["scene"]
    torch.compile = compiled
    torch.set_num_threads(threads)


@pytest.mark.parametrize("scene", ["uneven", "empty", "compiled", "heads"])
def test_two_ranks_train_what_one_process_trains(ranks, alone, scene):
    # Rounding alone differs, in float64: each image counts as it does in the whole batch.
    state, training, called = alone(scene, 1)
    for rank, found in enumerate(ranks):
        weights, history, _, rank_called = found[scene]
        assert weights.keys() == state.keys()
        for name, weight in state.items():
            torch.testing.assert_close(weights[name], weight, rtol=1e-10, atol=1e-12)
        for entry, expected in zip(history, training.history, strict=True):
            assert entry["loss"] == pytest.approx(expected["loss"], rel=1e-10)
            assert entry["accuracy"] == expected["accuracy"]
        epochs = [epoch for epoch, _ in called]
        assert [epoch for epoch, _ in rank_called] == (epochs if rank == 0 else [])
    assert ranks[0][scene][2] == ranks[1][scene][2]


def test_all_ranks_end_with_the_same_bytes_of_a_normalised_network(ranks):
    assert ranks[0]["normalised"] == ranks[1]["normalised"]


def test_interrupted_ranks_end_as_ranks_that_were_not(ranks):
    for found in ranks:
        assert found["interrupted"] == (*found["whole"][:3], True)
    assert ranks[0]["interrupted"] == ranks[1]["interrupted"]


def test_ranks_that_do_not_read_one_checkpoint_start_again(ranks):
    for found in ranks:
        assert found["apart"] == found["whole"]
        assert not found["whole"][3]


def test_ranks_that_start_apart_say_so(ranks):
    for rank, found in enumerate(ranks):
        assert f"start from different weights (rank {rank} has" in found["start"]
        assert "torch.distributed is of 2 processes" in found["size"]


def test_ranks_without_a_group_are_told_what_is_missing():
    recipe = Recipe(ranks=2)
    with pytest.raises(RuntimeError, match=r"ranks=2: the default group .* is missing; call"):
        train(torch.nn.Linear(1, 1), None, np.zeros(4, np.int64), recipe, 0)


@pytest.mark.parametrize(("images", "count"), [(7, 2), (8, 3), (2, 4), (1, 2), (64, 8)])
def test_shares_are_the_batch_and_weigh_its_mean(images, count):
    values = np.random.default_rng(images).random(100)
    batch = np.arange(10, 10 + images)
    shares = [Ranks(count, rank, torch.device("cpu")).share(batch) for rank in range(count)]
    counted = [share.indices for share in shares if share.weight]
    np.testing.assert_array_equal(np.concatenate(counted), batch)
    assert all(len(share.indices) for share in shares)
    mean = np.mean([share.weight * values[share.indices].mean() for share in shares])
    assert mean == pytest.approx(values[batch].mean(), rel=1e-12)


def test_each_rank_drops_other_units():
    seeds = [Ranks(4, rank, torch.device("cpu")).seed(3) for rank in range(4)]
    assert seeds[0] == 3
    assert len(set(seeds)) == 4
