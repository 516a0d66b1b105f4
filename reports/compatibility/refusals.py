"""Networks and inputs that are refused, each with a call that provokes the message."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastsal import SMOEScale, watch
from fastsal.export.model import with_map
from fastsal.export.onnx import write_onnx
from fastsal.optional import one_line
from reports.compatibility.networks import NETWORKS

__all__ = ["REFUSALS", "refused"]

# Lists of a network's tensors, and places in memory.
_DETAILS = re.compile(r"\. (Tensors that every path crosses|Candidates): .*| at 0x[0-9a-f]+")


def refused(what: str) -> str:
    """Return the message with which something is refused, after the class of its error.

    Args:
        what: a key of `REFUSALS`.

    Raises:
        ValueError: it is not refused.

    >>> refused("an empty list").split(":")[0]
    '`ValueError`'
    """
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        try:
            REFUSALS[what]()
        except (ValueError, TypeError) as error:
            message = _DETAILS.sub("", one_line(error))
            return f"`{type(error).__name__}`: {message}"
    raise ValueError(f"{what} is not refused: take it off the list of what is")


def _network() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ).eval()


def _images(*shape: int) -> Tensor:
    return torch.rand(shape or (1, 3, 16, 16), generator=torch.Generator().manual_seed(0))


def _maps(network: Callable[..., Any], inputs: Any) -> object:
    return SMOEScale(network).maps(inputs)


def _program(**options: bool) -> nn.Module:
    program = torch.export.export(_network(), (_images(),))
    module: nn.Module = program.module(**options)
    return module


def _detector() -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS["ssdlite320_mobilenet_v3_large"].build()


def _export_of_boxes() -> object:
    network, images = _detector().eval(), _images(1, 3, 320, 320)
    with tempfile.TemporaryDirectory() as folder:
        return write_onnx(with_map(network, images), images, Path(folder) / "detector.onnx")


def _watched_lists() -> object:
    network = _detector().train()
    images = list(_images(2, 3, 64, 64))
    boxes = torch.tensor([[4.0, 4.0, 30.0, 30.0]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1])} for _ in images]
    with watch(network):
        return network(images, targets)


def _brightness(images: Tensor) -> Tensor:
    return images.mean((2, 3))


_SIGNALS = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 4, 3))


class _OfChannelsLast(nn.Module):
    """A network for signals `(N, T, C)`."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = _SIGNALS(x.transpose(1, 2))
        return found


class _OfFrames(nn.Module):
    """A network for clips `(N, T, C, H, W)`, which sees each frame alone."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = _network()

    def forward(self, x: Tensor) -> Tensor:
        return self.frames(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)  # type: ignore[no-any-return]


REFUSALS: dict[str, Callable[[], object]] = {
    "a multilayer perceptron": lambda: _maps(
        nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.ReLU(), nn.Linear(8, 4)), _images()
    ),
    "a scripted module": lambda: _maps(torch.jit.script(_network()), _images()),
    "a traced module": lambda: _maps(torch.jit.trace(_network(), _images()), _images()),  # type: ignore[no-untyped-call]
    "the module of a `torch.export` program, in `with_map`": lambda: with_map(
        _program(), _images()
    ),
    "the same where no module runs in it, as by `.module(check_guards=False)`": lambda: _maps(
        _program(check_guards=False), _images()
    ),
    "a function instead of a module": lambda: _maps(_brightness, _images()),
    "one image `(C, H, W)` without a batch": lambda: _maps(_network(), _images(3, 16, 16)),
    "an empty batch": lambda: _maps(_network(), _images(0, 3, 16, 16)),
    "an empty list": lambda: _maps(_network(), []),
    "a list of batches": lambda: _maps(_network(), [_images()]),
    "signals whose channels come last, `(N, T, C)`": lambda: _maps(
        _OfChannelsLast(), _images(1, 32, 2)
    ),
    "clips whose channels come second, `(N, T, C, H, W)`": lambda: _maps(
        _OfFrames(), _images(1, 4, 3, 16, 16)
    ),
    "a detector that selects its boxes (torchvision's), in `write_onnx`": _export_of_boxes,
    "the same in `fastsal.watch`, called with lists of images": _watched_lists,
}
