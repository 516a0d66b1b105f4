"""Trainings that are interrupted and go on, beside the same training without an interruption."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.masking.resident import Residence
from evaluation.masking.views import InputView
from evaluation.networks.build import state_hash
from evaluation.storage.checkpoint import Checkpoint
from evaluation.training.recipe import Recipe
from evaluation.training.removal import removal
from evaluation.training.retraining import train

pytestmark = pytest.mark.training

IMAGES, BATCH = 13, 4
STEPS = 4  # of an epoch; the last has one image
RECIPE = Recipe(epochs=3, batch_size=BATCH, learning_rate=0.05, crop_padding=1)
LABELS = np.arange(IMAGES) % 4


class Interrupted(Exception):
    """The end of a process, at a planted step."""


class Counted(InputView):
    """Images that interrupt the training once so many steps were taken."""

    left: int | None = None

    def to_inputs(self, raw):
        if self.left is not None:
            if not self.left:
                raise Interrupted
            self.left -= 1
        return super().to_inputs(raw)


def _view(left: int | None = None) -> Counted:
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8, 3), dtype=np.uint8)
    view = Counted(pixels, (0.5,) * 3, (0.25,) * 3)
    object.__setattr__(view, "left", left)
    return view


def _network(*first: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *first,
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 4),
    )


def _in_parts(path, recipe, stops, *first, **options):
    """Train, interrupted after each of `stops` steps; a checkpoint is written after every step."""
    for stop in stops:
        # What the process did before must not matter, nor what the random state is.
        torch.manual_seed(stop)
        network = _network(*first)
        # One call of the view tells the number of axes, before the steps.
        view = _view(stop + recipe.channels_last)
        with pytest.raises(Interrupted):
            train(network, view, LABELS, recipe, 7, checkpoint=Checkpoint(path, every=0), **options)
    network = _network(*first)
    checkpoint = Checkpoint(path, every=0)
    training = train(network, _view(), LABELS, recipe, 7, checkpoint=checkpoint, **options)
    return network, training


def _history(training):
    """The history without times."""
    return [(entry["epoch"], entry["loss"], entry["accuracy"]) for entry in training.history]


def _assert_same(found, expected):
    (network, training), (other, whole) = found, expected
    assert state_hash(network) == state_hash(other)
    assert training.model_hash == whole.model_hash
    assert training.order_hash == whole.order_hash
    assert training.init_hash == whole.init_hash
    assert _history(training) == _history(whole)


def _whole(recipe, *first, **options):
    network = _network(*first)
    return network, train(network, _view(), LABELS, recipe, 7, **options)


RECIPES = {
    "one-cycle": {},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.01},
    "step": {"schedule": "step", "milestones": (1.0, 2.0)},
    "cosine": {"schedule": "cosine", "warmup": 1.0},
    "constant": {"schedule": "constant"},
    "no momentum": {"momentum": 0.0, "schedule": "constant"},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "contiguous": {"channels_last": False},
    "resized crops": {"resized_crop": 0.5, "crop_padding": 0},
    "alternating flips": {"flip": False, "alternating_flip": True},
}


@pytest.mark.parametrize("name", RECIPES)
def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path, name):
    recipe = Recipe(**{**RECIPE.__dict__, **RECIPES[name]})
    # In the first epoch; twice in the second, the second time before anything new; at its end.
    found = _in_parts(tmp_path / "a.pt", recipe, (1, 5 - 1, 0, 3))
    _assert_same(found, _whole(recipe))


@pytest.mark.parametrize("stop", range(1, 3 * STEPS))
def test_it_may_be_interrupted_at_every_step(tmp_path, stop):
    _assert_same(_in_parts(tmp_path / "a.pt", RECIPE, (stop,)), _whole(RECIPE))


@pytest.mark.parametrize("prefetch", [0, 3])
def test_prefetched_batches_are_read_again(tmp_path, prefetch):
    found = _in_parts(tmp_path / "a.pt", RECIPE, (2, 5), prefetch=prefetch)
    _assert_same(found, _whole(RECIPE))


@pytest.mark.parametrize(
    "removes", [{"removes": "pixels", "share": 0.5}, {"removes": "patch", "grid": 2}]
)
def test_random_removal_goes_on_where_it_was(tmp_path, removes):
    found = _in_parts(tmp_path / "a.pt", RECIPE, (3, 4), removal(removes))
    _assert_same(found, _whole(RECIPE, removal(removes)))


def test_the_random_state_matters(tmp_path, monkeypatch):
    """Without it, dropout alone makes other weights: the tests above can fail."""
    monkeypatch.setattr(torch, "set_rng_state", lambda _: None)
    network, _ = _in_parts(tmp_path / "a.pt", RECIPE, (5,))
    assert state_hash(network) != state_hash(_whole(RECIPE)[0])


def test_images_that_are_resident_go_on_too(tmp_path):
    def resident():
        return Residence("cpu").views(_view())[0]

    path = tmp_path / "a.pt"
    stopped = []

    class Stopping(Checkpoint):
        def save(self, of, state, share):
            super().save(of, state, share)
            stopped.append(share)
            if len(stopped) == 6:
                raise Interrupted

    with pytest.raises(Interrupted):
        train(_network(), resident(), LABELS, RECIPE, 7, checkpoint=Stopping(path, every=0))
    assert stopped == [step / 12 for step in range(1, 7)]
    network = _network()
    training = train(network, resident(), LABELS, RECIPE, 7, checkpoint=Checkpoint(path, every=0))
    _assert_same((network, training), _whole(RECIPE))
    assert training.earlier_seconds > 0


@pytest.mark.parametrize("change", ["weights", "seed", "recipe"])
def test_another_training_starts_from_its_first_step(tmp_path, change):
    path = tmp_path / "a.pt"
    with pytest.raises(Interrupted):
        train(_network(), _view(6), LABELS, RECIPE, 7, checkpoint=Checkpoint(path, every=0))
    recipe = Recipe(**{**RECIPE.__dict__, "weight_decay": 0.0}) if change == "recipe" else RECIPE
    seed = 8 if change == "seed" else 7
    results = []
    for checkpoint in (Checkpoint(path, every=1e9), None):
        network = _network()
        if change == "weights":
            with torch.no_grad():
                network[0].bias += 1
        training = train(network, _view(), LABELS, recipe, seed, checkpoint=checkpoint)
        results.append((network, training))
        assert training.earlier_seconds == 0
    _assert_same(*results)


def test_nothing_is_written_before_its_time(tmp_path):
    path = tmp_path / "a.pt"
    train(_network(), _view(), LABELS, RECIPE, 7, checkpoint=Checkpoint(path))
    assert not path.exists()


def test_seconds_of_an_epoch_are_those_of_all_its_starts(tmp_path):
    _, training = _in_parts(tmp_path / "a.pt", RECIPE, (2, 1))
    for entry in training.history:
        assert entry["seconds"] > entry["wait_seconds"] >= 0


def test_a_divergence_is_found_after_an_interruption_too(tmp_path):
    recipe = Recipe(**{**RECIPE.__dict__, "learning_rate": 1e30, "schedule": "constant"})
    with pytest.raises(FloatingPointError, match="lower it"):
        _in_parts(tmp_path / "a.pt", recipe, (2,))
