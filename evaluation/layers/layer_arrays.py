"""Activations of a network's scales and their salient locations, as files.

The layers before the mask are frozen, and images are neither cropped nor flipped: one pass serves
all trainings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluation.layers.layerwise import Locations, rank_locations
from evaluation.layers.tails import read_scales
from evaluation.masking.levels import tie_orders
from evaluation.masking.views import InputView
from evaluation.seeding import generator
from evaluation.storage.writing import ArrayFile
from fastsal import SMOEScale
from fastsal.attribution.smoe_scale import readers_of
from fastsal.networks import hooks
from fastsal.networks.scales import Scale, candidates

__all__ = [
    "RANDOM",
    "cache_activations",
    "scales_named",
    "statistic_maps",
    "write_locations",
]

RANDOM = "random"
_BATCH = 128


def scales_named(network: nn.Module, names: Sequence[str], inputs: Tensor) -> tuple[Scale, ...]:
    """The scales of a network by their names, also those found with other weights.

    Args:
        network: the network.
        names: names of layers, as `fastsal.find_scales` gives them.
        inputs: ``(N, 3, H, W)``, some images.

    Raises:
        ValueError: a layer that some path through the network avoids.
    """
    found = {candidate.scale.name: candidate.scale for candidate in candidates(network, inputs)}
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"no scale at layer {missing[0]!r}: expected some of {', '.join(found)}")
    return tuple(found[name] for name in names)


def cache_activations(
    network: nn.Module,
    scales: tuple[Scale, ...],
    images: InputView,
    chosen: NDArray[np.integer],
    paths: Sequence[Path],
    *,
    device: str = "cpu",
) -> None:
    """Write each scale's activations, in float32, from one pass over the images.

    Args:
        network: the frozen network.
        scales: the scales to write.
        images: the images of a split.
        chosen: ``(N,)``, indices of the images.
        paths: an ``.npy`` file a scale, ``(N, h, w, C)``; each appears whole.
        device: device of the network.

    Raises:
        ValueError: activations that are not finite; names the layer.
    """
    with ExitStack() as stack:
        files: list[ArrayFile] = []
        for indices in _batches(chosen):
            for place, (scale, tensor) in enumerate(
                zip(scales, read_scales(network, scales, images(indices, device)), strict=True)
            ):
                values = scale.channels_first(tensor).permute(0, 2, 3, 1).float().cpu().numpy()
                if not np.isfinite(values).all():
                    raise ValueError(f"layer {scale.name!r} gives activations that are not finite")
                if place == len(files):
                    shape = (len(chosen), *values.shape[1:])
                    files.append(stack.enter_context(ArrayFile(paths[place], shape, "<f4")))
                files[place].append(values)


def statistic_maps(
    network: nn.Module,
    scales: tuple[Scale, ...],
    statistics: Sequence[str],
    inputs: Tensor,
) -> dict[str, list[NDArray[np.float32]]]:
    """The map of each statistic at each scale, without normalisation, of unmasked activations.

    Args:
        network: the network.
        scales: the scales of the maps.
        statistics: keys of `fastsal.statistics.STATISTICS`.
        inputs: ``(N, 3, H, W)``.

    Returns:
        For each statistic an array ``(N, h, w)`` a scale.

    Raises:
        ValueError: activations that are not finite; names the layer.
    """
    readers = [
        readers_of(SMOEScale(network, list(scales), statistic=name, normalize="none")).for_image(
            inputs
        )
        for name in statistics
    ]
    taps = [tap for reader in readers for tap in reader.taps]
    with torch.no_grad():
        values = iter(hooks.forward(network, (inputs,), taps=taps)[1])
        maps = [reader.joined([[next(values) for _ in scales]]) for reader in readers]
    return {
        name: [scale_map.float().cpu().numpy() for scale_map in of_scales]
        for name, of_scales in zip(statistics, maps, strict=True)
    }


def write_locations(
    network: nn.Module,
    scales: tuple[Scale, ...],
    statistics: Sequence[str],
    images: InputView,
    chosen: NDArray[np.integer],
    indices: NDArray[np.integer],
    paths: Mapping[str, Sequence[Path]],
    locations: Locations,
    *,
    device: str = "cpu",
) -> None:
    """Write the passing locations by each statistic and the random control, in one pass.

    Args:
        network: the frozen network.
        scales: the scales of the maps.
        statistics: keys of `fastsal.statistics.STATISTICS`, and `RANDOM`.
        images: the images of a split.
        chosen: ``(N,)``, indices of the images.
        indices: ``(N,)``, a unique number of each image, which seeds its ties and its control.
        paths: an ``.npy`` file a statistic and scale, ``(N, h, w)``, as `rank_locations` returns
            it; each appears whole.
        locations: the shares of locations that pass.
        device: device of the network.

    Raises:
        ValueError: activations that are not finite; names the layer.
    """
    computed = [name for name in statistics if name != RANDOM]
    with ExitStack() as stack:
        files: dict[tuple[str, int], ArrayFile] = {}
        for rows in _batches(np.arange(len(chosen))):
            inputs = images(chosen[rows], device)
            maps = statistic_maps(network, scales, computed, inputs)
            for place, scale in enumerate(scales):
                height, width = _size(scale)
                orders = tie_orders(height * width, indices[rows], locations.tie_seed)
                if RANDOM in statistics:
                    drawn = _random_maps(height * width, place, indices[rows], locations.tie_seed)
                    maps.setdefault(RANDOM, []).append(drawn.reshape(-1, height, width))
                for name in statistics:
                    if (name, place) not in files:
                        shape = (len(chosen), height, width)
                        file = ArrayFile(paths[name][place], shape, "|u1")
                        files[name, place] = stack.enter_context(file)
                    files[name, place].append(rank_locations(maps[name][place], orders, locations))


def _size(scale: Scale) -> tuple[int, int]:
    rows, columns = scale.shape[1:3] if scale.channels_last else scale.shape[2:4]
    return rows, columns


def _random_maps(
    pixels: int, place: int, indices: NDArray[np.integer], seed: int
) -> NDArray[np.float32]:
    """Uniform values ``(N, pixels)`` that depend on the image and the scale alone."""
    draws = (generator(seed, int(index), place + 1) for index in indices)
    return np.stack([draw.random(pixels, np.float32) for draw in draws])


def _batches(chosen: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    for start in range(0, len(chosen), _BATCH):
        yield chosen[start : start + _BATCH]
