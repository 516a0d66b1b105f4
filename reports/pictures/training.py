"""The command ``python -m reports.pictures.training``: maps of a network while it trains.

A plain PyTorch loop on the embedded image set. Maps cost no pass of their own: they come from the
evaluation after each epoch, for the first images of the test set.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.datasets.shapes import ShapesSplit, make_shapes
from evaluation.networks.build import build_network
from fastsal import Sample, heatmap, watch
from reports.pictures.outlines import share_on_object

TRAIN, TEST, SIZE, BATCH, EPOCHS, SEED = 3000, 600, 64, 50, 6, 0
# The layers that `fastsal.find_scales` finds; named, so that the very first pass is watched.
LAYERS = ("stage1.0", "stage2.0", "stage3.0", "stage3")
# Of the pixels; objects cover 7 to 14 %.
FRACTION = 0.1
# Test images and epochs in the picture.
SHOWN = (0, 3, 4, 5, 6)
COLUMNS = (0, 1, 2, 4, 6)


@dataclass(frozen=True, eq=False)
class Epoch:
    """The evaluation after an epoch; epoch 0 is before all training.

    Attributes:
        accuracy: On the test images.
        sample: The maps of the first batch.
        on_object: Share of the most salient pixels that lie on the object, mean over that batch.
    """

    accuracy: float
    sample: Sample
    on_object: float


def pixels(split: ShapesSplit) -> tuple[Tensor, Tensor]:
    """Return images `(N, 3, H, W)` in [-1, 1] and labels."""
    images = torch.from_numpy(split.images).movedim(-1, 1).float() / 127.5 - 1
    return images, torch.from_numpy(split.labels)


def epochs(count: int) -> list[Epoch]:
    """Train the network and return the evaluation after each epoch."""
    train, test = make_shapes(train=TRAIN, test=TEST, size=SIZE, seed=SEED)
    images, labels = pixels(train)
    model = build_network("resnet9", 8, SEED, size=(SIZE, SIZE))
    steps = count * len(images) // BATCH
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    order = torch.Generator().manual_seed(SEED)
    # One sample in each evaluation: of the first of its TEST // BATCH passes.
    found: list[Epoch] = []
    samples: list[Sample] = []
    w = watch(model, every=TEST // BATCH, to=samples.append, layers=LAYERS, images=BATCH)
    for epoch in range(count + 1):
        if epoch:
            model.train()
            for batch in torch.split(torch.randperm(len(images), generator=order), BATCH):
                given = images[batch]
                if torch.rand((), generator=order) < 0.5:
                    given = given.flip(-1)
                loss = F.cross_entropy(model(given), labels[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        with w:
            accuracy = evaluate(model, test)
        sample = samples[-1]
        masks = torch.from_numpy(test.object_masks[: len(sample.images)])
        shares = [
            share_on_object(one, mask, FRACTION)
            for one, mask in zip(sample.combined, masks, strict=True)
        ]
        found.append(Epoch(accuracy, sample, sum(shares) / len(shares)))
        print(line(epoch, found[-1]))
    return found


def evaluate(model: nn.Module, test: ShapesSplit) -> float:
    """Return the accuracy on the test images."""
    model.eval()
    images, labels = pixels(test)
    with torch.inference_mode():
        right = [
            model(given).argmax(1) == label
            for given, label in zip(
                torch.split(images, BATCH), torch.split(labels, BATCH), strict=True
            )
        ]
    return float(torch.cat(right).float().mean())


def line(epoch: int, found: Epoch) -> str:
    """Return an epoch's numbers as a row of a Markdown table."""
    numbers = found.sample.numbers.values()
    cells = [
        str(epoch),
        f"{found.accuracy:.1%}",
        f"{found.on_object:.0%}",
        " ".join(f"{scale['entropy']:.3f}" for scale in numbers),
        " ".join(f"{scale['drift']:.3f}" if "drift" in scale else "-" for scale in numbers),
    ]
    return "| " + " | ".join(cells) + " |"


def draw(found: Sequence[Epoch], path: Path) -> None:
    """Draw the picture, a column an epoch, and write it as JPEG."""
    figure = Figure(figsize=(1.5 * (1 + len(COLUMNS)), 1.5 * len(SHOWN) + 0.35), dpi=110)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(SHOWN), 1 + len(COLUMNS), squeeze=False)
    for axes_row, index in zip(grid, SHOWN, strict=True):
        pictures = [found[0].sample.images[index] / 2 + 0.5]
        pictures += [heatmap(found[epoch].sample.combined[[index]])[0] for epoch in COLUMNS]
        for axes, picture in zip(axes_row, pictures, strict=True):
            axes.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy())
            axes.set_axis_off()
    for axes, epoch in zip(grid[0][1:], COLUMNS, strict=True):
        one = found[epoch]
        axes.set_title(
            f"epoch {epoch}\n{one.accuracy:.0%} right, {one.on_object:.0%} on it", fontsize=7, pad=3
        )
    figure.subplots_adjust(
        left=0.005, right=0.995, bottom=0.005, top=0.95, wspace=0.03, hspace=0.03
    )
    figure.savefig(path, pil_kwargs={"quality": 85})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.pictures.training",
        description="Train a small network on the embedded image set and draw its maps after "
        "each epoch.",
    )
    parser.add_argument("--out", required=True, type=Path, help="the JPEG file to write")
    target = parser.parse_args(arguments).out
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    print("| epoch | right | on the object | entropy of the scales | drift |")
    print("| --- | --- | --- | --- | --- |")
    draw(epochs(EPOCHS), target)
    print(target)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
