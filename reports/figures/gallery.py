"""Pictures of maps for a page: maps side by side, masked images, LOVI."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from evaluation.datasets.grids import GRIDS
from evaluation.masking.levels import MODES, Masking
from fastsal.images.colour import heatmap, lovi
from reports.figures.samples import as_plane, as_rgb, planes_shown
from reports.records.run import Method, Run

__all__ = [
    "Gallery",
    "MaskedColumn",
    "MaskedImage",
    "PictureRow",
    "lovi_key",
    "picture_uri",
    "read_gallery",
]

Pixels = NDArray[np.uint8]

# Larger pictures are shrunk to this many pixels a side, so that a page of hundreds stays small.
_LARGEST_SIDE = 128
_MOST_IMAGES = 8
# Maps are shown between these percentiles: extreme pixels would leave a gradient map black.
_PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True)
class PictureRow:
    """A row of pictures, one an image, such as a method's maps; None for one not measured."""

    title: str
    pictures: Sequence[str | None]


@dataclass(frozen=True)
class MaskedColumn:
    """A mode and a fraction, with the number of pixels that masks remove or keep.

    Args:
        mode: ``"roar"`` or ``"kar"``.
        fraction: of the pixels, as asked for.
        fewest: pixels removed (ROAR) or kept (KAR), the minimum over methods.
        most: the maximum over methods; equal to `fewest` in a sound run.
        of: pixels of the image.
    """

    mode: str
    fraction: float
    fewest: int
    most: int
    of: int


@dataclass(frozen=True)
class MaskedImage:
    """One image masked by every method at each fraction of both modes."""

    caption: str
    columns: Sequence[MaskedColumn]
    rows: Sequence[PictureRow]


@dataclass(frozen=True)
class _Maps:
    index: NDArray[np.int64]
    saliency: NDArray[np.float32]
    levels: Pixels
    cuts: tuple[float, ...]
    scales: NDArray[np.float32] | None


@dataclass(frozen=True)
class Gallery:
    """The maps of a few test images by every method.

    Args:
        methods: in the page's order.
        index: ``(K,)``, indices of the test images.
        images: ``(K, H, W, 3)``; None if the images are not staged; of volumes and signals with
            their own axes and channels.
        captions: the class of each image.
        mean: the training set's channel mean in [0, 1].
        object_masks: ``(K, H, W)``; None if the true objects are not known; likewise.
        maps: by method.
    """

    methods: Sequence[Method]
    index: Sequence[int]
    images: Pixels | None
    captions: Sequence[str]
    mean: tuple[float, ...]
    object_masks: NDArray[np.bool_] | None
    maps: Mapping[str, _Maps]

    def side_by_side(self) -> list[PictureRow]:
        """The images, the true objects if known, and each method's maps."""
        rows = []
        if self.images is not None:
            rows.append(self._image_row(self.images))
        if self.object_masks is not None:
            white = self.object_masks.astype(np.uint8) * 255
            masks = zip(white, self._planes, strict=True)
            shown = [as_plane(mask, self.axes, plane)[..., None] for mask, plane in masks]
            rows.append(
                PictureRow("True object", [picture_uri(one.repeat(3, -1)) for one in shown])
            )
        for method in self.methods:
            maps = self.maps.get(method.name)
            if maps is not None:
                pictures = self._in_order(maps, _stretched(maps.saliency), heatmap)
                rows.append(PictureRow(method.title, pictures))
        return rows

    def lovi_rows(self) -> list[PictureRow]:
        """LOVI pictures; methods that combine the same maps with other weights share a row."""
        shared: dict[bytes, tuple[list[str], _Maps]] = {}
        for method in self.methods:
            maps = self.maps.get(method.name)
            if maps is not None and maps.scales is not None:
                shared.setdefault(maps.scales.tobytes(), ([], maps))[0].append(method.title)
        rows = []
        for titles, maps in shared.values():
            if maps.scales is not None:
                rows.append(PictureRow("; ".join(titles), self._in_order(maps, maps.scales, lovi)))
        if rows and self.images is not None:
            rows.insert(0, self._image_row(self.images))
        return rows

    @property
    def scales(self) -> int:
        """Number of maps in a LOVI picture; 0 without any."""
        found = [maps.scales.shape[1] for maps in self.maps.values() if maps.scales is not None]
        return max(found, default=0)

    def masked(self, image: int) -> MaskedImage:
        """One image of the gallery, masked by each method at each cut in both modes.

        Args:
            image: position in the gallery.
        """
        counts: dict[tuple[str, float], list[int]] = {}
        rows, plane = [], self._planes[image]
        for method in self.methods:
            maps = self.maps.get(method.name)
            place = None if maps is None else _place(maps, self.index[image])
            if self.images is None or not self.mean or maps is None or place is None:
                continue
            fill = np.rint(255 * np.asarray(self.mean)).astype(np.uint8)
            pictures = []
            for mode in MODES:
                for cut in maps.cuts:
                    kept = Masking(mode, cut, maps.cuts).kept(maps.levels[place])
                    counted = kept if mode == "kar" else ~kept
                    counts.setdefault((mode, cut), []).append(int(counted.sum()))
                    masked = np.where(kept[..., None], self.images[image], fill)
                    pictures.append(picture_uri(as_rgb(masked, plane)))
            rows.append(PictureRow(method.title, pictures))
        pixels = 0 if self.images is None else self.images[image, ..., 0].size
        columns = [
            MaskedColumn(mode, cut, min(found), max(found), pixels)
            for (mode, cut), found in counts.items()
        ]
        return MaskedImage(self.captions[image], columns, rows)

    @property
    def axes(self) -> int:
        """Number of axes of a map: 2 of images, 3 of volumes, 1 of signals."""
        return next(iter(self.maps.values())).saliency.ndim - 1

    @property
    def _planes(self) -> list[int | None]:
        """The plane that stands for each volume; None for images and signals."""
        count = len(self.index)
        if self.axes != 3:
            return [None] * count
        depth = next(iter(self.maps.values())).saliency.shape[1]
        return [*planes_shown(depth, self.object_masks, count)]

    def _image_row(self, images: Pixels) -> PictureRow:
        title = GRIDS[self.axes].sample.capitalize()
        shown = (as_rgb(one, plane) for one, plane in zip(images, self._planes, strict=True))
        return PictureRow(title, [picture_uri(picture) for picture in shown])

    def _in_order(
        self,
        maps: _Maps,
        values: NDArray[np.float32],
        coloured: Callable[[torch.Tensor], torch.Tensor],
    ) -> list[str | None]:
        """Pictures of a method's maps or scales, one for each image of the gallery."""
        pictures: list[str | None] = []
        for index, at in zip(self.index, self._planes, strict=True):
            place = _place(maps, index)
            if place is None:
                pictures.append(None)
                continue
            plane = np.ascontiguousarray(as_plane(values[place], self.axes, at))
            pictures.append(picture_uri(_bytes(coloured(torch.from_numpy(plane[None])))[0]))
        return pictures


