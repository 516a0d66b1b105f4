"""Saliency maps of a video, frame by frame, with optional smoothing over time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from fastsal.attribution.smoe_scale import SMOEScale
from fastsal.maps.result import Maps


def maps(
    frames: Iterable[Tensor], attributor: SMOEScale, *, smoothing: float = 0.0, at_once: int = 1
) -> Iterator[Maps]:
    r"""Yield the maps of a video's frames in their order, each as soon as it is computed.

    $$M_0 = S_0, \qquad M_t = a\, M_{t-1} + (1 - a)\, S_t$$

    with `S` the maps of a frame, of each scale and combined, `M` the maps that are yielded and `a`
    the smoothing. This is an exponential average: a frame's weight halves every `ln 2 / -ln a`
    frames (three for 0.8). The paper has no video.

    Args:
        frames: `(C, H, W)` each, as the network takes images, all of one size.
        attributor: Computes the maps; `normalize_over="image"` keeps frames independent.
        smoothing: `a`, in [0, 1); 0 does not smooth.
        at_once: The number of frames that go through the network together; the maps are the same.

    Yields:
        The `Maps` of each frame, a batch of one image.

    Raises:
        ValueError: If smoothing is not in [0, 1), `at_once` is below 1, or a frame has another
            shape than those before.

    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
    ...     torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.ReLU(),
    ... )
    >>> frames = (torch.rand(3, 8, 8) for _ in range(5))
    >>> [tuple(one.combined.shape) for one in maps(frames, SMOEScale(net), smoothing=0.8)][-1]
    (1, 8, 8)
    """
    smoother = Smoother(smoothing)
    if at_once < 1:
        raise ValueError(f"at_once is how many frames go through together, got {at_once}")
    waiting = iter(frames)
    shape = None
    number = 0
    while together := list(islice(waiting, at_once)):
        for frame in together:
            shape = frame.shape if shape is None else shape
            if frame.shape != shape or frame.dim() != 3:
                raise ValueError(
                    f"frame {number} has shape {tuple(frame.shape)}, expected (C, H, W) as all "
                    f"others, {tuple(shape)}; resize the frames to one size"
                )
            number += 1
        found = attributor.maps(torch.stack(together))
        for index in range(len(together)):
            yield smoother.maps(_frame(found, index))


def _frame(found: Maps, index: int) -> Maps:
    logits = found.logits
    one = slice(index, index + 1)
    scales, per_scale = [], []
    for scale, maps_of in zip(found.scales, found.per_scale, strict=True):
        placement = scale.placement
        blocks = 1 if placement is None else placement.blocks
        own = None if placement is None else placement.of_image(index)
        scales.append(replace(scale, placement=own))
        per_scale.append(maps_of[index * blocks : (index + 1) * blocks])
    return Maps(
        tuple(scales),
        tuple(per_scale),
        found.combined[one],
        logits[one] if isinstance(logits, Tensor) else logits,
    )


class Smoother:
    """An exponential average over time: `M_t = a M_(t-1) + (1 - a) S_t`, `M_0 = S_0`.

    Args:
        smoothing: `a`, in [0, 1).

    Raises:
        ValueError: If smoothing is not in [0, 1).

    >>> smoother = Smoother(0.75)
    >>> [smoother([torch.tensor(value)])[0].item() for value in (0.0, 1.0, 1.0)]
    [0.0, 0.25, 0.4375]
    """

    def __init__(self, smoothing: float) -> None:
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing is 0 for none, or up to but not 1, got {smoothing!r}")
        self.smoothing = smoothing
        self._before: list[Tensor] | None = None

    def restart(self) -> None:
        """Forget the frames so far, as at a cut."""
        self._before = None

    def __call__(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return the averages up to these tensors, which have the shapes of the last."""
        if self._before is None or not self.smoothing:
            self._before = list(values)
        else:
            self._before = [
                torch.lerp(value, before, self.smoothing)
                for value, before in zip(values, self._before, strict=True)
            ]
        return self._before

    def maps(self, found: Maps) -> Maps:
        """Return a frame's maps averaged with those of the frames before."""
        combined, *per_scale = self([found.combined, *found.per_scale])
        return replace(found, combined=combined, per_scale=tuple(per_scale))
