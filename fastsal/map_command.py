"""`fastsal maps`: the maps of photographs as pictures, with a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastsal._version import __version__
from fastsal.attribution import Maps, SMOEScale
from fastsal.fastcam import FastCAM
from fastsal.lovi import heatmap, lovi, overlay
from fastsal.manifest import Entry, Manifest, file_hash
from fastsal.model_names import needed
from fastsal.pictures import find_photographs, read_photograph, write_png
from fastsal.preprocessing import Preprocessing


@dataclass(frozen=True)
class Settings:
    """What the pictures of a photograph depend on, besides the network and the file.

    Attributes:
        method: "smoe" or "fastcam".
        cam: The class activation map of Fast-CAM.
        target: The class Fast-CAM explains; None for the predicted one.
        layers: Names of the layers to read; None finds them.
        statistic: As for `SMOEScale`.
        normalize: As for `SMOEScale`.
        scale_weights: As `weights` for `SMOEScale`.
        size: The shorter side in pixels; None keeps the photograph's own.
        lovi: Whether a LOVI picture is written.
        mean: The network's input mean.
        std: The network's input standard deviation.
    """

    method: str
    cam: str
    target: int | None
    layers: tuple[str, ...] | None
    statistic: str
    normalize: str
    scale_weights: str
    size: int | None
    lovi: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Tally:
    """How many photographs were written, done before, and could not be read or mapped."""

    written: int
    done_before: int
    failed: int


def write_maps(
    network: nn.Module,
    name: str,
    paths: Sequence[Path],
    out: Path,
    settings: Settings,
    preprocessing: Preprocessing,
    *,
    device: str = "cpu",
    quiet: bool = False,
) -> Tally:
    """Write the pictures of photographs and the manifest's line on each.

    A photograph that cannot be read is recorded with the reason, and the rest goes on. What was
    written before, from the same bytes, network and settings, is left as it is.

    Args:
        network: The network.
        name: Its name, for the manifest.
        paths: Image files and folders of them.
        out: Where pictures and manifest go.
        settings: What to write.
        preprocessing: The network's classes.
        device: A torch device.
        quiet: No progress bar; without a terminal there is none either.

    Returns:
        The `Tally`.

    Raises:
        ValueError: If nothing was found, or no map can be made at all.
        OSError: If pictures cannot be written.
    """
    photographs = list(find_photographs(paths))
    if not photographs:
        raise ValueError(f"no image files in {', '.join(map(str, paths))}")
    network = network.to(device).eval()
    mapper = _Mapper(network, settings, preprocessing, device)
    out.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(out)
    used: dict[str, Any] = {
        # As JSON reads it back, where tuples are lists.
        **{key: _plain(value) for key, value in asdict(settings).items()},
        "model": name,
        "weights_sha256": _weights_hash(network),
        "versions": {"fastsal": __version__, "torch": str(torch.__version__)},
    }
    written = done_before = failed = 0
    bar: Any = needed("tqdm", "the progress bar").tqdm(
        photographs, unit="image", disable=True if quiet else None
    )
    with bar:
        for path, below in bar:
            bar.set_postfix_str(below.name, refresh=False)
            file = str(path)
            try:
                content = file_hash(path)
            except OSError as error:
                manifest.add({"file": file, "error": f"cannot be read: {error.strerror}"})
                failed += 1
                continue
            if manifest.is_done(file, content, used):
                done_before += 1
                continue
            entry: Entry = {"file": file, "sha256": content}
            try:
                image, entry["image_size"] = read_photograph(path, settings.size)
            except ValueError as error:
                manifest.add({**entry, "error": str(error), "settings": used})
                failed += 1
                continue
            try:
                pictures, found = mapper(image)
            except (ValueError, RuntimeError) as error:
                # What fails on the first photograph fails on all.
                if not written:
                    raise ValueError(f"{path}: {error}") from error
                manifest.add({**entry, "error": str(error), "settings": used})
                failed += 1
                continue
            stem = manifest.stem(file, below.with_suffix("").as_posix())
            names = {kind: f"{stem}_{kind}.png" for kind in pictures}
            for kind, picture in pictures.items():
                write_png(picture, out / names[kind])
            shown = [image.shape[3], image.shape[2]]
            manifest.add(
                {**entry, "shown_size": shown, **found, "stem": stem, "pictures": names}
                | {"settings": used}
            )
            written += 1
    manifest.rewrite()
    return Tally(written, done_before, failed)


class _Mapper:
    """Makes the pictures of one image, and says what was found in it."""

    def __init__(
        self, network: nn.Module, settings: Settings, preprocessing: Preprocessing, device: str
    ) -> None:
        self.settings, self.classes, self.device = settings, preprocessing.classes, device
        self.mean, self.std = (
            torch.tensor(values, device=device).reshape(1, 3, 1, 1)
            for values in (settings.mean, settings.std)
        )
        options: dict[str, Any] = {
            "weights": settings.scale_weights,
            "statistic": settings.statistic,
            "normalize": settings.normalize,
        }
        layers = None if settings.layers is None else list(settings.layers)
        self.smoe = SMOEScale(network, layers, **options)
        self.fastcam = None
        if settings.method == "fastcam":
            self.fastcam = FastCAM(network, scales=layers, cam=settings.cam, **options)

    def __call__(self, image: Tensor) -> tuple[dict[str, Tensor], Entry]:
        inputs = (image.to(self.device) - self.mean) / self.std
        maps = self.smoe.maps(inputs)
        combined = maps.combined
        if self.fastcam is not None:
            combined = self.fastcam.attribute(
                inputs, target=self.settings.target, expand_channels=False
            )[:, 0]
        combined = combined.cpu()
        shown = combined if self.settings.normalize != "none" else _stretched(combined)
        pictures = {"map": heatmap(shown)[0], "overlay": overlay(image, shown)[0]}
        if self.settings.lovi:
            stacked = maps.stacked.cpu()
            if self.settings.normalize == "none":
                stacked = stacked / stacked.amax().clamp_min(torch.finfo(stacked.dtype).tiny)
            pictures["lovi"] = lovi(stacked)[0]
        return pictures, {**self._prediction(maps), "scales": _scales(maps)}

    def _prediction(self, maps: Maps) -> Entry:
        logits = maps.logits
        if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
            return {"predicted_class": None, "class_name": None, "probability": None}
        probability, index = logits[0].float().softmax(0).max(0)
        known = len(self.classes) == logits.shape[1]
        return {
            "predicted_class": int(index),
            "class_name": self.classes[int(index)] if known else None,
            "probability": round(float(probability), 6),
        }


def _scales(maps: Maps) -> list[Entry]:
    return [
        {"name": scale.name, "stride": scale.stride, "size": list(scale_map.shape[:0:-1])}
        for scale, scale_map in zip(maps.scales, maps.per_scale, strict=True)
    ]


def _stretched(combined: Tensor) -> Tensor:
    """Return a map that was not normalised from 0 to 1, for its picture alone."""
    low, high = combined.amin(), combined.amax()
    return (combined - low) / (high - low).clamp_min(torch.finfo(combined.dtype).tiny)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _weights_hash(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, tensor in network.state_dict().items():
        digest.update(key.encode())
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(content.numpy())
    return digest.hexdigest()