def read_gallery(run: Run) -> Gallery | None:
    """The gallery of a run; None before the first maps are there."""
    maps: dict[str, _Maps] = {}
    for cell in run.cells("maps"):
        arrays = run.files.gallery(cell.id)
        name = cell.records[0].method if cell.records else cell.spec.get("method")
        if arrays is not None and isinstance(name, str):
            maps[name] = _Maps(
                index=arrays["index"],
                saliency=arrays["saliency"],
                levels=arrays["levels"],
                cuts=tuple(float(cut) for cut in arrays["cuts"]),
                scales=arrays.get("scales"),
            )
    if not maps:
        return None
    index = [int(i) for i in next(iter(maps.values())).index[:_MOST_IMAGES]]
    labels = run.of_test_images("test_labels", index)
    classes = run.data.get("classes", [])
    return Gallery(
        methods=list(run.methods.values()),
        index=index,
        images=run.of_test_images("test_images", index),
        captions=[str(classes[int(label)]) for label in labels]
        if labels is not None and classes
        else [f"test image {i}" for i in index],
        mean=tuple(run.data.get("mean", ())),
        object_masks=run.of_test_images("test_object_masks", index),
        maps=maps,
    )


def lovi_key(scales: int) -> list[str]:
    """The CSS colour of each scale of a LOVI picture, as if it alone were salient."""
    if scales < 1:
        return []
    alone = lovi(torch.eye(scales)[None, :, :, None])[0, :, :, 0].T
    return ["#" + "".join(f"{round(255 * c):02x}" for c in rgb) for rgb in alone.tolist()]


def picture_uri(rgb: Pixels) -> str:
    """An RGB picture ``(H, W, 3)`` as a data URI, shrunk if it is large."""
    image = Image.fromarray(np.ascontiguousarray(rgb))
    buffer = io.BytesIO()
    if max(image.size) <= _LARGEST_SIDE:
        image.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.BOX)
        image.save(buffer, "WEBP", quality=85)
        kind = "webp"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _place(maps: _Maps, index: int) -> int | None:
    places = np.flatnonzero(maps.index == index)
    return int(places[0]) if places.size else None


def _stretched(saliency: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maps rescaled from their 1st percentile (0) to their 99th (1); a constant map is 0.5."""
    axes = tuple(range(1, saliency.ndim))
    low, high = np.percentile(saliency, _PERCENTILES, axis=axes, keepdims=True)
    low, high = (
        np.where(high > low, low, saliency.min(axes, keepdims=True)),
        np.where(high > low, high, saliency.max(axes, keepdims=True)),
    )
    flat = high <= low
    stretched = (saliency - low) / np.where(flat, 1.0, high - low)
    clipped: NDArray[np.float32] = np.where(flat, 0.5, stretched).clip(0, 1).astype(np.float32)
    return clipped


def _bytes(rgb: torch.Tensor) -> Pixels:
    """RGB ``(N, 3, H, W)`` in [0, 1] as ``(N, H, W, 3)`` uint8."""
    pixels: Pixels = rgb.mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels
