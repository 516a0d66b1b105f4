"""The measurement of one network's row: scales, place, time, exports."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from evaluation.hardware import machine_facts
from evaluation.profiling.random_weights import enliven
from evaluation.profiling.timing import Interval, added_time
from fastsal import SMOEScale
from fastsal.export.model import with_map
from fastsal.geometry.layout import Layout
from fastsal.networks import hooks
from fastsal.networks.layers import NamedLayer
from fastsal.networks.scales import Scale
from fastsal.optional import one_line
from reports.compatibility.exports import (
    difference,
    difference_of_onnx,
    difference_of_program,
    takes_fast_cam,
)
from reports.compatibility.networks import Network
from reports.compatibility.place import rankings_of_change
from reports.compatibility.rows import FoundScale, Row, Share

__all__ = ["layout_of_scales", "lively", "measure", "measure_onnx", "measure_times", "sentence"]

PACKAGES = ("torch", "torchvision", "timm", "transformers", "monai", "onnxruntime")
# An interval of 95 % needs six rounds.
_FEWEST, _MOST = 6, 15
# Of the rounds of each of the two timings, about.
_SECONDS = 1.0
_LONGEST = 600
_NAMES = {
    (0, 1, 2, 3): "NCHW",
    (0, 3, 1, 2): "NHWC",
    (0, 1, 2, 3, 4): "NCDHW",
    (0, 4, 1, 2, 3): "NDHWC",
}
Found = TypeVar("Found")


def lively(network: Network) -> tuple[nn.Module, Tensor]:
    """Return a network with random weights of one seed that hide no branch, and two inputs.

    Gains and heads that begin at 0 are set, and batch norms take the statistics of the inputs.

    Args:
        network: the network.
    """
    torch.manual_seed(0)
    model = network.build().eval()
    inputs = torch.rand(2, *network.shape)
    with torch.no_grad():
        # Makes the weights of layers that wait for their input's size.
        model(inputs)
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():
                nn.init.trunc_normal_(parameter, std=0.02)
    enliven(model, inputs)
    return model, inputs


def measure(network: Network) -> Row:
    """Return the row of a network; what is refused is in it, with its message.

    Args:
        network: the network.
    """
    model, inputs = lively(network)
    image, refused = inputs[:1], dict[str, str]()
    smoe = SMOEScale(model)
    row = Row(network.name, network.shape, facts=_facts())

    def tried(part: str, call: Callable[[], Found]) -> Found | None:
        # A network raises any class of error, and so do exporters.
        try:
            return call()
        except Exception as error:
            refused[part] = sentence(error)
            return None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        maps = tried("SMOEScale", lambda: smoe.maps(image))
        if maps is None:
            return replace(row, refused=refused)
        module = tried("with_map", lambda: with_map(model, image))
        off = program = None
        if module is not None:
            off = difference(module, image, maps.combined)
            program = tried(
                "torch.export", lambda: difference_of_program(module, image, maps.combined)
            )
            if program is None:
                # Says in our own words what torch.export says in its own.
                tried("write_onnx", lambda: difference_of_onnx(model, image, maps.combined))
        fast_cam = tried("with_fast_cam", lambda: takes_fast_cam(model, image))
        return replace(
            row,
            scales=tuple(map(_found, maps.scales)),
            layout=layout_of_scales(maps.scales),
            finite=_is_sound(maps.combined, network.shape),
            place=tuple(
                round(one, 3)
                for one in rankings_of_change(lambda x: smoe.maps(x).combined, network.shape)
            ),
            with_map=off,
            program=program,
            fast_cam=fast_cam is True,
            refused=refused,
        )


def measure_times(network: Network, row: Row) -> Row:
    """Return a row with the time of the network, and what sums and SMOE Scale add to it.

    Args:
        network: the network.
        row: its row.
    """
    model, inputs = lively(network)
    image, smoe = inputs[:1], SMOEScale(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scales = smoe.maps(image).scales
        alone_ms, added, sums, rounds = _times(model, smoe, scales, image)
    return replace(row, forward_ms=alone_ms, added=added, sums=sums, rounds=rounds, facts=_facts())


def measure_onnx(network: Network, row: Row) -> Row:
    """Return a row with the difference of the map in the network's ONNX file.

    Args:
        network: the network.
        row: its row.
    """
    model, inputs = lively(network)
    image = inputs[:1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = SMOEScale(model).maps(image).combined
        try:
            return replace(row, onnx=difference_of_onnx(model, image, expected))
        except Exception as error:
            return replace(row, refused={**row.refused, "write_onnx": sentence(error)})


def sentence(error: Exception) -> str:
    r"""Return an error's message as one line, of torch's long ones the beginning.

    >>> sentence(ValueError("too\nlong"))
    'too long'
    """
    line = one_line(error)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3].rstrip()}..."


def layout_of_scales(scales: Sequence[Scale]) -> str:
    """Return the meaning of the dimensions of what is read, several if scales differ.

    >>> layout_of_scales([])
    ''
    """
    return ", ".join(dict.fromkeys(_layout(scale.layout) for scale in scales))


def _layout(layout: Layout) -> str:
    if layout.tokens is not None:
        return "NCT" if layout.tokens[3] < 0 else "tokens"
    return _NAMES.get(layout.order, f"dimensions {', '.join(map(str, layout.order))}")


def _found(scale: Scale) -> FoundScale:
    what = ", input" if scale.layer_input else f" +{scale.functions}" if scale.functions else ""
    return FoundScale(f"{scale.name}{what}", scale.strides, scale.signed, scale.linear)


def _is_sound(maps: Tensor, shape: Sequence[int]) -> bool:
    spread = float(maps.max() - maps.min())
    return maps.shape == (1, *shape[1:]) and bool(maps.isfinite().all()) and spread > 0.1


def _times(
    model: nn.Module, smoe: SMOEScale, scales: Sequence[Scale], image: Tensor
) -> tuple[float, Share, Share, int]:
    """Return the network's milliseconds, what SMOE Scale and sums add, and the rounds."""

    def summed(scale: Scale, tensor: Tensor) -> Tensor:
        return scale.channels_first(tensor).sum(1)

    taps = [NamedLayer.of_scale(scale).tap(partial(summed, scale)) for scale in scales]

    def forward() -> object:
        with torch.inference_mode():
            return model(image)

    def explain() -> object:
        with torch.inference_mode():
            return smoe.attribute(image)

    def sums() -> object:
        with torch.inference_mode():
            return hooks.forward(model, (image,), taps=taps)

    forward()
    started = time.process_time()
    forward()
    taken = time.process_time() - started
    rounds = max(_FEWEST, min(_MOST, int(_SECONDS / (2 * taken))))
    found = [added_time(forward, call, rounds) for call in (explain, sums)]
    alone = sum(one.first_processor_ms for one in found) / len(found)
    of_map, of_sums = (_share(one.processor) for one in found)
    return round(alone, 2), of_map, of_sums, rounds


def _share(interval: Interval) -> Share:
    return Share(*(round(one, 2) for one in (interval.median, interval.low, interval.high)))


def _facts() -> dict[str, Any]:
    return {**machine_facts(PACKAGES), "load": f"{os.getloadavg()[0]:.1f}"}
