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
from fastsal.cli.manifest import Entry, Manifest, file_hash, folder_lock, weights_hash
from fastsal.cli.map_pictures import (
    DEFAULT_SIZE,
    MapPictures,
    PictureSettings,
    class_in_words,
)
from fastsal.images import clips
from fastsal.images.files import find_photographs, read_photograph, write_png
from fastsal.optional import needed, one_line


@dataclass(frozen=True)
class Tally:
    """The number of photographs by outcome.

    Attributes:
        written: Those whose pictures were written.
        done_before: Those whose pictures were there already.
        failed: Those that could not be read, or of which the network made no map.
    """

    written: int
    done_before: int
    failed: int


def write_maps(
    network: nn.Module,
    name: str,
    paths: Sequence[Path],
    out: Path,
    settings: PictureSettings,
    *,
    classes: tuple[str, ...] = (),
    device: str = "cpu",
    quiet: bool = False,
    overwrite: bool = False,
) -> Tally:
    """Write the pictures of photographs and videos, and a line of the manifest for each.

    A photograph that cannot be read is recorded with its error, and the run goes on. Pictures from
    an earlier run of the same file content, network and settings are not written again.

    Args:
        network: The network.
        name: The network's name, for the manifest.
        paths: Image files, videos and folders of images.
        out: The folder of the pictures and the manifest; it is made if it is missing.
        settings: The settings of the pictures.
        classes: The names of the classes; empty if they are not known.
        device: A torch device.
        quiet: Prints no progress bar, which only a terminal has, and no line for each file.
        overwrite: Replaces pictures that were made with other settings.

    Returns:
        The `Tally`.

    Raises:
        ValueError: If there are no image files, no map can be made of any image, the folder has
            pictures of them with other settings, or another run writes to it.
        OSError: If pictures cannot be written.
    """
    photographs = list(find_photographs(paths, out))
    if not photographs:
        raise ValueError(f"no image files in {', '.join(map(str, paths))}")
    try:
        network = network.to(device).eval()
    except AssertionError as error:
        # The error of a torch that was built without the device.
        raise ValueError(f"device {device!r} cannot be used: {error}") from error
    pictures = MapPictures(network, settings, classes, device)
    recorded: Entry = {
        # Lists for tuples, to be equal to the settings that are read back from JSON.
        **{
            key: _plain(value)
            for key, value in asdict(settings).items()
            # Pictures from before there were windows have no such entry.
            if key != "window" or value is not None
        },
        "model": name,
        "weights_sha256": weights_hash(network),
        "fastsal": __version__,
    }
    environment = {"torch": str(torch.__version__), "device": device}
    out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out):
        manifest = Manifest(out)
        if not overwrite:
            manifest.check_settings([_relative(path, out) for path, _ in photographs], recorded)
        tally = _write_all(_Writer(manifest, pictures, recorded, environment), photographs, quiet)
        manifest.rewrite()
    return tally


def _write_all(writer: _Writer, photographs: Sequence[tuple[Path, Path]], quiet: bool) -> Tally:
    """Write the pictures of all photographs, with a progress bar and messages."""
    written = done_before = failed = 0
    bar: Any = needed("tqdm", "the progress bar").tqdm(
        photographs, unit="image", disable=True if quiet else None
    )
    with bar:
        for path, place in bar:
            bar.set_postfix_str(place.name, refresh=False)
            outcome = writer.write(path, place)
            written += outcome == "written"
            done_before += outcome == "done before"
            failed += outcome == "failed"
            while writer.messages:
                bar.write(f"fastsal: {writer.messages.pop(0)}", file=sys.stderr)
            if outcome == "written" and not quiet:
                bar.write(f"{path}: {writer.seen}", file=sys.stdout)
    return Tally(written, done_before, failed)


@dataclass(frozen=True)
class _Pictures:
    """The pictures of one photograph or video, before they replace earlier ones.

    Attributes:
        names: The names of the files, by kind of picture.
        facts: The facts for the manifest.
        write: Writes the files.
    """

    names: dict[str, str]
    facts: Entry
    write: Callable[[], None]


def _facts(size: list[int], image: Tensor, facts: Entry, messages: list[str]) -> Entry:
    return {
        "image_size": size,
        "shown_size": list(image.shape[:1:-1]),
        **facts,
        "warnings": messages,
    }


