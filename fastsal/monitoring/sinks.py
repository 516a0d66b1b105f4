"""Sinks of samples: a folder, TensorBoard, or any function."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastsal.images.files import write_png
from fastsal.monitoring.sample import Sample
from fastsal.optional import needed

Sink = Callable[[Sample], object]


class Folder:
    """A sink that writes each sample's picture as PNG and its numbers as a line of JSON.

    The lines are appended to `numbers.jsonl`.

    Args:
        path: The folder; it is made if it is missing.

    Raises:
        ImportError: If Pillow is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        needed("PIL.Image", "writing pictures", "pillow")
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Folder({str(self.path)!r})"

    def __call__(self, sample: Sample) -> None:
        """Write the picture, named as `step-00000100.png`, and append the line."""
        name = f"step-{sample.step:08d}.png"
        write_png(sample.picture(), self.path / name)
        line = {"step": sample.step, "picture": name, "scales": sample.numbers}
        with (self.path / "numbers.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class TensorBoard:
    """A sink that adds each sample's picture and numbers to TensorBoard.

    The picture is `saliency/maps`; the numbers are `saliency/entropy/SCALE` and
    `saliency/drift/SCALE`.

    Args:
        writer: A `torch.utils.tensorboard.SummaryWriter`, or the folder for a new one.

    Raises:
        ImportError: If a folder is given and tensorboard is not installed.
    """

    def __init__(self, writer: Any) -> None:
        if isinstance(writer, (str, Path)):
            needed("tensorboard", "writing for TensorBoard", "'fastsal[tensorboard]'")
            module: Any = needed("torch.utils.tensorboard", "writing for TensorBoard")
            writer = module.SummaryWriter(str(writer))
        self.writer = writer

    def __repr__(self) -> str:
        return f"TensorBoard({self.writer!r})"

    def __call__(self, sample: Sample) -> None:
        """Add the picture and the numbers at the sample's step."""
        self.writer.add_image("saliency/maps", sample.picture().cpu(), sample.step)
        for scale, numbers in sample.numbers.items():
            for name, value in numbers.items():
                self.writer.add_scalar(f"saliency/{name}/{scale}", value, sample.step)
        self.writer.flush()


def as_sinks(to: Any) -> tuple[Sink, ...]:
    """Return the sinks of `watch(to=...)` as functions of a sample.

    Args:
        to: None, a function, the path of a `Folder`, a SummaryWriter for `TensorBoard`, or a
            sequence of these.

    Raises:
        TypeError: If it is none of these.

    Example:
        >>> as_sinks([print, "maps"])
        (<built-in function print>, Folder('maps'))
    """
    if to is None:
        return ()
    if isinstance(to, (str, Path)):
        return (Folder(to),)
    if hasattr(to, "add_image") and hasattr(to, "add_scalar"):
        return (TensorBoard(to),)
    if callable(to):
        return (to,)
    if isinstance(to, Sequence):
        return tuple(sink for one in to for sink in as_sinks(one))
    raise TypeError(
        "expected a function of a Sample, a folder's path, a TensorBoard SummaryWriter or several "
        f"of them, got {to!r}"
    )
