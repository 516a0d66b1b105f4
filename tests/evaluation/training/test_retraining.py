"""Retraining: the inputs of a network, and the dependence of random draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.datasets.load import Request, load_dataset
from evaluation.masking.imputation import noisy_linear
from evaluation.masking.levels import FILLS, MODES, Masking, saliency_levels
from evaluation.masking.views import InputView
from evaluation.networks.build import build_network, state_hash
from evaluation.storage.records import pack_bits, unpack_bits
from evaluation.training.augmentation import crop_and_flip
from evaluation.training.retraining import Recipe, correctness, predictions, train

pytestmark = pytest.mark.training

CUTS = (0.1, 0.5, 0.9)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("shapes", Request(train_images=80, test_images=40, image_size=16))


def _levels(dataset, seed: int) -> np.ndarray:
    """Levels of a method whose maps are noise."""
    images = dataset.train.images
    saliency = np.random.default_rng(seed).random(images.shape[:3])
    return saliency_levels(saliency, CUTS, np.arange(len(images)))


def _masked(dataset, seed: int, mode="roar", fraction=0.5) -> InputView:
    return InputView(
        dataset.train.images,
        dataset.mean,
        dataset.std,
        _levels(dataset, seed),
        Masking(mode, fraction, CUTS),
    )


def _plain(dataset) -> InputView:
    return InputView(dataset.train.images, dataset.mean, dataset.std)


def _train(dataset, view, seed=0, **options):
    network = build_network("resnet9", 8, seed, size=(16, 16))
    recipe = Recipe(**({"epochs": 2, "batch_size": 32} | options))
    return network, train(network, view, dataset.train.labels, recipe, seed)


# What the network sees.


def test_pixels_are_normalised_one_by_one(dataset):
    indices = np.array([5, 0])
    seen = _plain(dataset)(indices)
    assert seen.shape == (2, 3, 16, 16)
    assert seen.dtype == torch.float32
    for row, index in enumerate(indices):
        for y, x, c in itertools.product((0, 7, 15), (0, 8, 15), range(3)):
            value = float(dataset.train.images[index, y, x, c]) / 255
            expected = (value - dataset.mean[c]) / dataset.std[c]
            assert float(seen[row, c, y, x]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fraction", CUTS)
def test_removed_pixels_are_exactly_the_training_mean(dataset, mode, fraction):
    view = _masked(dataset, 1, mode, fraction)
    indices = np.arange(20)
    seen, unmasked = view(indices), _plain(dataset)(indices)
    kept = torch.from_numpy(view.masking.kept(view.levels[indices]))[:, None].expand_as(seen)
    assert (seen[~kept] == 0).all()  # the mean, after normalisation
    assert torch.equal(seen[kept], unmasked[kept])
    # In the units of the image: back from normalised values, each channel's mean.
    mean, std = torch.tensor(dataset.mean), torch.tensor(dataset.std)
    pixels = (seen.permute(0, 2, 3, 1) * std + mean)[~kept.permute(0, 2, 3, 1)].reshape(-1, 3)
    assert torch.equal(pixels, mean.expand_as(pixels))


def test_the_share_removed_is_exact_in_every_image(dataset):
    view = _masked(dataset, 2, "roar", 0.1)
    images = np.full_like(dataset.train.images, 255)  # no pixel is at the mean by itself
    white = InputView(images, dataset.mean, dataset.std, view.levels, view.masking)
    removed = (white(np.arange(80)) == 0).all(1).sum((1, 2))
    assert removed.tolist() == [26] * 80  # 10 % of 256 pixels


def test_images_and_levels_are_not_edited(dataset):
    images, view = dataset.train.images.copy(), _masked(dataset, 3)
    levels = view.levels.copy()
    view(np.arange(10)).add_(1.0)
    InputView(images, dataset.mean, dataset.std)(np.arange(10)).add_(1.0)
    np.testing.assert_array_equal(view.images, images)
    np.testing.assert_array_equal(view.levels, levels)


def test_with_nothing_removed_the_masked_path_is_the_plain_one(dataset):
    nothing = np.full(dataset.train.images.shape[:3], len(CUTS), np.uint8)
    view = InputView(
        dataset.train.images, dataset.mean, dataset.std, nothing, Masking("roar", 0.5, CUTS)
    )
    assert torch.equal(view(np.arange(80)), _plain(dataset)(np.arange(80)))
    (_, masked), (_, plain) = _train(dataset, view), _train(dataset, _plain(dataset))
    assert masked.model_hash == plain.model_hash
    assert [e["loss"] for e in masked.history] == [e["loss"] for e in plain.history]


def test_a_mask_alone_shows_the_mask_and_no_pixel(dataset):
    masked = _masked(dataset, 4, "kar", 0.1)
    noise = np.random.default_rng(9).integers(0, 256, dataset.train.images.shape, dtype=np.uint8)
    for images in (dataset.train.images, noise):
        view = InputView(
            images, dataset.mean, dataset.std, masked.levels, masked.masking, mask_only=True
        )
        kept = masked.masking.kept(masked.levels[:6])
        for channel in range(3):
            expected = np.where(kept, 1.0, -1.0)
            np.testing.assert_array_equal(view(np.arange(6))[:, channel].numpy(), expected)


def test_levels_and_masking_belong_together(dataset):
    levels = _levels(dataset, 0)
    with pytest.raises(ValueError, match="levels and masking belong together"):
        InputView(dataset.train.images, dataset.mean, dataset.std, levels)
    with pytest.raises(ValueError, match="mask_only shows a mask"):
        InputView(dataset.train.images, dataset.mean, dataset.std, mask_only=True)


def _slow_crop_and_flip(image, top, left, flip, padding):
    channels, height, width = image.shape
    out = torch.zeros_like(image)
    for c, y, x in itertools.product(range(channels), range(height), range(width)):
        column = width - 1 - x if flip else x
        source_y, source_x = y + top - padding, column + left - padding
        if 0 <= source_y < height and 0 <= source_x < width:
            out[c, y, x] = image[c, source_y, source_x]
    return out


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crop_and_flip_against_a_loop_over_pixels(padding):
    rng = np.random.default_rng(padding)
    images = torch.from_numpy(rng.standard_normal((6, 3, 7, 9)).astype(np.float32))
    top, left = (rng.integers(0, 2 * padding + 1, 6) for _ in range(2))
    flip = np.array([True, False] * 3)
    expected = torch.stack(
        [
            _slow_crop_and_flip(*each, padding)
            for each in zip(images, top.tolist(), left.tolist(), flip.tolist(), strict=True)
        ]
    )
    draws = (torch.from_numpy(each) for each in (top, left, flip))
    assert torch.equal(crop_and_flip(images, *draws, padding), expected)


class _Recorder(nn.Module):
    """A network that keeps its training inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 8)
        self.shown: list[torch.Tensor] = []

    def forward(self, x):
        self.shown.append(x.detach().clone())
        return self.linear(x.mean((2, 3)))


def test_the_mask_moves_with_its_image(dataset):
    # Planted: every image is white but for its number, and its mask removes one marked row
    # and column. Wherever crop and flip take the image, the mark must be removed with it.
    images = np.zeros((32, 16, 16, 3), np.uint8)
    images[:, 8, 4] = 255
    levels = np.full((32, 16, 16), 1, np.uint8)
    levels[:, 8, 4] = 0
    cut = (1 / 256,)
    network = _Recorder()
    labels = np.arange(32) % 8
    grey = ((0.5,) * 3, (0.25,) * 3)
    for mode in MODES:
        network.shown.clear()
        view = InputView(images, *grey, levels, Masking(mode, cut[0], cut))
        train(network, view, labels, Recipe(epochs=4, batch_size=16), 0)
        shown = torch.cat(network.shown)
        assert len(shown) == 4 * 32
        if mode == "roar":  # the white pixel is gone from every crop, the black ones are there
            assert set(shown.unique().tolist()) == {-2.0, 0.0}
            holes = (shown[:, 0, 4:-4, 4:-4] == 0).sum((1, 2))
            assert (holes <= 1).all()
            assert holes.sum() > 0
        else:  # the white pixel alone is left, once in every image, at many places
            assert set(shown.unique().tolist()) == {0.0, 2.0}
            white = (shown[:, 0] == 2).nonzero()
            assert white[:, 0].tolist() == list(range(4 * 32))
            assert {tuple(place) for place in white[:, 1:].tolist()} > {(8, 4), (8, 11)}


