"""Rows of the table of compatibility, as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fastsal.files import written_whole

__all__ = ["FoundScale", "Row", "Share", "read_rows", "write_rows"]


class FoundScale(NamedTuple):
    """One scale of a network.

    Attributes:
        name: The layer, and what of it is read.
        strides: The strides along the axes of the input.
        signed: True if it has negative values.
        linear: True if no activation function made it, so that it is centred first; else negative
            values are rectified with a warning.
    """

    name: str
    strides: tuple[int, ...]
    signed: bool
    linear: bool = False


class Share(NamedTuple):
    """Added time in percent of the network's own: the median, and the ends of its interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """The measured compatibility of one network.

    Attributes:
        network: The key of `reports.compatibility.networks.NETWORKS`.
        shape: The shape of its input, without the batch.
        scales: The scales, the shallowest first.
        layout: The meaning of the dimensions of the tensors that are read.
        finite: True if the map is finite, is not constant and has the input's size.
        place: For each place of a changed square, the probability that the map changes more in a
            pixel of the square than in one outside.
        forward_ms: The network alone, in milliseconds of processor time.
        added: Of SMOE Scale.
        sums: Of the sum over the channels of each scale.
        rounds: The number of timed rounds.
        with_map: The largest difference of `with_map` to SMOE Scale, None if it is refused.
        program: The same of what `torch.export` makes of that.
        onnx: The same of the ONNX file in onnxruntime, None if it is refused or was not measured.
        fast_cam: True if `with_fast_cam` takes the network.
        refused: The error of each part that is refused, by the part.
        facts: The machine, its load and the versions of packages.
    """

    network: str
    shape: tuple[int, ...]
    scales: tuple[FoundScale, ...] = ()
    layout: str = ""
    finite: bool = False
    place: tuple[float, ...] = ()
    forward_ms: float = 0.0
    added: Share | None = None
    sums: Share | None = None
    rounds: int = 0
    with_map: float | None = None
    program: float | None = None
    onnx: float | None = None
    fast_cam: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def read_rows(path: Path) -> dict[str, Row]:
    """Return the rows in a file of JSON lines by network, none without the file.

    Raises:
        ValueError: If a line is no row.
    """
    if not path.exists():
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = _row(json.loads(line))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}: expected a row of python -m reports.compatibility, got "
                f"{line[:60]!r} ({error}); remove the line, and the command measures it again"
            ) from error
        found[row.network] = row
    return found


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines, whole or not at all.

    Raises:
        OSError: If the file cannot be written; it is as it was.
    """
    lines = [json.dumps(asdict(one), sort_keys=True) + "\n" for one in rows]
    with written_whole(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def _row(fields: dict[str, Any]) -> Row:
    scales = tuple(
        FoundScale(name, tuple(strides), *signs) for name, strides, *signs in fields.pop("scales")
    )
    of_types: dict[str, Any] = {
        **{name: tuple(fields.pop(name)) for name in ("shape", "place")},
        **{
            name: None if (given := fields.pop(name)) is None else Share(*given)
            for name in ("added", "sums")
        },
    }
    return Row(**fields, **of_types, scales=scales)
