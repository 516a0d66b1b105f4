"""Progress of long work in sentences, and checkpoints, from which a later start continues."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from evaluation.storage.sealed import Unfit, unreadable
from evaluation.storage.writing import write_atomically

__all__ = ["Checkpoint", "Progress"]

# What an interruption costs at most, beside the step that is under way.
_SECONDS_BETWEEN = 300.0


class Progress:
    """Progress of long work, a sentence every few minutes.

    Args:
        title: of the work.
        say: called with each sentence; None for nobody.
        every: seconds between two sentences, and before the first.

    Attributes:
        earlier_seconds: of an earlier start that this one goes on from.

    >>> Progress("maps of ig", print).tell(0.5)
    maps of ig: 50 % in 0 min
    """

    def __init__(
        self,
        title: str,
        say: Callable[[str], object] | None,
        *,
        every: float = _SECONDS_BETWEEN,
    ) -> None:
        self.earlier_seconds = 0.0
        self._title, self._say, self._every = title, say, every
        self._begun = self._told = time.monotonic()

    @property
    def due(self) -> bool:
        """True if the last sentence is long enough ago."""
        return time.monotonic() - self._told >= self._every

    @property
    def seconds(self) -> float:
        """Of the work, earlier starts counted."""
        return self.earlier_seconds + time.monotonic() - self._begun

    def tell(self, share: float, before: str = "", after: str = "") -> None:
        """Say how far the work is.

        Args:
            share: of the work that is done, in [0, 1].
            before: words before the share.
            after: words after the time.
        """
        if self._say is not None:
            far = f"{100 * share:.0f} % in {self.seconds / 60:.0f} min"
            self._say(f"{self._title}: {before}{far}{after}")
        self._told = time.monotonic()

    def tell_if_due(self, share: float) -> None:
        """Say how far the work is, if the last sentence is long enough ago."""
        if self.due:
            self.tell(share)


class Checkpoint:
    """The state of unfinished work in one file, written every few minutes.

    The file is the SHA-256 of its content in 64 hexadecimal digits, a line feed, and the content as
    `torch.save` writes it; nothing in it is unpickled.

    Args:
        path: of the file.
        title: of the work, in sentences.
        say: called with a sentence on how far the work is, after each write and each load, and on
            a write that failed; None for nobody.
        every: seconds between two writes, and before the first.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "training.pt"
    >>> Checkpoint(path, "ResNet-9", print).save("seed 0", {"epoch": 3}, 0.75)
    ResNet-9: 75 % in 0 min
    >>> Checkpoint(path).load("seed 0")
    {'epoch': 3}
    >>> Checkpoint(path).load("seed 1") is None
    True
    >>> folder.cleanup()
    """

    def __init__(
        self,
        path: Path,
        title: str = "",
        say: Callable[[str], object] | None = None,
        *,
        every: float = _SECONDS_BETWEEN,
    ) -> None:
        self._path, self._progress = path, Progress(title, say, every=every)

    @property
    def due(self) -> bool:
        """True if the last write is long enough ago."""
        return self._progress.due

    @property
    def earlier_seconds(self) -> float:
        """Of the work that `load` took over."""
        return self._progress.earlier_seconds

    def forget(self) -> None:
        """Start from nothing after all, though `load` gave a state."""
        self._progress.earlier_seconds = 0.0

    def load(self, of: str) -> dict[str, Any] | None:
        """The state that was written last, its tensors on the CPU.

        Args:
            of: as it was given to `save`.

        Returns:
            None without a file, or with that of other work or of another version of PyTorch.

        Raises:
            Unfit: another content than was written.
        """
        try:
            said, _, content = self._path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except IsADirectoryError as error:
            raise Unfit(self._path, "is a folder: expected a file") from error
        found = _hash(content)
        if found != said:
            expected = said[:64].decode(errors="replace")
            raise Unfit(
                self._path,
                f"has content of hash {found.decode()}: expected that of hash {expected}",
            )
        try:
            stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # PyTorch's readers raise whatever they stumble over
            raise unreadable(self._path, error, "a checkpoint") from error
        if stored["of"] != _work(of):
            return None
        self._progress.earlier_seconds = stored["seconds"]
        self._progress.tell(stored["share"], before="goes on after ")
        state: dict[str, Any] = stored["state"]
        return state

    def save(self, of: str, state: Mapping[str, Any], share: float) -> None:
        """Write the state in place of the last one; the last one stays where that fails.

        Args:
            of: what the work is, from a hash of its start on: other work does not continue it.
            state: tensors, numbers and strings, in dictionaries and lists.
            share: of the work that is done, in [0, 1].
        """
        seconds = self._progress.seconds
        stored = {"of": _work(of), "seconds": seconds, "share": share, "state": dict(state)}
        buffer = io.BytesIO()
        torch.save(stored, buffer)
        content = buffer.getbuffer()
        parts = _hash(content), b"\n", content
        try:
            write_atomically(self._path, lambda file: file.writelines(parts))
        except OSError as error:
            # A full disk costs the way back, not the work.
            self._progress.tell(share, after=f", not kept for a later start ({error})")
        else:
            self._progress.tell(share)

    def remove(self) -> None:
        """Remove the file, once the work's result is stored."""
        self._path.unlink(missing_ok=True)


def _work(of: str) -> str:
    # Another version of PyTorch may round otherwise: the result would be neither's.
    return f"{of}, PyTorch {torch.__version__}"


def _hash(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