def test_masked_training_sees_the_masked_unmasked_training_images(dataset):
    # Mask, then crop and flip: applying the same draw to both must agree pixel for pixel.
    shown = []
    for view in (_plain(dataset), _masked(dataset, 5)):
        network = _Recorder()
        train(network, view, dataset.train.labels, Recipe(epochs=1, batch_size=80), 3)
        shown.append(network.shown[0])
    plain, masked = shown
    assert ((masked == plain) | (masked == 0)).all()
    assert 0.4 < (masked == 0).all(1).float().mean() < 0.65


# What chance depends on.


def test_two_methods_at_one_seed_share_start_order_crops_and_flips(dataset):
    trainings = [_train(dataset, _masked(dataset, method), seed=4)[1] for method in (10, 11)]
    one, other = trainings
    assert one.init_hash == other.init_hash
    assert one.order_hash == other.order_hash
    assert one.model_hash != other.model_hash


def test_what_is_seen_in_which_order_depends_on_the_seed_alone(dataset):
    # The batches themselves, not the hash that is reported of them.
    def batches(seed: int, global_seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        network = _Recorder()
        train(network, _plain(dataset), dataset.train.labels, Recipe(epochs=2), seed)
        return torch.cat(network.shown)

    assert torch.equal(batches(0, 1), batches(0, 2))
    assert not torch.equal(batches(0, 1), batches(1, 1))


def test_every_image_is_seen_once_an_epoch_in_another_order():
    images = np.zeros((50, 4, 4, 3), np.uint8)
    images[:] = np.arange(50)[:, None, None, None]
    network = _Recorder()
    view = InputView(images, (0.0,) * 3, (1.0,) * 3)
    recipe = Recipe(epochs=3, batch_size=16, crop_padding=0)
    train(network, view, np.arange(50) % 8, recipe, 0)
    assert [len(batch) for batch in network.shown] == [16, 16, 16, 2] * 3
    numbers = (torch.cat(network.shown)[:, 0, 0, 0] * 255).round().int().tolist()
    epochs = [numbers[i : i + 50] for i in (0, 50, 100)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_half_of_the_images_are_flipped_and_all_offsets_occur():
    images = np.zeros((400, 5, 5, 3), np.uint8)
    images[:, 2, 1] = 255
    network = _Recorder()
    view = InputView(images, (0.0,) * 3, (1.0,) * 3)
    train(network, view, np.arange(400) % 8, Recipe(epochs=1, crop_padding=1), 0)
    places = (torch.cat(network.shown)[:, 0] > 0).nonzero()[:, 1:].tolist()
    counts = np.zeros((5, 5), int)
    for y, x in places:
        counts[y, x] += 1
    # Rows 1 to 3; columns 0 to 2, mirrored 2 to 4: where both meet, twice as many.
    expected = np.zeros((5, 5))
    expected[1:4] = 400 / 18 * np.array([1, 1, 2, 1, 1])
    assert (counts[expected == 0] == 0).all()
    assert np.abs(counts - expected).max() < 5 * np.sqrt(400 / 9)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_seed_twice_gives_the_same_bytes(dataset, precision):
    (first, one), (second, other) = (
        _train(dataset, _masked(dataset, 0), seed=2, precision=precision) for _ in range(2)
    )
    assert one.model_hash == other.model_hash == state_hash(first)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert [e["loss"] for e in one.history] == [e["loss"] for e in other.history]


def test_different_seeds_differ_in_everything(dataset):
    one, other = (_train(dataset, _masked(dataset, 0), seed=seed)[1] for seed in (0, 1))
    assert one.init_hash != other.init_hash
    assert one.order_hash != other.order_hash
    assert one.model_hash != other.model_hash


def test_dropout_follows_the_seed(dataset):
    def weights(seed: int) -> str:
        torch.manual_seed(123 + seed)
        network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(768, 8))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(0.01)
        view, recipe = _plain(dataset), Recipe(epochs=1, flip=False, crop_padding=0, batch_size=80)
        return train(network, view, dataset.train.labels, recipe, seed).model_hash

    # One batch of all images in any order: what is left to differ is the dropout.
    assert weights(0) == weights(0) != weights(1)


def test_the_global_generator_is_left_as_it_was(dataset):
    network = _Recorder()
    before = torch.random.get_rng_state()
    train(network, _plain(dataset), dataset.train.labels, Recipe(epochs=1), 0)
    assert torch.equal(torch.random.get_rng_state(), before)


# What comes out.


def test_weights_are_those_of_a_plain_loop(dataset):
    """The recipe, written out: SGD with Nesterov momentum by its equations."""
    recipe = Recipe(epochs=4, batch_size=40, crop_padding=0, flip=False, label_smoothing=0.1)
    torch.manual_seed(0)
    network, reference = (nn.Sequential(nn.Flatten(), nn.Linear(768, 8)) for _ in range(2))
    reference.load_state_dict(network.state_dict())
    shown = _Recorder()
    train(shown, _plain(dataset), dataset.train.labels, recipe, 0)
    train(network, _plain(dataset), dataset.train.labels, recipe, 0)
    known = _plain(dataset)(np.arange(80)).flatten(1)
    labels = torch.from_numpy(dataset.train.labels)
    velocity = {name: torch.zeros_like(p) for name, p in reference.named_parameters()}
    for step, batch in enumerate(shown.shown):
        indices = torch.cdist(batch.flatten(1), known).argmin(1)
        logs = torch.log_softmax(reference(batch), 1)
        target = torch.full_like(logs, 0.1 / 8)
        target[torch.arange(len(batch)), labels[indices]] += 0.9
        reference.zero_grad()
        (-(target * logs).sum(1).mean()).backward()
        rate = _one_cycle(step, 8, recipe.learning_rate, recipe.warmup)
        with torch.no_grad():
            for name, weight in reference.named_parameters():
                gradient = weight.grad + recipe.weight_decay * weight
                velocity[name] = recipe.momentum * velocity[name] + gradient
                weight -= rate * (gradient + recipe.momentum * velocity[name])
    for name, weight in reference.named_parameters():
        trained = dict(network.named_parameters())[name]
        torch.testing.assert_close(trained, weight, rtol=1e-4, atol=1e-5)


def _one_cycle(step: int, steps: int, peak: float, warmup: float) -> float:
    """Smith's one cycle with cosines: from peak / 25 up, then down to peak / 25 / 1e4."""
    up = warmup * steps - 1
    low, end = peak / 25, peak / 25 / 1e4
    if up > 0 and step <= up:
        share, first, last = step / up, low, peak
    else:
        share, first, last = (step - up) / (steps - 1 - up), peak, end
    return last + (first - last) / 2 * (1 + np.cos(np.pi * share))


def test_the_last_epoch_is_kept(dataset):
    # Weights after three epochs, whichever epoch was best; the schedule is over all of them.
    epochs = []
    network = build_network("resnet9", 8, 0, size=(16, 16))
    states = []

    def on_epoch(epoch: int, loss: float) -> None:
        epochs.append((epoch, loss))
        states.append(state_hash(network))

    recipe = Recipe(epochs=3, batch_size=32)
    training = train(network, _plain(dataset), dataset.train.labels, recipe, 0, on_epoch=on_epoch)
    assert [entry["epoch"] for entry in training.history] == [1, 2, 3]
    assert epochs == [(entry["epoch"], entry["loss"]) for entry in training.history]
    assert len(set(states)) == 3
    assert training.model_hash == states[-1] == state_hash(network)


def test_history_counts_right_answers_in_training():
    # A network that always answers class 0, on images of which a quarter is.
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.scale * torch.tensor([5.0, 0, 0, 0]).expand(len(x), 4)

    view = InputView(np.zeros((40, 4, 4, 3), np.uint8), (0.0,) * 3, (1.0,) * 3)
    recipe = Recipe(epochs=1, learning_rate=1e-9, label_smoothing=0.0)
    training = train(Fixed(), view, np.arange(40) % 4, recipe, 0)
    assert training.history[0]["accuracy"] == 0.25
    # Cross-entropy by hand: log(e^5 + 3) minus the logit of the label.
    expected = np.log(np.exp(5) + 3) - 5 / 4
    assert training.history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_correctness_is_in_the_order_of_the_images_and_adds_up(dataset):
    network, _ = _train(dataset, _plain(dataset), epochs=3)
    view = InputView(dataset.test.images, dataset.mean, dataset.std)
    correct = correctness(network, view, dataset.test.labels)
    one_by_one = [
        int(network(view(np.array([i]))).argmax()) == dataset.test.labels[i] for i in range(40)
    ]
    assert correct.tolist() == one_by_one
    assert not network.training
    bits = unpack_bits(pack_bits(correct), len(correct))
    np.testing.assert_array_equal(bits, correct)
    assert bits.mean() == sum(one_by_one) / 40


def test_predictions_do_not_depend_on_the_other_images_of_a_batch(dataset):
    network, _ = _train(dataset, _plain(dataset))
    whole = predictions(network, _plain(dataset))
    part = InputView(dataset.train.images[10:30], dataset.mean, dataset.std)
    np.testing.assert_array_equal(predictions(network, part), whole[10:30])


def test_a_loss_that_is_not_a_number_names_the_epoch(dataset):
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) after epoch 1 .*1e\+15"):
        _train(dataset, _plain(dataset), learning_rate=1e15)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_a_few_steps_are_enough(dataset, steps):
    view = InputView(dataset.train.images[:20], dataset.mean, dataset.std)
    network = build_network("resnet9", 8, 0, size=(16, 16))
    training = train(network, view, dataset.train.labels[:20], Recipe(epochs=steps), 0)
    assert len(training.history) == steps
    assert training.init_hash != training.model_hash


