"""Score-CAM as a Captum attribution class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from captum.log import log_usage
from torch import Tensor

from fastsal.arguments.batches import checked_max_batch
from fastsal.arguments.call import Call
from fastsal.arguments.copies import copied
from fastsal.arguments.inputs import EXPECTED, Images, grid_of, images_of, without_row
from fastsal.arguments.logits import logits_of
from fastsal.arguments.targets import fixed_target
from fastsal.attribution.cams.without_gradients import (
    NO_LOCATION,
    WithoutGradients,
    class_shares,
)
from fastsal.cam.contributions import warn_of_zero
from fastsal.maps.normalization import each_map, minmax
from fastsal.maps.placing import by_image, placed
from fastsal.networks.hooks import forward
from fastsal.networks.layers import Layer, check_finite
from fastsal.networks.scales import Scale


class ScoreCAM(WithoutGradients):
    r"""Score-CAM: channels weighted by the class's score of the image seen through each.

    $$L = \mathrm{ReLU}\Big(\sum_k w_k A_k\Big), \qquad
      w = \mathrm{softmax}_k\, S\big(X \odot \mathrm{minmax}(U(A_k))\big)$$

    with `X` the image and `U` bilinear upsampling: as many forward passes as the layer has
    channels, and one. Deviations from the paper: the baseline's score, which all channels share and
    the softmax does not see, is left out; a channel that is the same everywhere shows the image at
    half. torch-cam scales a channel before it enlarges it, pytorch-grad-cam enlarges with aligned
    corners; in both a constant channel shows nothing.

    Reference:
        Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural
        Networks", Eq 3 to 5, https://arxiv.org/abs/1910.01279

    Args:
        forward_func (torch.nn.Module or Callable): As for `ClassActivationMap`; of one input, the
            image.
        layer (str, torch.nn.Module or Scale, optional): As for `ClassActivationMap`.
            Default: None.
        device_ids (list[int], optional): As for `ClassActivationMap`. Default: None.
        max_batch (int): The number of masked images that go through the network at once.
            Default: 32.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
        ...     torch.nn.Linear(128, 10),
        ... )
        >>> ScoreCAM(net, net[1]).attribute(torch.rand(2, 3, 8, 8), 1).shape
        torch.Size([2, 1, 4, 4])
    """

    _field_name: ClassVar[str | None] = "Score-CAM"

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Layer | Scale | None = None,
        device_ids: list[int] | None = None,
        *,
        max_batch: int = 32,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self.max_batch = checked_max_batch(max_batch) or 1

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(
        self, inputs: Images, target: Any = None, additional_forward_args: object = None
    ) -> Images:
        """Return the class activation map of every image, at the layer's size and unscaled.

        Args:
            inputs (Tensor or tuple[Tensor]): `(N, C, H, W)`.
            target (int, tuple, Tensor or list, optional): The class, in any of Captum's forms.
                Default: None, which takes the predicted class.
            additional_forward_args (Any, optional): Further arguments of the model, the same for
                all images: one, or a tuple. Default: None.

        Returns:
            `(N, 1, h, w)`, not negative; a tuple of one input gives a tuple of one map. A warning
            names images whose map is 0 everywhere.

        Raises:
            ValueError: If there are several inputs, the target does not fit the output, or the
                layer cannot be used.
        """
        several = self._one_at_a_time(self.attribute, inputs, target, additional_forward_args)
        if several is not None:
            return several
        (call,) = self._calls(inputs, target, additional_forward_args)
        if len(call.inputs) != 1 or not images_of(call.inputs):
            raise ValueError(
                f"Score-CAM takes one input, {EXPECTED}, got shapes "
                f"{[tuple(tensor.shape) for tensor in call.inputs]}"
            )
        scale = self._scale(call)
        images: Tensor = copied(call.inputs[0])
        further = copied(call.additional_forward_args)
        activations, output = self._activations(call, scale)
        classes = fixed_target(output, call.target, len(images))
        shares = class_shares(output, classes, len(images), call.part)
        with torch.no_grad():
            scores = [
                self._scores(call, scale, image, channels, share, further)
                for image, channels, share in zip(images, activations, shares, strict=True)
            ]
            weights = torch.stack(scores).softmax(1).to(activations.dtype)
            weights = weights.reshape(*weights.shape, *[1] * (activations.dim() - 2))
            maps = (activations * weights).sum(1).relu()
        warn_of_zero(~maps.flatten(1).any(1), self.get_name(), NO_LOCATION)
        return self._returned(maps, inputs, scale)

    def _scores(
        self,
        call: Call,
        scale: Scale,
        image: Tensor,
        channels: Tensor,
        share: Tensor,
        further: object,
    ) -> Tensor:
        """Return the score of an image seen through each of its layer's channels, `(C,)`."""
        found = []
        for some in torch.split(channels, self.max_batch):
            laid = placed(by_image(some, scale.placement), scale.placement, grid_of(image[None]))
            masks = without_row(each_map(minmax, laid), image[None])
            seen = (image[None] * masks[:, None].to(image.dtype),)
            output, _ = forward(
                call.forward_func, seen, copied(further), device_ids=call.device_ids
            )
            found.append((logits_of(output) * share).sum(1))
        scores = torch.cat(found)
        check_finite(scale.name, "scores", scores)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))
