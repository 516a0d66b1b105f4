"""The command ``python -m reports.pictures``: maps of photographs, and their share on objects."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from fastsal import FastCAM, GradCAM, SMOEScale, load_images, overlay
from fastsal.arguments.inputs import as_tuple
from fastsal.maps.resize import upsample
from reports.formatting import markdown_table
from reports.pictures.outlines import OUTLINES, SIDE, centre_disk, inside, share_on_object
from reports.pictures.photographs import class_names, efficientnet_lite0, photographs

COLUMNS = ("photograph", "Grad-CAM", "SMOE Scale", "scales, fine violet to coarse red", "Fast-CAM")
# The 3 % most salient pixels: the smallest object, the rocket, has 3.7 % of its picture.
FRACTION = 0.03


@dataclass(frozen=True, eq=False)
class Row:
    """A row of the picture: one photograph.

    Attributes:
        name: Name of the file.
        label: The predicted class and its probability.
        pictures: `(3, SIDE, SIDE)` each, one a column.
        maps: `(SIDE, SIDE)` by method.
    """

    name: str
    label: str
    pictures: list[Tensor]
    maps: dict[str, Tensor]


def rows() -> list[Row]:
    """Return the rows of the picture, one a photograph."""
    network, names = efficientnet_lite0(), class_names()
    smoe, fastcam, gradcam = SMOEScale(network), FastCAM(network), GradCAM(network)
    found = []
    for path in photographs():
        batch = load_images(path, network, size=SIDE)
        image, inputs = batch.pixels, batch.inputs
        maps = smoe.maps(inputs)
        probability, index = maps.logits[0].softmax(0).max(0)
        explained = as_tuple(fastcam.attribute(inputs, expand_channels=False))[0][:, 0]
        coarse = as_tuple(gradcam.attribute(inputs))[0][:, 0]
        pictures = [
            image,
            overlay(image, upsample(coarse / coarse.max(), (SIDE, SIDE))[:, 0]),
            overlay(image, maps.combined),
            overlay(image, maps.stacked),
            overlay(image, explained / explained.max()),
        ]
        found.append(
            Row(
                path.name,
                f"{names[int(index)]}, {float(probability):.0%}",
                [picture[0] for picture in pictures],
                {
                    "SMOE Scale": maps.combined[0],
                    "Fast-CAM": explained[0],
                    "Centre disk": centre_disk(),
                },
            )
        )
    return found


def draw(content: Sequence[Row], path: Path) -> None:
    """Draw the picture, a row a photograph, and write it as JPEG."""
    figure = Figure(figsize=(2.0 * len(COLUMNS), 2.14 * len(content)), dpi=110)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(content), len(COLUMNS), squeeze=False)
    for axes_row, row in zip(grid, content, strict=True):
        for axes, picture in zip(axes_row, row.pictures, strict=True):
            axes.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy())
            axes.set_axis_off()
        axes_row[0].set_title(row.label, fontsize=9, loc="left", pad=3)
    for axes, title in zip(grid[0][1:], COLUMNS[1:], strict=True):
        axes.set_title(title, fontsize=9, pad=3)
    figure.subplots_adjust(
        left=0.005, right=0.995, bottom=0.005, top=0.975, wspace=0.03, hspace=0.12
    )
    figure.savefig(path, pil_kwargs={"quality": 88})


def table(content: Sequence[Row]) -> str:
    """Return a Markdown table of the share of the most salient pixels that lies on each object."""
    outlined = [(row, inside(OUTLINES[row.name])) for row in content if row.name in OUTLINES]
    areas = [f"{row.name} ({float(area.float().mean()):.1%})" for row, area in outlined]
    lines = [["on the object"], *([method] for method in content[0].maps)]
    lines[0] += areas
    for line in lines[1:]:
        line += [
            f"{share_on_object(row.maps[line[0]], area, FRACTION):.0%}" for row, area in outlined
        ]
    lines.insert(1, ["---"] * len(lines[0]))
    return markdown_table(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.pictures",
        description="Draw the README's picture, and print the share of each map's most salient "
        "pixels that lies on the object.",
    )
    parser.add_argument("--out", required=True, type=Path, help="the JPEG file to write")
    target = parser.parse_args(arguments).out
    target.parent.mkdir(parents=True, exist_ok=True)
    made = rows()
    draw(made, target)
    print(table(made))
    print(target)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
