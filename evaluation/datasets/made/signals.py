"""The embedded set ``signals``: four waveforms in noise, made from a seed.

The one-dimensional sibling of ``shapes``: no download, and the samples of the event are known. The
class names the waveform alone. Its place, length, strength and phase, its share in each channel,
the noise, the wander of the baseline and the distractors (bursts of one frequency) are drawn from
one distribution for all classes. Events lie towards either end, not in the middle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from evaluation.datasets.dataset import Split
from evaluation.datasets.made.scenes import (
    band_limited,
    checked_counts,
    in_bytes,
    made_split,
    stream,
)

__all__ = ["CLASSES", "draw_signal", "make_signals"]

Float = NDArray[np.float64]
LEAST_SIZE = 128
CHANNELS = 2

# The length of an event and of a distractor, as a share of the signal.
_LENGTH = (0.14, 0.22)
_BURST = (0.05, 0.1)
_DISTRACTORS = 2
# Distance of an event from the middle, as a share of that to the end.
_OFF_CENTRE = (0.5, 1.0)
# In 8-bit levels: the event's amplitude, the wander of the baseline, the grain.
_AMPLITUDE = (35.0, 60.0)
_WANDER = (4.0, 16.0)
_GRAIN = 8.0
_NODES = 8
# Cycles of an event, at its mean frequency.
_CYCLES = (6.0, 8.0)
_SWEEP = 0.7


def _rising(at: Float, cycles: float) -> Float:
    wave: Float = np.sin(2 * np.pi * cycles * (at * (1 - _SWEEP) + _SWEEP * at**2))
    return wave


def _falling(at: Float, cycles: float) -> Float:
    return _rising(1 - at, cycles)


def _square(at: Float, cycles: float) -> Float:
    # Of the power of a sine.
    wave: Float = np.sign(np.sin(2 * np.pi * cycles * at)) / np.sqrt(2)
    return wave


def _beating(at: Float, cycles: float) -> Float:
    wave: Float = np.sin(2 * np.pi * cycles * at) * np.sqrt(2) * np.sin(4 * np.pi * at)
    return wave


# From the place in the event, 0 to 1, and a number of cycles to a waveform of power 1/2.
WAVEFORMS: dict[str, Callable[[Float, float], Float]] = {
    "rising": _rising,
    "falling": _falling,
    "square": _square,
    "beating": _beating,
}
CLASSES: tuple[str, ...] = tuple(WAVEFORMS)


def make_signals(
    *, train: int = 2000, test: int = 500, size: int = 256, seed: int = 0
) -> tuple[Split, Split]:
    """Draw the training and test split of the set ``signals``.

    Signal i of a split depends on (`seed`, split, i, `size`) alone. Its label is i modulo 4.

    Args:
        train: number of training signals, at least 0.
        test: number of test signals, at least 0.
        size: samples of a signal, at least 128.
        seed: any integer from 0.

    Returns:
        Two splits: images ``(N, size, 2)`` uint8, object masks ``(N, size)``.

    Raises:
        ValueError: a number is below its least value.
        TypeError: a number is not an integer.

    >>> train, test = make_signals(train=4, test=2)
    >>> train.images.shape, test.object_masks.shape, CLASSES[test.labels[1]]
    ((4, 256, 2), (2, 256), 'falling')
    """
    checked_counts("make_signals", LEAST_SIZE, train=train, test=test, size=size, seed=seed)
    draw, shape = partial(draw_signal, size=size, seed=seed), (size, CHANNELS)
    return (
        made_split(partial(draw, "train"), train, shape, len(CLASSES)),
        made_split(partial(draw, "test"), test, shape, len(CLASSES)),
    )


def draw_signal(
    split: str, index: int, *, size: int, seed: int, with_object: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw one signal, and the samples of its event.

    Args:
        split: ``"train"`` or ``"test"``.
        index: its number.
        size: samples of the signal.
        seed: any integer from 0.
        with_object: False for the same signal without its event.

    Returns:
        ``(size, 2)`` uint8, and ``(size,)`` bool.
    """
    draws = stream(seed, split, index)
    wander = draws.uniform(*_WANDER)
    signal = 128 + wander * np.stack(
        [band_limited(draws, (size,), _NODES) for _ in range(CHANNELS)], axis=1
    )
    amplitude = draws.uniform(*_AMPLITUDE)
    for _ in range(_DISTRACTORS):
        length = draws.uniform(*_BURST) * size
        centre = draws.uniform(0, size)
        inside, at = _inside(centre, length, size)
        cycles = draws.uniform(*_CYCLES) * length / (sum(_LENGTH) / 2 * size)
        burst = np.sin(2 * np.pi * (cycles * at + draws.random())) * inside
        signal = signal + amplitude * burst[:, None] * _shares(draws)
    length = draws.uniform(*_LENGTH) * size
    room = (size - length) / 2 - 1
    side = -1 if draws.random() < 0.5 else 1
    centre = size / 2 + side * room * draws.uniform(*_OFF_CENTRE)
    mask, at = _inside(centre, length, size)
    wave = WAVEFORMS[CLASSES[index % len(CLASSES)]](at, draws.uniform(*_CYCLES)) * mask
    event = amplitude * wave[:, None] * _shares(draws)
    if with_object:
        signal = signal + event
    return in_bytes(signal + _GRAIN * draws.standard_normal(signal.shape)), mask


def _inside(centre: float, length: float, size: int) -> tuple[NDArray[np.bool_], Float]:
    """The samples of a stretch, and the place of each sample in it, 0 to 1."""
    at = (np.arange(size) + 0.5 - centre) / length + 0.5
    return (at >= 0) & (at <= 1), np.clip(at, 0, 1)


def _shares(draws: np.random.Generator) -> Float:
    """The share of a waveform in each channel, the larger of them 1."""
    shares = draws.uniform(0.3, 1.0, CHANNELS) * np.where(draws.random(CHANNELS) < 0.5, -1, 1)
    found: Float = shares / np.abs(shares).max()
    return found
