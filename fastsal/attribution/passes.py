"""The forward passes in which a reader reads a batch: whole, in parts, or tile by tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastsal.arguments.call import Call
from fastsal.arguments.copies import copied
from fastsal.arguments.targets import check_target
from fastsal.attribution.planned_reader import PlannedReader
from fastsal.attribution.reader import ScaleReader
from fastsal.attribution.tiles import Seams, Span, Tiling, crop
from fastsal.networks import hooks
from fastsal.networks.state import LayerError


def read_batch(
    calls: Sequence[Call], reader: ScaleReader | PlannedReader
) -> tuple[list[Tensor], list[Any]]:
    """Run the network on all parts of a batch.

    Args:
        calls: One for each part.
        reader: Reads the scales.

    Returns:
        The map of every scale `(N, h, w)`, and the model's output for each part; no outputs for
        images that were read tile by tile.
    """
    outputs, values = [], []
    for call in calls:
        if isinstance(reader, ScaleReader) and reader.tiling is not None:
            values.append(_read_tiles(call, reader, reader.tiling))
        else:
            output, read = _run(call, reader)
            outputs.append(output)
            values.append(read)
        reader.end_part(len(call.inputs[0]))
    return reader.joined(values), outputs


def _run(call: Call, reader: ScaleReader | PlannedReader) -> tuple[Any, list[Tensor]]:
    output, values = hooks.forward(
        call.forward_func, call.inputs, call.additional_forward_args, reader.taps, call.device_ids
    )
    check_target(output, call.target, call.inputs[0].shape[0])
    return output, values


def _read_tiles(call: Call, reader: ScaleReader, tiling: Tiling) -> list[Tensor]:
    """Return the statistic of every scale of whole images, from one tile after another.

    Args:
        call: The model and its tensors; all of the images' size are cut alike. The model runs on
            copies.
        reader: Reads the scales.
        tiling: The tiles.

    Returns:
        For each scale `(N, h, w)`, the same as from one pass over the whole image, but for three
        things: pixels beyond the overlap that the layer still sees, pooling over the whole image on
        the way, and tiles that are blended, whose borders see no further.

    Raises:
        ValueError: If the tiles do not lie on the network's grid.
        LayerError: If a layer's map does not follow its stride.
    """

    def run_on(tile: Sequence[Span]) -> list[Tensor]:
        ranges = [(span.shown_start, span.shown_stop) for span in tile]
        reader.input_size = tuple(last - first for first, last in ranges)
        inputs = crop(call.inputs, reader.size, ranges)
        further = copied(call.additional_forward_args)
        part = call._replace(inputs=inputs, additional_forward_args=further)
        return _run(part, reader)[1]

    size = reader.size
    scales = reader.known_scales or reader.scales
    if not scales:
        # The strides of named layers are known only after a pass.
        shown = (min(most, side) for most, side in zip(tiling.shown, size, strict=True))
        run_on([Span(0, side, 0, side) for side in shown])
        scales = reader.scales
    moved = [
        scale.name
        for scale in scales
        if scale.varies or (scale.placement and scale.placement.moved)
    ]
    if moved:
        raise LayerError(
            f"layer(s) {', '.join(moved)} do not lie where the pixels of a tile are, since the "
            "network moves, crops or pads its image inside; do that before the network, or take "
            "the image whole (tile=None)"
        )
    coarsest = tiling.checked([scale.name for scale in scales], [scale.strides for scale in scales])
    seams = [Seams(scale.name, scale.strides, size, tiling.blend or "none") for scale in scales]
    for tile in tiling.tiles(size, coarsest):
        for of_layer, values in zip(seams, run_on(tile), strict=True):
            of_layer.add(tile, values)
    return [of_layer.joined() for of_layer in seams]
