"""Recipes: refused values, schedules, and unchanged specifications."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.datasets.load import Request, load_dataset
from evaluation.masking.levels import Masking, saliency_levels
from evaluation.masking.views import InputView
from evaluation.networks.build import build_network
from evaluation.training.recipe import RECIPES, OptimizerName, Recipe, ScheduleName, recipe_name
from evaluation.training.retraining import train
from evaluation.training.schedules import OPTIMIZERS, SCHEDULES, training_steps

STEPPED = {"schedule": "step", "milestones": (30, 60, 80)}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _rates(recipe: Recipe, images: int) -> list[float]:
    """The learning rate of every step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.learning_rate)
    steps = training_steps(recipe, images)
    schedule = SCHEDULES[recipe.schedule](optimizer, recipe, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("epochs", [90, 102])
def test_the_published_schedule_epoch_by_epoch(epochs):
    # He et al. and Goyal et al., written out: 7 steps an epoch.
    recipe = replace(RECIPES["imagenet"].recipe, epochs=epochs, batch_size=64, learning_rate=1.6)
    rates = _rates(recipe, 7 * 64)
    assert len(rates) == 7 * epochs
    for step, rate in enumerate(rates):
        if step < 35:
            expected = 1.6 * (step + 1) / 35
        else:
            expected = 1.6 / 10 ** sum(step >= 7 * epoch for epoch in (30, 60, 80))
        assert rate == pytest.approx(expected, rel=1e-9), step


def test_milestones_as_shares_are_those_of_epochs():
    of_epochs = Recipe(epochs=90, **STEPPED)
    of_shares = replace(of_epochs, milestones=(30 / 90, 60 / 90, 80 / 90))
    assert _rates(of_epochs, 640) == _rates(of_shares, 640)


def test_a_cosine_falls_to_nothing_after_the_warm_up():
    recipe = Recipe(epochs=4, batch_size=10, learning_rate=0.5, schedule="cosine", warmup=1.0)
    for step, rate in enumerate(_rates(recipe, 100)):
        after = 0.25 * (1 + math.cos(math.pi * (step - 10) / 30))
        assert rate == pytest.approx((step + 1) / 20 if step < 10 else after, rel=1e-9)


def test_a_constant_rate_is_constant():
    recipe = Recipe(epochs=2, batch_size=10, learning_rate=0.5, schedule="constant", warmup=0.0)
    assert _rates(recipe, 35) == [0.5] * 8


def test_recipes_name_what_schedules_build():
    assert get_args(OptimizerName) == tuple(OPTIMIZERS)
    assert get_args(ScheduleName) == tuple(SCHEDULES)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("images", [1, 2, 3])
def test_every_schedule_takes_a_few_steps(schedule, images):
    milestones = (0.5,) if schedule == "step" else ()
    recipe = Recipe(epochs=1, batch_size=1, schedule=schedule, milestones=milestones)
    rates = _rates(recipe, images)
    assert len(rates) == images
    assert all(0 <= rate <= recipe.learning_rate for rate in rates)
    assert max(rates) > 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimiser_is_torch_s_own_loop(name):
    # A linear network on images in one batch, so that their order does not matter.
    images = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3), dtype=np.uint8)
    labels, view = np.arange(16) % 4, InputView(images, (0.5,) * 3, (0.25,) * 3)
    options = {"weight_decay": 0.1, "label_smoothing": 0.0, "schedule": "constant", "warmup": 0.0}
    recipe = Recipe(4, 16, 0.01, crop_padding=0, flip=False, optimizer=name, **options)
    torch.manual_seed(0)
    network, plain = (nn.Sequential(nn.Flatten(), nn.Linear(48, 4)) for _ in range(2))
    plain.load_state_dict(network.state_dict())
    train(network, view, labels, recipe, 0)
    optimizer: torch.optim.Optimizer = {
        "sgd": lambda p: torch.optim.SGD(p, 0.01, 0.9, weight_decay=0.1, nesterov=True),
        "adamw": lambda p: torch.optim.AdamW(p, 0.01, (0.9, 0.999), weight_decay=0.1),
    }[name](plain.parameters())
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(view(np.arange(16))), torch.from_numpy(labels)).backward()
        optimizer.step()
    for trained, expected in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_nearly_as_single_precision(precision):
    images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), dtype=np.uint8)
    labels, view = np.arange(32) % 4, InputView(images, (0.5,) * 3, (0.25,) * 3)
    seen: list[torch.dtype] = []

    class Seeing(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            seen.append(y.dtype)
            return y

    weights = []
    for chosen in ("float32", precision):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), Seeing(192, 4))
        recipe = Recipe(3, 16, 0.02, precision=chosen)
        training = train(network, view, labels, recipe, 0)
        weights.append(network[1].weight.detach().clone())
        assert training.init_hash != training.model_hash
    assert set(seen[:6]) == {torch.float32}
    assert set(seen[6:]) == {getattr(torch, precision)}
    assert network[1].weight.dtype == torch.float32
    assert not torch.equal(*weights)
    torch.testing.assert_close(*weights, rtol=0, atol=5e-3)


