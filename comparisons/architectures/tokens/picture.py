"""A picture of residual streams: SMOE Scale as they are, and centred, on images of known truth."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from comparisons.architectures.tokens.tensors import not_centred
from comparisons.architectures.training import images, trained
from fastsal import SMOEScale
from fastsal.images.colour import heatmap
from fastsal.images.files import write_png
from fastsal.maps.normalization import minmax

__all__ = ["STREAMS", "write_picture"]

# Networks whose residual streams lie before layer norms.
STREAMS = ("convnext", "pvt", "vit")
_ENLARGED = 3


def write_picture(names: Sequence[str], folder: Path, path: Path, count: int = 8) -> None:
    """Write the images, and below them the maps of each network, not centred and centred.

    Args:
        names: Of networks that are trained, keys of `ARCHITECTURES`.
        folder: Of their weights.
        path: The PNG file.
        count: The number of test images.
    """
    data = images()
    pixels = torch.from_numpy(np.asarray(data.test.images[:count])).movedim(-1, 1) / 255
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (data.mean, data.std))
    inputs = ((pixels - mean) / std).float()
    rows = [pixels.float()]
    for name in names:
        network, _ = trained(name, 0, folder, lambda _: None)
        for attributor in filter(None, (not_centred(network), SMOEScale(network))):
            with warnings.catch_warnings():
                # Negative activations: what the picture shows.
                warnings.simplefilter("ignore", UserWarning)
                maps = attributor.attribute(inputs)[:, 0]
            rows.append(heatmap(minmax(maps)))
    write_png(_enlarged(torch.cat([torch.cat(list(row), 2) for row in rows], 1)), path)


def _enlarged(picture: Tensor) -> Tensor:
    """Return a picture `(3, H, W)` whose pixels are squares."""
    return picture.repeat_interleave(_ENLARGED, 1).repeat_interleave(_ENLARGED, 2)
