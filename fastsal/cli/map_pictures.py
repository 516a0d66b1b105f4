"""Pictures of one image's saliency: map, overlay and LOVI, with the predicted class."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.arguments.detections import Detection, are_selected
from fastsal.arguments.logits import logits_of
from fastsal.attribution.fast_cam import FastCAM
from fastsal.attribution.smoe_scale import SMOEScale
from fastsal.attribution.video import Smoother
from fastsal.cli.manifest import Entry
from fastsal.cli.options import random_image
from fastsal.images.colour import heatmap, overlay
from fastsal.images.files import with_channels
from fastsal.kernels.constants import EPSILON
from fastsal.maps.result import Maps
from fastsal.networks.preprocessing import input_form

# The image size on which scales are found, if photographs keep their own sizes.
DEFAULT_SIZE = 224


@dataclass(frozen=True)
class PictureSettings:
    """The settings of pictures, which the manifest records.

    Attributes:
        method: "smoe" or "fastcam".
        cam: The class activation map of Fast-CAM; None for SMOE Scale.
        target: The class that Fast-CAM explains, of a detector its best box of that class; None is
            the predicted class, or the best box.
        layers: The names of the layers to read, or "late"; None finds all scales.
        statistic: As for `SMOEScale`.
        normalize: As for `SMOEScale`.
        scale_weights: As `weights` for `SMOEScale`.
        size: The shorter side in pixels; None keeps the photograph's own.
        lovi: True adds a LOVI picture over the photograph.
        mean: The network's input mean, one number for each of its channels.
        std: The network's input standard deviation likewise.
        smoothing: The smoothing over time of `fastsal.attribution.video.maps`, for a video's frames
            or a folder's photographs in the order of their names; 0 for none.
        epsilon: As for `SMOEScale`.
        window: The grey values that become 0 and 1; None takes pictures of 8 bits, and the whole
            range of 16.
    """

    method: str
    cam: str | None
    target: int | None
    layers: tuple[str, ...] | str | None
    statistic: str
    normalize: str
    scale_weights: str | tuple[float, ...]
    size: int | None
    lovi: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    smoothing: float = 0.0
    epsilon: float = EPSILON
    window: tuple[float, float] | None = None


class MapPictures:
    """Makes the pictures of one image at a time.

    The scales are those that `fastsal layers` lists. They are found once, on an image of random
    pixels, so that they do not depend on the first photograph.

    Args:
        network: The network, on the device and in evaluation mode.
        settings: The settings.
        classes: The names of the classes; empty if they are not known.
        device: The torch device.

    Attributes:
        settings: The settings.
        ready: True after `prepare`.
        smoother: The smoothing over time.

    Raises:
        ValueError: If a setting is wrong for all images.
    """

    def __init__(
        self, network: nn.Module, settings: PictureSettings, classes: tuple[str, ...], device: str
    ) -> None:
        self.settings, self.classes, self.device = settings, classes, device
        self.mean, self.std = (
            torch.tensor(values, device=device, dtype=torch.float32).reshape(1, -1, 1, 1)
            for values in (settings.mean, settings.std)
        )
        self.dtype = input_form(network)[1]
        self.ready = False
        self.smoother = Smoother(settings.smoothing)
        self.last_size: torch.Size | None = None
        layers: Any = settings.layers
        options: dict[str, Any] = {
            "weights": settings.scale_weights,
            "statistic": settings.statistic,
            "normalize": settings.normalize,
            "epsilon": settings.epsilon,
        }
        # Both find their scales at their first call, in `prepare`.
        self.smoe = SMOEScale(network, layers, **options)
        self.fastcam = None
        if settings.cam is not None:
            self.fastcam = FastCAM(network, scales=layers, cam=settings.cam, **options)

    def prepare(self, height: int, width: int) -> list[str]:
        """Find the scales and make all pictures once, of random pixels.

        Args:
            height: The image's height in pixels.
            width: The image's width in pixels.

        Returns:
            Warnings that concern every image.

        Raises:
            ValueError: If no map can be made. The network may raise other errors.
        """
        pixels = random_image(height, width)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            maps = self.smoe.maps(self._inputs(pixels))
        with warnings.catch_warnings():
            # Random pixels show no class, and may well give a map of zeros.
            warnings.simplefilter("ignore")
            if self.fastcam is None or not are_selected(maps.logits):
                # A detector need not see an object in them.
                self(pixels)
        self.smoother.restart()
        self.ready = True
        return _messages_of(caught)

    def __call__(
        self, image: Tensor, with_opacity: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Entry]:
        """Return the pictures of an image and their facts for the manifest.

        Args:
            image: `(1, 3, H, W)` in [0, 1].
            with_opacity: `(1, 4, H, W)`, its colours and opacity; None without transparent pixels.

        Returns:
            The pictures `(3, H, W)` in [0, 1], by kind; and the predicted class, the scales, the
            range of the map and the warnings.
        """
        inputs = self._inputs(image, with_opacity)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            maps = self.smoe.maps(inputs)
            combined = maps.combined
            if self.fastcam is not None:
                target: Any = self.settings.target
                if are_selected(maps.logits):
                    target = Detection(label=target)
                combined = self.fastcam.attribute(inputs, target, expand_channels=False)[:, 0]
        if self.last_size != combined.shape[1:]:
            self.smoother.restart()
            self.last_size = combined.shape[1:]
        stacked = [maps.stacked] if self.settings.lovi else []
        combined, *stacked = self.smoother([combined, *stacked])
        shown, bounds = self._bounded(combined.cpu())
        pictures = {"map": heatmap(shown)[0], "overlay": overlay(image, shown)[0]}
        if stacked:
            pictures["lovi"] = overlay(image, self._bounded(stacked[0].cpu())[0])[0]
        return pictures, {
            **self._prediction(maps.logits),
            "scales": _scales(maps),
            "range": bounds,
            "warnings": _messages_of(caught),
        }

    def _inputs(self, image: Tensor, with_opacity: Tensor | None = None) -> Tensor:
        """Return the image in the channels, normalisation and type that the network takes."""
        given = with_channels(image, with_opacity, self.mean.shape[1])
        return ((given.to(self.device) - self.mean) / self.std).to(self.dtype)

    def _bounded(self, maps: Tensor) -> tuple[Tensor, list[float]]:
        """Return maps in [0, 1] for a picture, and the values that became 0 and 1."""
        if self.settings.normalize != "none":
            return maps, [0.0, 1.0]
        low, high = min(0.0, maps.min().item()), maps.max().item()
        shown = (maps - low) / (high - low) if high > low else torch.zeros_like(maps)
        return shown, [low, high]

    def _prediction(self, output: Any) -> Entry:
        if are_selected(output):
            return self._best_of(output)
        output = logits_of(output)
        if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[1] < 2:
            return {"predicted_class": None, "class_name": None, "probability": None}
        probability, index = output[0].float().softmax(0).max(0)
        return self._entry(int(index), probability, len(self.classes) == output.shape[1])

    def _best_of(self, output: Any) -> Entry:
        """Return the class and the score of a detector's best box."""
        (boxes,) = Detection().found(output)
        if not len(boxes.labels):
            return {"predicted_class": None, "class_name": None, "probability": None}
        index = int(boxes.labels[0])
        return self._entry(index, boxes.scores[0], index < len(self.classes))

    def _entry(self, index: int, probability: Tensor, known: bool) -> Entry:
        """Return a class and its probability; its name, if the classes' names are known."""
        return {
            "predicted_class": index,
            "class_name": self.classes[index] if known else None,
            "probability": round(float(probability), 6),
        }


