"""The command ``python -m reports.pictures.contact_sheet``: overlays of photographs side by side.

The overlay's default colour map was chosen by looking at such a sheet of twenty photographs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from fastsal import SMOEScale, load_images, overlay
from fastsal.images.files import find_photographs
from reports.pictures.outlines import SIDE
from reports.pictures.photographs import efficientnet_lite0

CMAPS = ("inferno", "magma", "plasma", "viridis", "cividis", "turbo")
WITHOUT_MAP = "photograph"
SCALES = "scales"


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    made = argparse.ArgumentParser(
        prog="python -m reports.pictures.contact_sheet",
        description="Draw photographs with the SMOE Scale of EfficientNet-Lite0 laid over them in "
        "several colour maps, a row a photograph.",
    )
    made.add_argument("photographs", nargs="+", type=Path, help="image files and folders")
    made.add_argument("--out", required=True, type=Path, help="the JPEG or PNG file to write")
    made.add_argument("--count", type=int, default=20, help="so many at equal steps (default: 20)")
    made.add_argument("--cmap", action="append", help=f"once for each (default: {' '.join(CMAPS)})")
    made.add_argument("--alpha", type=float, default=0.8, help="largest opacity (default: 0.8)")
    return made


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """Return so many of the paths, at equal steps.

    >>> [path.name for path in spread([Path(name) for name in "abcde"], 2)]
    ['a', 'c']
    """
    count = min(count, len(paths))
    return [paths[index * len(paths) // count] for index in range(count)]


def columns(paths: Sequence[Path], cmaps: Sequence[str], alpha: float) -> dict[str, Tensor]:
    """Return the columns of the sheet, each `(N, 3, SIDE, SIDE)`, by their titles."""
    network = efficientnet_lite0()
    batch = load_images(list(paths), network, size=SIDE)
    maps = SMOEScale(network, max_batch=8).maps(batch.inputs)
    drawn = {cmap: overlay(batch.pixels, maps.combined, alpha, cmap=cmap) for cmap in cmaps}
    return {
        WITHOUT_MAP: batch.pixels,
        **drawn,
        SCALES: overlay(batch.pixels, maps.stacked, alpha),
    }


def draw(content: dict[str, Tensor], path: Path) -> None:
    """Draw the sheet and write it."""
    rows = len(next(iter(content.values())))
    figure = Figure(figsize=(1.6 * len(content), 1.6 * rows + 0.25), dpi=100)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, len(content), squeeze=False)
    for column, (title, pictures) in enumerate(content.items()):
        grid[0][column].set_title(title, fontsize=9, pad=3)
        for axes, picture in zip(grid[:, column], pictures, strict=True):
            axes.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy())
            axes.set_axis_off()
    top = 1 - 0.25 / (1.6 * rows + 0.25)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=top, wspace=0.02, hspace=0.02)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parser().parse_args(arguments)
    try:
        found = [path for path, _ in find_photographs(options.photographs, options.out)]
    except (OSError, ValueError) as error:
        parser().error(str(error))
    if not found or options.count < 1:
        parser().error(f"{len(found)} photographs were found; expected one or more, and --count 1")
    torch.manual_seed(0)
    draw(columns(spread(found, options.count), options.cmap or CMAPS, options.alpha), options.out)
    print(options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