class _Writer:
    """Writes the pictures of one photograph or video after the other.

    Args:
        manifest: The manifest.
        pictures: Makes the pictures.
        settings: The settings, as the manifest records them.
        environment: The versions and the device, as the manifest records them.

    Attributes:
        messages: Messages for the user that have not been printed.
        seen: The class that the network saw in the last file, in words.
    """

    def __init__(
        self, manifest: Manifest, pictures: MapPictures, settings: Entry, environment: Entry
    ) -> None:
        self.messages: list[str] = []
        self.seen = ""
        self._manifest, self._pictures = manifest, pictures
        self._settings, self._environment = settings, environment
        # The folder of the last photograph, within which maps are smoothed over time.
        self._folder: Path | None = None

    def write(self, path: Path, place: Path) -> str:
        """Write the pictures of a file and its line of the manifest.

        Args:
            path: The photograph or video.
            place: The file's path below the folder that all files share.

        Returns:
            "written", "done before" or "failed".

        Raises:
            ImportError: If a package is missing.
            OSError: If the pictures cannot be written.
            ValueError: If no map can be made of any image.
        """
        file = _relative(path, self._manifest.folder)
        is_clip = path.suffix.lower() in clips.SUFFIXES
        content = None
        try:
            content = file_hash(path)
            # A smoothed map depends on the maps before, which are not kept.
            independent = is_clip or not self._pictures.settings.smoothing
            if independent and self._manifest.is_done(file, content, self._settings):
                return "done before"
            if is_clip or place.parent != self._folder:
                self._pictures.smoother.restart()
            self._folder = None if is_clip else place.parent
            stem = self._manifest.stem(file, place.with_suffix("").as_posix())
            made = self._clip(path, stem) if is_clip else self._photograph(path, stem)
        except (ImportError, _NoMapError):
            raise
        # Decoders and networks raise any class of error; one bad photograph must not end the run.
        except Exception as error:
            reason = one_line(error)
            self.messages.append(f"{path}: {reason}")
            self._manifest.invalidate(file)
            self._manifest.add(
                {"file": file, "sha256": content, "error": reason, "settings": self._settings}
            )
            return "failed"
        self._manifest.invalidate(file)
        made.write()
        self.seen = class_in_words(made.facts)
        self._manifest.add(
            {
                "file": file,
                "sha256": content,
                **made.facts,
                "stem": stem,
                "pictures": made.names,
                "settings": self._settings,
                "environment": self._environment,
            }
        )
        self.messages += [f"{path}: {message}" for message in made.facts["warnings"]]
        return "written"

    def _photograph(self, path: Path, stem: str) -> _Pictures:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            settings = self._pictures.settings
            photograph = read_photograph(path, settings.size, settings.window)
        self._prepare(photograph.image)
        pictures, facts = self._pictures(photograph.image, photograph.with_opacity)
        names = {kind: f"{stem}_{kind}.png" for kind in pictures}

        def write() -> None:
            for kind, picture in pictures.items():
                write_png(picture, self._manifest.folder / names[kind])

        messages = [str(one.message) for one in caught] + facts.pop("warnings")
        size = [photograph.width, photograph.height]
        return _Pictures(names, _facts(size, photograph.image, facts, messages), write)

    def _clip(self, path: Path, stem: str) -> _Pictures:
        clip = clips.Clip(path, self._pictures.settings.size)
        kinds = ("map", "overlay", "lovi") if self._pictures.settings.lovi else ("map", "overlay")
        names = {kind: f"{stem}_{kind}.mp4" for kind in kinds}
        writer = clips.ClipWriter(self._manifest.folder, names, clip.rate)
        messages: list[str] = []
        facts: Entry = {}
        image = None
        try:
            for image in clip:
                self._prepare(image)
                pictures, facts = self._pictures(image)
                messages += [message for message in facts["warnings"] if message not in messages]
                writer.add(pictures)
            if image is None:
                raise ValueError("it has no frames")
        except BaseException:
            writer.drop()
            raise
        facts = {"frames": writer.frames, "rate": float(clip.rate), "scales": facts["scales"]}
        size = [clip.width, clip.height]
        return _Pictures(names, _facts(size, image, facts, messages), writer.finish)

    def _prepare(self, image: Tensor) -> None:
        if self._pictures.ready:
            return
        size = self._pictures.settings.size
        try:
            self.messages += self._pictures.prepare(size or DEFAULT_SIZE, size or DEFAULT_SIZE)
        except Exception as error:
            if size is not None:
                raise _NoMapError(f"no map can be made at --size {size}: {error}") from error
            # The network may take one image size only, which may be this photograph's.
            self.messages += self._pictures.prepare(*image.shape[2:])


class _NoMapError(ValueError):
    """An error that every photograph would have."""


def _relative(path: Path, folder: Path) -> str:
    """Return a file's path relative to the manifest's folder."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        # Another drive on Windows.
        return path.absolute().as_posix()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