def class_in_words(facts: Entry) -> str:
    """Return the predicted class and its probability; of a file without them, what was made.

    Args:
        facts: The facts of a photograph or video for the manifest.

    Example:
        >>> class_in_words({"predicted_class": 281, "class_name": "tabby", "probability": 0.874})
        'tabby (class 281), 87 %'
        >>> class_in_words({"predicted_class": 3, "class_name": None, "probability": 0.0021})
        'class 3, 0.2 %'
        >>> class_in_words({"frames": 24})
        'map of 24 frames'
    """
    index, share = facts.get("predicted_class"), facts.get("probability")
    if index is None or share is None:
        return f"map of {facts['frames']} frames" if "frames" in facts else "map, no class"
    name = facts.get("class_name")
    # Three digits of an uncertain class, without a "100 %" that is not one.
    percent = f"{100 * share:.0f}" if 0.1 <= share < 0.995 else f"{100 * share:.1f}"
    return f"{f'{name} (class {index})' if name else f'class {index}'}, {percent} %"


def _scales(maps: Maps) -> list[Entry]:
    return [
        {"name": scale.name, "stride": scale.stride, "size": list(scale_map.shape[:0:-1])}
        for scale, scale_map in zip(maps.scales, maps.per_scale, strict=True)
    ]


def _messages_of(caught: list[warnings.WarningMessage]) -> list[str]:
    """Return the messages of user warnings that were caught."""
    return [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
