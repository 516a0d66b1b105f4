"""Batches of images for methods, and full-precision maps of a few images for reports."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from comparisons.methods.base import Batch, Explain
from comparisons.methods.registry import get_method
from evaluation.datasets.dataset import Dataset
from evaluation.masking.level_files import Levels
from evaluation.masking.views import InputView, View
from evaluation.storage.store import Store

__all__ = ["GALLERY_IMAGES", "example_batch", "write_gallery"]

GALLERY_IMAGES = 8


def write_gallery(
    method: str,
    model: nn.Module,
    explain: Explain,
    dataset: Dataset,
    targets: NDArray[np.int64],
    store: Store,
    cell: str,
    *,
    cuts: tuple[float, ...],
    device: str = "cpu",
) -> None:
    """Save full-precision maps of test images for reports, one image a class.

    The levels beside them are those that networks are trained with: a method that draws noise
    would draw other noise for this batch.
    """
    labels = np.asarray(dataset.test.labels)
    per_class = [np.flatnonzero(labels == label)[0] for label in np.unique(labels)]
    chosen = np.asarray(per_class[:GALLERY_IMAGES], dtype=np.int64)
    batch = example_batch(dataset, "test", targets, chosen, device)
    saliency = explain(batch).detach().cpu().numpy()
    levels = Levels(store.maps(cell) / "test.zarr")
    arrays: dict[str, NDArray[Any]] = {
        "index": chosen,
        "saliency": saliency.astype(np.float32),
        "levels": np.concatenate([levels.read(index, index + 1) for index in chosen.tolist()]),
        "cuts": np.asarray(cuts),
    }
    scales = get_method(method).scales
    if scales is not None:
        arrays["scales"] = scales(model)(batch).detach().cpu().numpy().astype(np.float32)
    store.save_arrays(store.gallery(cell), arrays)


def example_batch(
    dataset: Dataset,
    split_name: str,
    targets: NDArray[np.int64],
    indices: NDArray[np.int64],
    device: str = "cpu",
    view: View | None = None,
) -> Batch:
    """Return images of a split as a batch.

    Args:
        dataset: the images.
        split_name: ``"train"`` or ``"test"``.
        targets: the class to explain for each image of the split.
        indices: of the images in the split.
        device: of the network.
        view: the images of the split as methods see them; None for whole ones.
    """
    split = dataset.split(split_name)
    shown = InputView(split.images, dataset.mean, dataset.std) if view is None else view
    inputs = shown(indices, device).contiguous()
    masks = None
    if split.object_masks is not None:
        masks = torch.from_numpy(np.asarray(split.object_masks[indices]))
    return Batch(
        inputs=inputs.to(device),
        target=torch.from_numpy(targets[indices]).to(device),
        index=torch.from_numpy(dataset.first_index(split_name) + indices),
        input_range=1.0 / float(np.mean(dataset.std)),
        black=_black(dataset),
        object_mask=masks,
    )


def _black(dataset: Dataset) -> tuple[float, ...]:
    return tuple(-mean / std for mean, std in zip(dataset.mean, dataset.std, strict=True))
