"""Options of a plan: declared once, they are those of every command that asks for them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import typer
import typer.testing

from comparisons.cli.plan_options import PlanOptions, with_plan_options
from comparisons.cli.recipe_options import as_augmentation
from comparisons.plans.plan import Plan, PlanError
from evaluation.training.recipe import RECIPES, Recipe


@pytest.fixture
def typed():
    """What a command with one option of its own gets for what was typed."""
    seen: list[tuple[PlanOptions, int]] = []
    app = typer.Typer()

    @app.command()
    @with_plan_options
    def sketch(options: PlanOptions, width: int = 3) -> None:
        """Sketch a plan."""
        seen.append((options, width))

    def call(*arguments: str) -> tuple[PlanOptions, int]:
        result = typer.testing.CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return seen[-1]

    return call


def test_what_was_typed_is_told_from_defaults(typed):
    options, width = typed(
        "--preset", "quick", "--mask-only", "none", "--width", "5", "--recursive"
    )
    # A default that is typed counts as typed; the command's own option does not.
    assert options.stated == ("--mask-only", "--recursive", "--preset")
    assert width == 5
    assert typed()[0].stated == ()
    assert options.plan("cpu").mask_only == ()


def test_a_named_recipe_is_taken_but_for_what_was_typed(typed):
    named = typed("--recipe", "imagenet")[0].plan("cpu").recipe
    assert replace(named, precision="float32") == RECIPES["imagenet"].recipe
    changed = typed("--recipe", "imagenet", "--epochs", "90", "--weight-decay", "0.001")[0]
    assert changed.plan("cpu").recipe == replace(named, epochs=90, weight_decay=0.001)
    # A recipe that says its precision keeps it, whatever the machine is fast at.
    assert typed("--recipe", "imagenet-short")[0].plan("cpu").recipe.precision == "bfloat16"
    # Milestones belong to the schedule that was replaced.
    cosine = typed("--recipe", "imagenet", "--schedule", "cosine")[0].plan("cpu").recipe
    assert (cosine.schedule, cosine.milestones) == ("cosine", ())


def test_every_part_of_a_recipe_can_be_typed(typed):
    recipe = typed(
        *("--optimizer", "adamw", "--schedule", "step", "--milestones", "0.5,5"),
        *("--warmup", "0.1", "--weight-decay", "0.05", "--label-smoothing", "0"),
        *("--augment", "resized-crop:0.3", "--compile", "--no-channels-last"),
        *("--epochs", "8", "--learning-rate", "0.001", "--batch-size", "48"),
        *("--precision", "float16"),
    )[0].plan("cpu")
    assert recipe.recipe == Recipe(
        epochs=8,
        batch_size=48,
        learning_rate=0.001,
        weight_decay=0.05,
        label_smoothing=0.0,
        warmup=0.1,
        precision="float16",
        channels_last=False,
        crop_padding=0,
        flip=False,
        optimizer="adamw",
        schedule="step",
        milestones=(0.5, 5.0),
        compile=True,
        resized_crop=0.3,
    )


def test_without_a_word_on_training_the_preset_s_recipe_holds(typed):
    usual = Recipe(epochs=4, batch_size=32, learning_rate=0.02, precision="float32")
    assert typed("--precision", "float32")[0].plan("cpu").recipe == usual


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("none", (0, 0.0, False)),
        ("flip", (0, 0.0, True)),
        ("crop:4, flip", (4, 0.0, True)),
        ("resized-crop:0.08,flip", (0, 0.08, True)),
    ],
)
def test_augmentation_by_words(words, fields):
    found = as_augmentation(words)
    assert (found["crop_padding"], found["resized_crop"], found["flip"]) == fields


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recipe", "cifar"), "unknown recipe 'cifar': expected imagenet or imagenet-short"),
        (("--milestones", "a,b"), "--milestones 'a,b': expected numbers"),
        (("--augment", "rotate"), "--augment 'rotate': expected none, or some of flip"),
        (("--augment", "crop"), "--augment 'crop': expected none"),
        (("--augment", "crop:x"), "--augment 'crop:x': expected none"),
        (("--schedule", "step"), "the schedule 'step' needs some"),
    ],
)
def test_words_that_mean_no_recipe_are_named(typed, arguments, message):
    with pytest.raises(ValueError, match=message):
        typed(*arguments)[0].plan("cpu")


def test_given_weights_leave_out_what_needs_a_network_trained_here(typed, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"")
    usual = typed()[0].plan("cpu").measures
    given = typed("--weights", str(path), "--weights-expect", "data")[0].plan("cpu")
    assert set(usual) - set(given.measures) == {"labels", "f-fidelity", "idsds"}
    assert (given.weights, given.weights_expect) == (str(path), "data")
    with pytest.raises(PlanError, match="measure 'labels' compares the network with one trained"):
        typed("--weights", str(path), "--measures", "labels")[0].plan("cpu")


def test_a_file_s_normalisation(typed, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"")
    both = ("--weights-mean", "0.5,0.4,0.3", "--weights-std", "0.2,0.2,0.1")
    given = typed("--weights", str(path), *both)[0].plan("cpu")
    assert given.given_weights.normalisation == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert given.given_weights.in_spec()["normalisation"] == [[0.5, 0.4, 0.3], [0.2, 0.2, 0.1]]
    assert Plan.from_json(json.loads(json.dumps(given.to_json()))) == given
    # A plan from before there was the option.
    usual = typed("--weights", str(path))[0].plan("cpu")
    assert "weights_normalisation" not in usual.to_json()
    assert Plan.from_json(usual.to_json()) == usual
    assert given.conflicts(usual) == ["weights_normalisation"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weights-mean", "0.5,0.5,0.5"), "belong together: give both"),
        (("--weights-mean", "0.5", "--weights-std", "1,1,1"), "--weights-mean '0.5': expected thr"),
        (("--weights-mean", "0,0,0", "--weights-std", "1,1,1"), "are of a file: give it as --w"),
    ],
)
def test_a_normalisation_that_cannot_be_is_named(typed, arguments, message):
    with pytest.raises(ValueError, match=message):
        typed(*arguments)[0].plan("cpu")


def test_no_modes_leave_retraining_out(typed):
    plan = typed("--modes", "none", "--measures", "road")[0].plan("cpu")
    assert (plan.modes, plan.mask_only, plan.measures) == ((), (), ("road",))
    assert plan.weights is None  # the network to explain is trained here


def test_the_preset_of_published_networks_trains_nothing(typed):
    plan = typed("--preset", "published")[0].plan("cpu")
    assert (plan.modes, plan.weights) == ((), "torchvision:DEFAULT")
    assert plan.measures == ("insertion-deletion", "road")
    assert plan.takes_own_classes
    assert plan.outputs(10) is None
    changed = typed(
        *("--preset", "published", "--measures", "descriptions", "--measure-steps", "10"),
        *("--modes", "kar", "--passes-in", "onnxruntime"),
    )[0].plan("cpu")
    assert (changed.measures, changed.measure_steps) == (("descriptions",), 10)
    assert (changed.modes, changed.passes_in) == (("kar",), "onnxruntime")
    assert not changed.takes_own_classes
    assert changed.outputs(10) == 10
