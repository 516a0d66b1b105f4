"""Video files: read frames, write pictures as frames, with PyAV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastsal.files import partial_beside, synced
from fastsal.images.files import resized_size, to_tensor
from fastsal.optional import needed

SUFFIXES = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"))
# Frames a second where the container does not say.
DEFAULT_RATE = Fraction(25)


class Clip:
    """The frames of a video file.

    Args:
        path: A file that FFmpeg can read.
        size: Length of the shorter side in pixels; None keeps the video's size.

    Attributes:
        rate: Frames a second.
        width: Width of the stored frames in pixels.
        height: Height of the stored frames in pixels.

    Raises:
        ImportError: If PyAV is not installed.
        ValueError: If the file has no video stream.
    """

    def __init__(self, path: Path, size: int | None) -> None:
        self.path, self.size = path, size
        with self._open() as container:
            stream = container.streams.video[0]
            self.rate: Fraction = stream.average_rate or DEFAULT_RATE
            self.width, self.height = int(stream.width), int(stream.height)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield each frame `(1, 3, H, W)`, upright, RGB in [0, 1], resized to `size`."""
        pillow: Any = needed("PIL.Image", "reading video", "pillow")
        with self._open() as container:
            for frame in container.decode(video=0):
                picture = upright(frame.to_image(), getattr(frame, "rotation", 0))
                width, height = picture.size
                new_size = resized_size(width, height, self.size)
                if new_size != (width, height):
                    picture = picture.resize(new_size, pillow.Resampling.BILINEAR)
                yield to_tensor(picture)

    def _open(self) -> Any:
        av: Any = needed("av", "reading video", "'fastsal[video]'")
        try:
            container = av.open(str(self.path))
        except av.error.FFmpegError as error:
            raise ValueError(f"{self.path} cannot be read as a video: {error}") from error
        if not container.streams.video:
            container.close()
            raise ValueError(f"{self.path} has no video stream")
        return container


def upright(picture: Any, rotation: float) -> Any:
    """Return a Pillow image rotated by a video's rotation, in degrees counter-clockwise.

    >>> import PIL.Image
    >>> upright(PIL.Image.new("RGB", (4, 2)), -90).size
    (2, 4)
    """
    return picture.rotate(rotation, expand=True) if rotation else picture


class ClipWriter:
    """A writer of several videos at once, one for each kind of picture, whole or not at all.

    The files appear under their names once `finish` is called.

    Args:
        folder: The folder of the videos.
        names: The file name of each kind's video.
        rate: Frames a second.

    Attributes:
        frames: The number of frames written so far.
    """

    def __init__(self, folder: Path, names: Mapping[str, str], rate: Fraction) -> None:
        self.folder, self.names, self.rate = folder, names, rate
        self._streams: dict[str, tuple[Any, Any]] = {}
        self._partials: dict[str, Path] = {}
        self._files = ExitStack()
        self.frames = 0

    def add(self, pictures: Mapping[str, Tensor]) -> None:
        """Add one frame to each video.

        Args:
            pictures: `(3, H, W)` in [0, 1] for each kind.

        Raises:
            ImportError: If PyAV is not installed.
        """
        av: Any = needed("av", "writing video", "'fastsal[video]'")
        for kind, picture in pictures.items():
            # Most players need yuv420p, which has colours at half the resolution: an even size.
            height, width = (side // 2 * 2 for side in picture.shape[1:])
            pixels = picture[:, :height, :width].mul(255).round().to(torch.uint8).cpu()
            frame = av.VideoFrame.from_ndarray(
                pixels.movedim(0, -1).contiguous().numpy(), format="rgb24"
            )
            container, stream = self._stream(av, kind, height, width)
            container.mux(stream.encode(frame))
        self.frames += 1

    def finish(self) -> None:
        """Complete the videos and move them to their places."""
        with self._files:
            for container, stream in self._streams.values():
                container.mux(stream.encode(None))
                container.close()
            for kind, partial in self._partials.items():
                synced(partial)
                partial.replace(self.folder / self.names[kind])

    def drop(self) -> None:
        """Remove the unfinished videos."""
        self._files.close()

    def _stream(self, av: Any, kind: str, height: int, width: int) -> tuple[Any, Any]:
        if kind not in self._streams:
            partial = self._files.enter_context(partial_beside(self.folder / self.names[kind]))
            container = self._files.enter_context(av.open(str(partial), "w"))
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            stream = container.add_stream(codec, rate=self.rate)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            self._streams[kind] = container, stream
            self._partials[kind] = partial
        return self._streams[kind]
