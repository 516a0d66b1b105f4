"""F-Fidelity against a slow rewrite, a closed form, and a network that reads one known patch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluation.metrics.fidelity import FidelityOptions, bounded_removals, fidelity
from evaluation.metrics.perturbation import with_channel_mean

SIZE, PIXELS, N = (6, 5), 30, 4
INDICES = np.array([7, 3, 11, 0])
OPTIONS = FidelityOptions(sizes=(0.1, 0.5, 0.8), alpha=0.5, beta=0.2, draws=3)


def _ranked(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(PIXELS) for _ in range(N)])


def _network(seed: int):
    weight = torch.randn(3, PIXELS, generator=torch.Generator().manual_seed(seed))
    return lambda x: x.flatten(1) @ weight.T


def test_removals_have_the_bounded_number_of_pixels_of_their_own_part():
    ranked = _ranked(0)
    removals = list(bounded_removals(ranked, INDICES, OPTIONS))
    assert len(removals) == OPTIONS.draws * len(OPTIONS.sizes)
    for step, (salient, rest) in enumerate(removals):
        size = OPTIONS.sizes[step % 3]
        for part, kept in ((size, salient), (1 - size, rest)):
            expected = int(min(0.5 * part, 0.2) * PIXELS + 0.5)
            assert ((~kept).sum(1) == expected).all()
        cut = int(size * PIXELS + 0.5)
        for row in range(N):
            assert set(np.flatnonzero(~salient[row])) <= set(ranked[row, :cut])
            assert set(np.flatnonzero(~rest[row])) <= set(ranked[row, cut:])


def test_every_method_loses_the_same_ranks_and_an_image_its_own_in_any_batch():
    first, second = _ranked(1), _ranked(2)
    pairs = zip(
        bounded_removals(first, INDICES, OPTIONS),
        bounded_removals(second, INDICES, OPTIONS),
        bounded_removals(first[2:3], INDICES[2:3], OPTIONS),
        strict=True,
    )
    drawn = set()
    for one, other, alone in pairs:
        for a, b, c in zip(one, other, alone, strict=True):
            ranks = np.take_along_axis(a, first, 1)
            np.testing.assert_array_equal(ranks, np.take_along_axis(b, second, 1))
            np.testing.assert_array_equal(a[2:3], c)
            drawn.add(ranks.tobytes())
    assert len(drawn) > OPTIONS.draws  # the draws differ


def test_drops_are_those_of_a_slow_rewrite():
    ranked, network = _ranked(3), _network(0)
    inputs = torch.randn(N, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    target, labels = torch.tensor([0, 1, 2, 1]), np.array([0, 2, 2, 1])
    plus, minus = fidelity(
        network, with_channel_mean(inputs), target, labels, ranked, SIZE, INDICES, OPTIONS
    )
    for row in range(N):
        image = inputs[row].flatten()
        whole = network(image[None]).softmax(1)[0]
        drops = {0: [], 1: []}
        right = {0: [], 1: []}
        for parts in bounded_removals(ranked, INDICES, OPTIONS):
            for part, kept in enumerate(parts):
                holed = torch.where(torch.from_numpy(kept[row]), image, torch.tensor(0.0))
                answer = network(holed[None]).softmax(1)[0]
                drops[part].append(float(whole[target[row]] - answer[target[row]]))
                right[part].append(
                    int(whole.argmax() == labels[row]) - int(answer.argmax() == labels[row])
                )
        for part, found in enumerate((plus, minus)):
            assert found.probability[row] == pytest.approx(np.mean(drops[part]), abs=1e-6)
            assert found.accuracy[row] == pytest.approx(np.mean(right[part]))


def test_without_true_classes_the_probability_is_measured_alone():
    found = fidelity(
        _network(0),
        with_channel_mean(torch.randn(N, 1, *SIZE)),
        torch.zeros(N, dtype=torch.int64),
        None,
        _ranked(0),
        SIZE,
        INDICES,
        OPTIONS,
    )
    assert [drops.accuracy for drops in found] == [None, None]
    assert all(drops.probability.shape == (N,) for drops in found)


def test_a_network_of_a_mean_has_the_drop_of_the_removed_share():
    """Planted truth: the logit is linear in pixels of 1 within the patch that it reads."""
    patch = np.zeros(SIZE, bool)
    patch[1:4, 1:3] = True
    reads = torch.from_numpy(patch).flatten().float()

    def network(x):
        seen = (x.flatten(1) @ reads) / 6
        # The softmax of (log p, log(1 - p)) is p: the probability is the share still there.
        share = seen.clamp(1e-6, 1 - 1e-6)
        return torch.stack([share.log(), (1 - share).log()], 1)

    perturb = with_channel_mean(torch.ones(N, 1, *SIZE))
    target = torch.zeros(N, dtype=torch.int64)
    options = FidelityOptions(sizes=(0.2,), alpha=0.5, beta=0.1, draws=400)
    rng = np.random.default_rng(0)

    def drops(maps):
        ranked = np.argsort(-(maps.reshape(N, -1) + 1e-3 * rng.random((N, PIXELS))), axis=1)
        return fidelity(network, perturb, target, None, ranked, SIZE, INDICES, options)

    plus, minus = drops(np.broadcast_to(patch, (N, *SIZE)).astype(float))
    # The six most salient are the patch: three of them go; of the rest, none of the patch.
    np.testing.assert_allclose(plus.probability, 0.5, atol=1e-5)
    np.testing.assert_allclose(minus.probability, 0.0, atol=1e-5)
    random_plus, random_minus = drops(rng.random((N, *SIZE)))
    assert random_plus.probability.mean() < 0.3
    assert random_minus.probability.mean() > 0.03


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (0.0,)}, "share 0 of F-Fidelity"),
        ({"beta": 1.0}, "share 1 of F-Fidelity"),
        ({"draws": 0}, "without a size or a draw"),
    ],
)
def test_shares_that_remove_nothing_or_all_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FidelityOptions(**options)
