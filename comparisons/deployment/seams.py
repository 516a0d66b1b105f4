"""Differences between tiled and whole maps, at the seams and elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from evaluation.hardware import machine_facts
from fastsal import SMOEScale
from fastsal.images.files import read_photograph
from reports.pictures.photographs import efficientnet_lite0, photographs

SIDE, TILE, OVERLAPS = 896, 256, (0, 32, 128)
# Pixels this close to a seam count as at the seam.
NEAR = 8
PACKAGES = ("fastsal", "torch", "timm")


def rows() -> Iterator[dict[str, object]]:
    """Yield a row for each photograph and overlap."""
    facts = machine_facts(PACKAGES)
    network = efficientnet_lite0()
    places = torch.arange(SIDE)
    beside = ((places % TILE < NEAR) | (places % TILE >= TILE - NEAR)) & (places >= NEAR)
    seam = beside[:, None] | beside
    for path in photographs():
        image = 2 * read_photograph(path, SIDE).image[:, :, :SIDE, :SIDE] - 1
        whole = SMOEScale(network).maps(image).combined
        for overlap in OVERLAPS:
            tiled = SMOEScale(network, tile=(TILE, TILE), overlap=overlap).maps(image).combined
            difference = (tiled - whole).abs()[0]
            yield {
                "photograph": path.name,
                "side": SIDE,
                "tile": TILE,
                "overlap": overlap,
                "mean": round(difference.mean().item(), 4),
                "at_seams": round(difference[seam].mean().item(), 4),
                "elsewhere": round(difference[~seam].mean().item(), 4),
                "largest": round(difference.max().item(), 3),
                **facts,
            }
