"""`python -m reports.pictures`: draw the README's picture of four photographs."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from fastsal import FastCAM, SMOEScale, heatmap, lovi, overlay
from fastsal.inputs import as_tuple
from fastsal.pictures import read_photograph
from reports.pictures.photographs import class_names, efficientnet_lite0, photographs

COLUMNS = ("photograph", "LOVI", "SMOE Scale", "overlay", "Fast-CAM")
SIDE = 224


def rows() -> list[tuple[str, list[Tensor]]]:
    """Return for each photograph the predicted class and the pictures `(3, H, W)` of a row."""
    network, names = efficientnet_lite0(), class_names()
    smoe, fastcam = SMOEScale(network), FastCAM(network)
    found = []
    for path in photographs():
        image = centre(read_photograph(path, SIDE).image)
        inputs = (image - 0.5) / 0.5
        maps = smoe.maps(inputs)
        probability, index = maps.logits[0].softmax(0).max(0)
        explained = as_tuple(fastcam.attribute(inputs, expand_channels=False))[0]
        pictures = [
            image,
            lovi(maps.stacked),
            heatmap(maps.combined),
            overlay(image, maps.combined),
            overlay(image, explained[:, 0]),
        ]
        label = f"{names[int(index)]}, {float(probability):.0%}"
        found.append((label, [picture[0] for picture in pictures]))
    return found


def centre(image: Tensor) -> Tensor:
    """Return the square in the middle of an image whose shorter side is SIDE."""
    top, left = (image.shape[2] - SIDE) // 2, (image.shape[3] - SIDE) // 2
    return image[:, :, top : top + SIDE, left : left + SIDE]


def draw(path: Path) -> None:
    """Draw the picture, a row a photograph, and write it as JPEG."""
    content = rows()
    figure = Figure(figsize=(2.0 * len(COLUMNS), 2.14 * len(content)), dpi=110)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(content), len(COLUMNS), squeeze=False)
    for axes_row, (label, pictures) in zip(grid, content, strict=True):
        for axes, picture in zip(axes_row, pictures, strict=True):
            axes.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy())
            axes.set_axis_off()
        axes_row[0].set_title(label, fontsize=9, loc="left")
    for axes, title in zip(grid[0][1:], COLUMNS[1:], strict=True):
        axes.set_title(title, fontsize=9)
    figure.subplots_adjust(
        left=0.005, right=0.995, bottom=0.005, top=0.965, wspace=0.03, hspace=0.1
    )
    figure.savefig(path, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    torch.manual_seed(0)
    target = Path(__file__).parent / "maps.jpg"
    draw(target)
    print(target)