def test_auxiliary_heads_are_left_out(dataset):
    class Auxiliary(_Recorder):
        def forward(self, x):
            main = super().forward(x)
            return (main, main * 0 + 1e9) if self.training else main

    plain, auxiliary = _Recorder(), Auxiliary()
    auxiliary.load_state_dict(plain.state_dict())
    recipe = Recipe(epochs=1)
    hashes = {
        train(network, _plain(dataset), dataset.train.labels, recipe, 0).model_hash
        for network in (plain, auxiliary)
    }
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0, batch_size=64: expected at least 1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": 0.0}, "learning_rate=0: expected more than 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan: expected more than 0"),
        (
            {"precision": "float8"},
            "precision 'float8': expected 'float32', 'bfloat16' or 'float16'",
        ),
    ],
)
def test_recipes_that_cannot_be_trained_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


def test_a_filled_view_shows_what_noisy_linear_makes_of_each_image(dataset):
    rng = np.random.default_rng(3)
    levels = saliency_levels(rng.random((40, 16, 16)), CUTS, np.arange(40))
    masking = Masking("kar", 0.5, CUTS, "noisy-linear")
    view = InputView(dataset.test.images, dataset.mean, dataset.std, levels, masking)
    with pytest.raises(ValueError, match=r"fill noisy-linear is made once: call filled\(\)"):
        view(np.array([0]))
    chosen = np.array([39, 2])
    images = noisy_linear(dataset.test.images[chosen], masking.kept(levels)[chosen], 80 + chosen)
    expected = (images / 255 - np.array(dataset.mean)) / np.array(dataset.std)
    shown = view.filled(80)(chosen).permute(0, 2, 3, 1).numpy()
    # Within the rounding of half precision, of 255 at most.
    np.testing.assert_allclose(shown, expected, atol=0.13 / 255 / min(dataset.std))


