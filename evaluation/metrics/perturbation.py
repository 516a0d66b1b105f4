"""Perturbation curves: a network's predictions as pixels are removed in the order of a map.

No other library has them in this form. Captum's metrics are infidelity and sensitivity; Xplique is
built on TensorFlow; the ROAD of pytorch-grad-cam solves one image at a time, removes more or fewer
pixels than asked if they tie, takes maps in [0, 1] only, and needs OpenCV.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.masking.levels import pixels_at
from evaluation.metrics.passes import Forward

__all__ = [
    "Order",
    "PerturbFunction",
    "PerturbationCurves",
    "area_under",
    "perturbation_curves",
    "with_channel_mean",
]

Order = Literal["most", "least"]
# From a mask of kept pixels, (N, H, W), to the network's inputs, (N, C, H, W).
PerturbFunction = Callable[[NDArray[np.bool_]], Tensor]


@dataclass(frozen=True)
class PerturbationCurves:
    """The predictions of a network for each image at each share of removed pixels.

    Args:
        shares: ``S`` shares of removed pixels, in [0, 1], rising.
        probability: ``(N, S)``, probability of the explained class.
        predicted: ``(N, S)``, the most probable class.
    """

    shares: tuple[float, ...]
    probability: NDArray[np.float64]
    predicted: NDArray[np.int64]

    @property
    def area(self) -> NDArray[np.float64]:
        """Mean height of each image's curve of probability: ``(N,)``, in [0, 1]."""
        return area_under(self.shares, self.probability)

    def accuracy(self, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """The share of the steps at which each image is classified correctly, as in ROAD.

        The unchanged image is left out: it is the same for every map.

        Args:
            labels: ``(N,)``, the true classes.

        Returns:
            ``(N,)``, in [0, 1]; the mean over images is the mean accuracy over the steps.
        """
        steps = np.asarray(self.shares) > 0
        right: NDArray[np.float64] = (self.predicted == labels[:, None])[:, steps].mean(1)
        return right


def perturbation_curves(
    network: Forward,
    perturb: PerturbFunction,
    target: Tensor,
    ranked: NDArray[np.int64],
    size: Sequence[int],
    shares: Sequence[float],
    *,
    first: Order,
    ends: PerturbationCurves | None = None,
) -> PerturbationCurves:
    r"""Predictions of a frozen network as pixels are removed step by step.

    $$f(s) = p_t\bigl(\mathrm{fill}(x, R_s)\bigr), \qquad
      |R_s| = \lfloor s H W + \tfrac12 \rfloor$$

    `R_s` are the most salient pixels (`first="most"`) or the least salient ones. The area under
    the first curve is the deletion area: low where the map finds what the network needs. Read
    backwards, the second is insertion: at share `s` the `1 - s` most salient pixels are there and
    the rest is filled; its area, the insertion area, is high for such a map. With accuracy in place
    of probability, and noisy linear imputation as the fill, the two are ROAD. Deviations from RISE:
    steps of a share in place of one row of 224 pixels; insertion starts from the same fill as
    deletion, not from a blurred image, which still holds the image's coarse content.

    Args:
        network: the network, in evaluation mode, or a function that runs it.
        perturb: from a mask of kept pixels to the network's inputs.
        target: `(N,)`, `t`, the explained class.
        ranked: `(N, H * W)`, the pixels of each image, the most salient first.
        size: `H` and `W`; of volumes three sides, of signals one.
        shares: `s`, in [0, 1], rising.
        first: `"most"` to remove the most salient pixels first, or `"least"`.
        ends: curves of the same images in the other order. The whole and the empty image are the
            same in both, and are not shown to the network again.

    Returns:
        The predictions at every share.

    Raises:
        ValueError: shares that do not rise, or leave [0, 1]; `ends` of other shares.

    Reference:
        Petsiuk et al. 2018, RISE, section 4.3 and algorithm 1; Rong et al. 2022, ROAD, section 5
        (MoRF is `"most"`, LeRF is `"least"`).

    >>> from torch import nn
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    >>> _ = network[1].weight.data.copy_(torch.tensor([[2.0, 1.0], [0.0, 0.0]]))
    >>> perturb = with_channel_mean(torch.ones(1, 1, 1, 2))
    >>> curves = perturbation_curves(network, perturb, torch.tensor([0]), np.array([[0, 1]]),
    ...                                  (1, 2), (0.0, 0.5, 1.0), first="most")
    >>> curves.probability.round(3).tolist()
    [[0.953, 0.731, 0.5]]
    """
    steps = np.asarray(shares, dtype=np.float64)
    if steps.size == 0 or (np.diff(steps) <= 0).any() or steps[0] < 0 or steps[-1] > 1:
        raise ValueError(f"shares {list(shares)}: expected rising shares of the pixels in [0, 1]")
    if ends is not None and ends.shares != tuple(steps.tolist()):
        raise ValueError(f"ends of the shares {ends.shares}: expected {tuple(steps.tolist())}")
    count, pixels = ranked.shape
    # The rank of each pixel in the order of removal.
    place = np.empty_like(ranked)
    order = ranked if first == "most" else ranked[:, ::-1]
    np.put_along_axis(place, order, np.broadcast_to(np.arange(pixels), ranked.shape), axis=1)
    probability = np.empty((count, steps.size))
    predicted = np.empty((count, steps.size), dtype=np.int64)
    with torch.inference_mode():
        for step, share in enumerate(steps.tolist()):
            if ends is not None and share in (0.0, 1.0):
                known = ends.shares.index(share)
                probability[:, step] = ends.probability[:, known]
                predicted[:, step] = ends.predicted[:, known]
                continue
            kept = (place >= pixels_at(share, pixels)).reshape(count, *size)
            output = network(perturb(kept)).float().softmax(1)
            probability[:, step] = output.gather(1, target[:, None])[:, 0].cpu().numpy()
            predicted[:, step] = output.argmax(1).cpu().numpy()
    return PerturbationCurves(tuple(steps.tolist()), probability, predicted)


def area_under(shares: Sequence[float], heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area under each curve by the trapezoidal rule, over the width of the shares.

    Args:
        shares: ``S`` places, rising.
        heights: ``(N, S)``.

    Returns:
        ``(N,)``, in the unit of the heights.

    Reference:
        Petsiuk et al. 2018, section 4.3; deviation: none for shares from 0 to 1.

    >>> area_under((0.0, 0.5, 1.0), np.array([[1.0, 0.5, 0.5]])).tolist()
    [0.625]
    """
    area = np.trapezoid(heights, shares, axis=1) / (shares[-1] - shares[0])
    return np.asarray(area, dtype=np.float64)


def with_channel_mean(inputs: Tensor) -> PerturbFunction:
    """A perturbation that sets removed pixels to the channel mean, 0 after normalisation.

    Args:
        inputs: ``(N, C, H, W)``, normalised.

    Returns:
        From a mask of kept pixels to the perturbed inputs.
    """

    def perturb(kept: NDArray[np.bool_]) -> Tensor:
        return inputs * torch.from_numpy(kept)[:, None].to(inputs.device)

    return perturb
