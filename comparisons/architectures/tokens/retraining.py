"""ROAR of tensors of tokens: small networks trained again without what their maps rank highest."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from comparisons.architectures.explainers import Maps, explainers
from comparisons.architectures.networks import ARCHITECTURES, build
from comparisons.architectures.tokens.tensors import HIERARCHIES, NOT_CENTRED, ROLLOUT
from comparisons.architectures.training import images, trained, unfinished
from comparisons.methods.examples import example_batch
from evaluation.masking.levels import Masking, check_fractions, saliency_levels
from evaluation.masking.views import InputView
from evaluation.storage.hashes import content_hash, spec_id
from evaluation.training.retraining import correctness, predictions, train
from fastsal.files import written_whole

__all__ = ["RETRAINED", "TOKENS", "UNMASKED", "Retrained", "read_retrained", "retrain"]

# The networks whose tensors are told apart.
TOKENS = ("vit", "mixer", *HIERARCHIES)

UNMASKED = "unmasked"
# The tensors that are told apart, and what they have to beat.
RETRAINED = (
    *("random", "centre", "block depths", "hidden depths", "values depths"),
    *(ROLLOUT, "gradcam", NOT_CENTRED),
)
_EXPLAINED_TOGETHER = 250

Levels = dict[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class Retrained:
    """One training without the most salient pixels, and the test images that it classifies.

    Attributes:
        network: A key of `comparisons.architectures.networks.ARCHITECTURES`.
        method: One of `RETRAINED`, or `UNMASKED`.
        fraction: The share of the pixels that is removed.
        seed: Of the training; maps are those of the network of seed 0.
        right: A digit for each test image: 1 if it is classified correctly, else 0.
    """

    network: str
    method: str
    fraction: float
    seed: int
    right: str

    @property
    def correct(self) -> NDArray[np.float64]:
        """1 for each test image that is classified correctly, else 0: `(N,)`.

        >>> Retrained("vit", "random", 0.5, 0, "101").correct.tolist()
        [1.0, 0.0, 1.0]
        """
        return np.array([digit == "1" for digit in self.right], dtype=np.float64)

    def line(self) -> str:
        """Return the training as a line of JSON."""
        return json.dumps(asdict(self)) + "\n"


def read_retrained(path: Path) -> list[Retrained]:
    """Return the trainings in a file of JSON lines; none if there is no such file."""
    if not path.exists():
        return []
    return [Retrained(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def retrain(
    name: str, seed: int, fractions: Sequence[float], folder: Path, say: Callable[[str], object]
) -> None:
    """Train a network once for each fraction and method, and write roar.jsonl.

    Args:
        name: A key of `comparisons.architectures.networks.ARCHITECTURES`.
        seed: Of the trainings.
        fractions: Shares of the pixels that are removed, in the order in which they are trained.
        folder: Of weights and roar.jsonl; a training that is in it is not made again.
        say: Called with a line after each training.

    Raises:
        ValueError: If a fraction is not in (0, 1), or is there twice.
    """
    cuts = check_fractions(fractions)
    path = folder / "roar.jsonl"
    done = read_retrained(path)
    network, _ = trained(name, 0, folder, say)
    maps = explainers(name, network)
    wanted = [(UNMASKED, 0.0)]
    wanted += [(method, one) for one in fractions for method in RETRAINED if method in maps]
    data = images()
    targets = {
        split: predictions(network, InputView(part.images, data.mean, data.std))
        for split, part in (("train", data.train), ("test", data.test))
    }
    network.eval()
    levels: dict[str, Levels] = {}
    for method, fraction in wanted:
        if any((name, method, fraction, seed) == _place(one) for one in done):
            continue
        masking = None
        if method != UNMASKED:
            masking = Masking("roar", fraction, cuts)
            if method not in levels:
                levels[method] = _levels(maps[method], targets, cuts)
        right = _trained_again(name, seed, masking, levels.get(method), folder, say)
        digits = "".join("1" if one else "0" for one in right)
        done.append(Retrained(name, method, fraction, seed, digits))
        with written_whole(path) as partial:
            partial.write_text("".join(one.line() for one in done), encoding="utf-8")
        say(f"{name}, seed {seed}: {method} at {100 * fraction:g} %, accuracy {right.mean():.1%}")


def _place(one: Retrained) -> tuple[str, str, float, int]:
    return one.network, one.method, one.fraction, one.seed


def _levels(
    maps: Maps, targets: Mapping[str, NDArray[np.int64]], cuts: tuple[float, ...]
) -> Levels:
    """Return the levels of a method's maps of all images, by split."""
    data, found = images(), {}
    for split, classes in targets.items():
        parts = []
        for start in range(0, len(classes), _EXPLAINED_TOGETHER):
            indices = np.arange(start, min(start + _EXPLAINED_TOGETHER, len(classes)))
            saliency = maps(example_batch(data, split, classes, indices))
            parts.append(saliency_levels(saliency, cuts, indices))
        found[split] = np.concatenate(parts)
    return found


def _trained_again(
    name: str,
    seed: int,
    masking: Masking | None,
    levels: Levels | None,
    folder: Path,
    say: Callable[[str], object],
) -> NDArray[np.bool_]:
    """Return which test images a network classifies that was trained on masked images."""
    data = images()
    labels = np.asarray(data.test.labels)
    if masking is None or levels is None:
        network, _ = trained(name, seed, folder, say)
        return correctness(network, InputView(data.test.images, data.mean, data.std), labels)
    shown, tested = (
        InputView(part.images, data.mean, data.std, levels[split], masking)
        for split, part in (("train", data.train), ("test", data.test))
    )
    network = build(name, len(data.classes), seed)
    removed = spec_id({"masking": repr(masking), "levels": content_hash(levels["train"])})
    checkpoint = unfinished(name, seed, folder, say, removed)
    recipe = ARCHITECTURES[name].recipe
    seen = np.asarray(data.train.labels)
    train(network, shown, seen, recipe, seed, checkpoint=checkpoint)
    correct = correctness(network, tested, labels)
    checkpoint.remove()
    return correct
