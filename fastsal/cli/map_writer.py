"""Write the maps of photographs and videos as pictures, with a manifest."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastsal._version import __version__
from fastsal.cli.manifest import Entry, Manifest, file_hash, held, weights_hash
from fastsal.cli.map_pictures import USUAL_SIZE, MapPictures, Settings
from fastsal.images import clips
from fastsal.images.files import find_photographs, read_photograph, write_png
from fastsal.optional import needed, one_line


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
    *,
    classes: tuple[str, ...] = (),
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
        classes: Their names; empty where they are not known.
        device: A torch device.
        quiet: No progress bar; without a terminal there is none either.

    Returns:
        The `Tally`.

    Raises:
        ValueError: If nothing was found, no map can be made at all, or another run writes there.
        OSError: If pictures cannot be written.
    """
    photographs = list(find_photographs(paths, out))
    if not photographs:
        raise ValueError(f"no image files in {', '.join(map(str, paths))}")
    try:
        network = network.to(device).eval()
    except AssertionError as error:
        # What a torch that was built without the device raises.
        raise ValueError(f"device {device!r} cannot be used: {error}") from error
    pictures = MapPictures(network, settings, classes, device)
    used: dict[str, Any] = {
        # As JSON reads it back, where tuples are lists.
        **{key: _plain(value) for key, value in asdict(settings).items()},
        "model": name,
        "weights_sha256": weights_hash(network),
        "fastsal": __version__,
    }
    environment = {"torch": str(torch.__version__), "device": device}
    out.mkdir(parents=True, exist_ok=True)
    with held(out):
        manifest = Manifest(out)
        tally = _all(_Run(manifest, pictures, used, environment), photographs, quiet)
        manifest.rewrite()
    return tally


def _all(run: _Run, photographs: Sequence[tuple[Path, Path]], quiet: bool) -> Tally:
    """Do one photograph after the other, with a bar and messages on the terminal."""
    written = done_before = failed = 0
    bar: Any = needed("tqdm", "the progress bar").tqdm(
        photographs, unit="image", disable=True if quiet else None
    )
    with bar:
        for path, place in bar:
            bar.set_postfix_str(place.name, refresh=False)
            state = run.one(path, place)
            written += state == "written"
            done_before += state == "done before"
            failed += state == "failed"
            while run.messages:
                bar.write(f"fastsal: {run.messages.pop(0)}", file=sys.stderr)
    return Tally(written, done_before, failed)


@dataclass(frozen=True)
class _Made:
    """What was made of one file: pictures by kind, the manifest's entry, and what writes them."""

    names: dict[str, str]
    found: Entry
    put: Callable[[], None]


def _entry(size: list[int], image: Tensor, found: Entry, told: list[str]) -> Entry:
    return {
        "image_size": size,
        "shown_size": list(image.shape[:1:-1]),
        **found,
        "warnings": told,
    }


class _Run:
    """Does one photograph after the other; `messages` is what to tell the user."""

    def __init__(
        self, manifest: Manifest, pictures: MapPictures, used: Entry, environment: Entry
    ) -> None:
        self.manifest, self.pictures = manifest, pictures
        self.used, self.environment = used, environment
        self.messages: list[str] = []
        self.folder: Path | None = None

    def one(self, path: Path, place: Path) -> str:
        """Return "written", "done before" or "failed"."""
        file = _relative(path, self.manifest.folder)
        is_clip = path.suffix.lower() in clips.SUFFIXES
        content = None
        try:
            content = file_hash(path)
            # A smoothed map has those before it in it, which are not kept.
            alone = is_clip or not self.pictures.settings.smoothing
            if alone and self.manifest.is_done(file, content, self.used):
                return "done before"
            if is_clip or place.parent != self.folder:
                self.pictures.smoother.restart()
            self.folder = None if is_clip else place.parent
            stem = self.manifest.stem(file, place.with_suffix("").as_posix())
            made = self._clip(path, stem) if is_clip else self._photograph(path, stem)
        except (ImportError, _Impossible):
            raise
        # A decoder and a network raise whatever their authors chose; one photograph's fault must
        # not end the run.
        except Exception as error:
            reason = one_line(error)
            self.messages.append(f"{path}: {reason}")
            self.manifest.begin(file)
            self.manifest.add(
                {"file": file, "sha256": content, "error": reason, "settings": self.used}
            )
            return "failed"
        self.manifest.begin(file)
        made.put()
        self.manifest.add(
            {
                "file": file,
                "sha256": content,
                **made.found,
                "stem": stem,
                "pictures": made.names,
                "settings": self.used,
                "environment": self.environment,
            }
        )
        self.messages += [f"{path}: {message}" for message in made.found["warnings"]]
        return "written"

    def _photograph(self, path: Path, stem: str) -> _Made:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            photograph = read_photograph(path, self.pictures.settings.size)
        self._prepare(photograph.image)
        pictures, found = self.pictures(photograph.image)
        names = {kind: f"{stem}_{kind}.png" for kind in pictures}

        def put() -> None:
            for kind, picture in pictures.items():
                write_png(picture, self.manifest.folder / names[kind])

        told = [str(one.message) for one in caught] + found.pop("warnings")
        size = [photograph.width, photograph.height]
        return _Made(names, _entry(size, photograph.image, found, told), put)

    def _clip(self, path: Path, stem: str) -> _Made:
        clip = clips.Clip(path, self.pictures.settings.size)
        kinds = ("map", "overlay", "lovi") if self.pictures.settings.lovi else ("map", "overlay")
        names = {kind: f"{stem}_{kind}.mp4" for kind in kinds}
        writer = clips.ClipWriter(self.manifest.folder, names, clip.rate)
        told: list[str] = []
        found: Entry = {}
        image = None
        try:
            for image in clip:
                self._prepare(image)
                pictures, found = self.pictures(image)
                told += [message for message in found["warnings"] if message not in told]
                writer.add(pictures)
            if image is None:
                raise ValueError("it has no frames")
        except BaseException:
            writer.drop()
            raise
        found = {"frames": writer.frames, "rate": float(clip.rate), "scales": found["scales"]}
        size = [clip.width, clip.height]
        return _Made(names, _entry(size, image, found, told), writer.finish)

    def _prepare(self, image: Tensor) -> None:
        if self.pictures.ready:
            return
        size = self.pictures.settings.size
        try:
            self.messages += self.pictures.prepare(size or USUAL_SIZE, size or USUAL_SIZE)
        except Exception as error:
            if size is not None:
                raise _Impossible(f"no map can be made at --size {size}: {error}") from error
            # The network may take photographs of one size alone.
            self.messages += self.pictures.prepare(*image.shape[2:])


class _Impossible(ValueError):
    """What fails on any photograph."""


def _relative(path: Path, folder: Path) -> str:
    """Return a file's path from the manifest's folder, wherever the command was called."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        # On another drive.
        return path.absolute().as_posix()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