def test_masks_alone_do_not_depend_on_the_fill(dataset):
    levels = saliency_levels(np.random.default_rng(3).random((40, 16, 16)), CUTS, np.arange(40))
    shown = [
        InputView(
            dataset.test.images,
            dataset.mean,
            dataset.std,
            levels,
            Masking("roar", 0.5, CUTS, fill),
            mask_only=True,
        ).filled(80)(np.arange(40))
        for fill in FILLS
    ]
    assert torch.equal(*shown)


def test_each_channel_of_a_pixel_can_have_a_mask_of_its_own(dataset):
    saliency = np.random.default_rng(3).random((40, 16, 16, 3))
    levels = saliency_levels(saliency.reshape(40, 16, 48), CUTS, np.arange(40))
    view = InputView(
        dataset.test.images, dataset.mean, dataset.std, levels, Masking("roar", 0.5, CUTS)
    )
    plain = InputView(dataset.test.images, dataset.mean, dataset.std)(np.arange(40))
    # Half of the 768 elements of an image, by a sort that knows nothing of levels.
    cut = np.sort(saliency.reshape(40, -1), axis=1)[:, 384, None, None, None]
    kept = torch.from_numpy(saliency < cut).permute(0, 3, 1, 2)
    torch.testing.assert_close(view(np.arange(40)), plain * kept, rtol=0, atol=0)
    assert kept.sum((1, 2, 3)).tolist() == [384] * 40