def test_float16_survives_gradients_that_overflow():
    # The first scale, 65,536, is too large for these inputs: steps are left out, not taken.
    images = np.full((8, 4, 4, 3), 255, np.uint8)
    view = InputView(images, (0.0,) * 3, (1e-2,) * 3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe = Recipe(2, 2, 1e-4, precision="float16")
        training = train(network, view, np.arange(8) % 4, recipe, 0)
    assert all(bool(torch.isfinite(weight).all()) for weight in network.parameters())
    assert all(math.isfinite(entry["loss"]) for entry in training.history)


def _compiled_by(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda network, **how: compiled(network, backend=backend, **how)
    )


@pytest.mark.heavy
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_training_leaves_the_plain_network(backend, monkeypatch):
    _compiled_by(backend, monkeypatch)
    split = (data := load_dataset("shapes", Request(80, 8, image_size=16))).train
    view = InputView(split.images, data.mean, data.std)
    trainings, networks = [], []
    for compiled in (False, True):
        networks.append(build_network("resnet9", 8, 0, size=(16, 16)))
        # The last batch is smaller: another shape.
        recipe = Recipe(epochs=2, batch_size=32, learning_rate=0.02, compile=compiled)
        trainings.append(train(networks[-1], view, split.labels, recipe, 0))
    plain, compiled = (network.state_dict() for network in networks)
    assert list(plain) == list(compiled)
    assert trainings[0].init_hash == trainings[1].init_hash
    for name, weight in plain.items():
        torch.testing.assert_close(compiled[name], weight, rtol=0.02, atol=5e-3)
    # Evaluation afterwards is of the plain network.
    answers = [network.eval()(view(np.arange(8))) for network in networks]
    torch.testing.assert_close(*answers, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lion"}, "optimizer 'lion': expected 'sgd' or 'adamw'"),
        ({"schedule": "linear"}, "schedule 'linear': expected 'one-cycle', 'step', 'cosine' or"),
        ({"schedule": "step"}, r"'step' with milestones \[\]: the schedule 'step' needs some"),
        ({"milestones": (0.5,)}, r"'one-cycle' with milestones \[0.5\]: .* no other takes any"),
        (STEPPED | {"epochs": 60}, r"milestones \[30, 60, 80\]: .* before the last of 60"),
        (STEPPED | {"epochs": 90, "milestones": (60, 30)}, r"milestones \[60, 30\]: expected ris"),
        ({"warmup": -0.1}, "warmup=-0.1: expected a share"),
        ({"warmup": 7.0}, "warmup=7: expected a share .* its 6 epochs"),
        ({"warmup": float("nan")}, "warmup=nan"),
        ({"momentum": 1.0}, "momentum=1: expected at least 0 and less than 1"),
        ({"label_smoothing": -0.5}, "label_smoothing=-0.5"),
        ({"weight_decay": -1e-4}, "weight_decay=-0.0001: expected at least 0"),
        ({"resized_crop": 1.0, "crop_padding": 0}, "resized_crop=1: expected at least 0 and less"),
        ({"alternating_flip": True}, "flip and alternating_flip are two ways to mirror"),
        ({"resized_crop": 0.1}, "crop_padding=2 and resized_crop=0.1 are two ways to crop"),
        ({"crop_padding": -1}, "crop_padding=-1: expected at least 0 pixels"),
        ({"ranks": 0}, "ranks=0: expected 1, or more"),
        ({"ranks": 65}, "ranks=65: expected 1, or more processes that share each batch of 64"),
    ],
)
def test_what_cannot_be_trained_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


def test_a_specification_holds_what_is_unusual_alone():
    # The fields that there were when the first cells were recorded, in every one.
    assert Recipe().in_spec() == {
        "epochs": 6,
        "batch_size": 64,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "label_smoothing": 0.1,
        "warmup": 0.25,
        "precision": "float32",
        "channels_last": True,
        "crop_padding": 2,
        "flip": True,
    }
    for named in RECIPES.values():
        spec = named.recipe.in_spec()
        assert Recipe(**spec) == named.recipe
        assert asdict(named.recipe).items() >= named.options.items()
        assert "optimizer" not in spec
        assert "ranks" not in spec


def test_a_recipe_is_named_whatever_it_is_computed_with():
    published = RECIPES["imagenet"].recipe
    assert recipe_name(replace(published, precision="float16", ranks=8, compile=True)) == "imagenet"
    assert recipe_name(RECIPES["imagenet-short"].recipe) == "imagenet-short"
    assert recipe_name(replace(published, epochs=90)) is None
    # The rule behind its rate.
    assert published.learning_rate == pytest.approx(0.1 * published.batch_size / 256)


@pytest.mark.parametrize(
    ("channels_last", "losses"),
    [
        (True, (3.6420590400695803, 5.027888822555542)),
        (False, (3.642059803009033, 5.0278888702392575)),
    ],
)
def test_trainings_are_those_of_the_first_release(channels_last, losses):
    # Taken before there were other recipes. Orders depend on the seed alone; weights on the
    # processor and the version of torch too, so that they are compared to rounding elsewhere.
    data = load_dataset("shapes", Request(train_images=80, test_images=40, image_size=16))
    cuts = (0.1, 0.5, 0.9)
    saliency = np.random.default_rng(1).random(data.train.images.shape[:3])
    levels = saliency_levels(saliency, cuts, np.arange(80))
    masking = Masking("roar", 0.5, cuts)
    view = InputView(data.train.images, data.mean, data.std, levels, masking)
    network = build_network("resnet9", 8, 0, size=(16, 16))
    recipe = Recipe(2, 32, channels_last=channels_last)
    training = train(network, view, data.train.labels, recipe, 3)
    assert training.order_hash == "dba6c5e4e2c6bb93"
    assert [entry["loss"] for entry in training.history] == pytest.approx(losses, rel=1e-3)
