"""Average drop and increase in confidence: a network shown what its map highlights."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.metrics.complexity import scaled
from evaluation.metrics.passes import Forward

__all__ = ["average_drop"]

# torch-cam's own, so that a probability of 0 divides nothing.
_EPSILON = 1e-7


def average_drop(
    network: Forward, inputs: Tensor, target: Tensor, maps: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Relative drop of the class's probability, and whether it rises, on the image times its map.

    $$d(x) = \frac{\max(0,\; p_t(x) - p_t(\hat a \odot x))}{p_t(x)}, \qquad
      u(x) = [\,p_t(x) < p_t(\hat a \odot x)\,]$$

    \(\hat a\) is the map scaled to [0, 1] by its least and largest value, and \(x\) the normalised
    image: where the map is 0 the image is at the channel mean. Average drop is the mean of \(d\)
    over images (lower is better), the increase in confidence the mean of \(u\) (higher). A map of
    ones has a drop of 0: neither says that the map is right, and both reward wide maps.

    Args:
        network: in evaluation mode, or a function that runs it.
        inputs: ``(N, C, H, W)``, normalised.
        target: ``(N,)``, the explained class.
        maps: ``(N, H, W)``.

    Returns:
        \(d\) and \(u\) of each image, ``(N,)``.

    Reference:
        Chattopadhyay et al. 2018, Grad-CAM++, section 4.1; as torch-cam's `ClassificationMetric`
        computes it. Deviation from the paper: none; a share in place of percent.

    >>> network = lambda x: x.flatten(1)
    >>> inputs, maps = torch.ones(1, 1, 1, 2), np.array([[[0.0, 1.0]]])
    >>> drop, rises = average_drop(network, inputs, torch.tensor([1]), maps)
    >>> drop.tolist(), rises.tolist()
    ([0.0], [1.0])
    """
    with torch.inference_mode():
        shown = torch.from_numpy(scaled(maps)).to(inputs.device, inputs.dtype)
        whole, masked = (
            network(images).float().softmax(1).gather(1, target[:, None])[:, 0].double()
            for images in (inputs, inputs * shown[:, None])
        )
        drop = (whole - masked).clamp(min=0) / (whole + _EPSILON)
        rises = (whole < masked).double()
    return drop.cpu().numpy(), rises.cpu().numpy()
