"""Image sets that live in the memory of the training device, each array brought there once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.masking.crossfit import SubsetView
from evaluation.masking.views import InputView, RawBatch, View
from evaluation.storage.checked_arrays import CheckedArray

__all__ = ["FREE_SHARE", "Residence", "ResidentView", "free_bytes", "stored_bytes"]

# Of the free memory of a device, what image sets may take; a network needs the rest.
FREE_SHARE = 0.5
# Bytes that are checked and uploaded at once.
_UPLOADED_TOGETHER = 2**26


@dataclass(frozen=True)
class ResidentView(View):
    """The images of a view in the memory of a device: a batch is an index there.

    Its inputs have the same bytes as those of the view, since the same code makes them.

    Args:
        view: the images as they are stored; makes inputs.
        parts: its pixels, its levels, or both, as `InputView.read` returns them, for all images.
        chosen: ``(M,)``, indices of the images of a subset; None for all.

    >>> stored = InputView(np.full((1, 2, 2, 3), 255, np.uint8), (0.5,) * 3, (0.25,) * 3)
    >>> (view,) = Residence("cpu").views(stored)
    >>> torch.equal(view(np.array([0])), stored(np.array([0])))
    True
    """

    view: InputView
    parts: tuple[Tensor, ...]
    chosen: Tensor | None = None

    def __len__(self) -> int:
        return len(self.view) if self.chosen is None else len(self.chosen)

    def read(self, indices: NDArray[np.integer]) -> RawBatch:
        """The ``(B,)`` indices, as a tensor; what they stand for is on the device already."""
        return (torch.from_numpy(indices.astype(np.int64, copy=False)),)

    def to_inputs(self, raw: RawBatch) -> Tensor:
        """The inputs of ``(B,)`` indices on the device."""
        (index,) = raw
        if self.chosen is not None:
            index = self.chosen[index]
        return self.view.to_inputs(tuple(part.index_select(0, index) for part in self.parts))


class Residence:
    """The memory of one device that image sets are kept in, also from one training to the next.

    An array of a file is uploaded once. On a CPU nothing is uploaded: its tensor is the file's
    memory map. Sets that the present training does not need go where their memory is wanted.

    Args:
        device: the device.
        share: share of its free memory that image sets may take.
    """

    def __init__(self, device: str, share: float = FREE_SHARE) -> None:
        self._device = torch.device(device)
        self._share = share
        self._kept: dict[object, Tensor] = {}

    def views(self, *views: View) -> tuple[View, ...]:
        """The views with their images on the device, or as they are where they do not fit.

        Views of another type than `InputView` and its subsets stay as they are.

        Args:
            views: all that a training reads.

        Raises:
            evaluation.storage.sealed.Unfit: an array is not the one that was stored.
        """
        wanted = _stored(views)
        if not self._has_room(wanted):
            return views
        try:
            held = {key: self._held(array) for key, array in wanted.items()}
        except torch.OutOfMemoryError:  # another process was faster
            return views
        return tuple(self._resident(view, held) for view in views)

    def _has_room(self, wanted: Mapping[object, NDArray[Any]]) -> bool:
        needed = sum(array.nbytes for key, array in wanted.items() if key not in self._kept)
        if needed <= self._share * free_bytes(self._device):
            return True
        self._kept = {key: kept for key, kept in self._kept.items() if key in wanted}
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return needed <= self._share * free_bytes(self._device)

    def _held(self, array: NDArray[Any]) -> Tensor:
        """An array's tensor on the device."""
        if self._device.type == "cpu":
            return _shared(array[:])
        key = _identity(array)
        if key in self._kept:
            return self._kept[key]
        held = torch.empty(array.shape, dtype=_shared(array[:0]).dtype, device=self._device)
        together = max(1, _UPLOADED_TOGETHER // max(1, array[:1].nbytes))
        for start in range(0, len(array), together):
            held[start : start + together].copy_(_shared(array[start : start + together]))
        if isinstance(array, CheckedArray) and array.file is not None:
            self._kept[key] = held
        return held

    def _resident(self, view: View, held: Mapping[object, Tensor]) -> View:
        if isinstance(view, InputView):
            return ResidentView(view, tuple(held[_identity(array)] for array in view.stored))
        if isinstance(view, SubsetView):
            whole = self._resident(view.view, held)
            if isinstance(whole, ResidentView) and whole.chosen is None:
                chosen = torch.from_numpy(view.chosen).to(self._device)
                return replace(whole, chosen=chosen)
        return view


def free_bytes(device: str | torch.device) -> int:
    """Bytes of a device's memory that a new tensor may take.

    On a CPU what the system has available; on a GPU also what PyTorch holds and does not use.

    >>> free_bytes("cpu") > 0
    True
    """
    device = torch.device(device)
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def stored_bytes(*views: View) -> int:
    """Bytes of all that views read, a file that several of them read counted once.

    >>> stored_bytes(InputView(np.zeros((2, 4, 4, 3), np.uint8), (0.5,) * 3, (0.25,) * 3))
    96
    """
    return sum(array.nbytes for array in _stored(views).values())


def _stored(views: Iterable[View]) -> dict[object, NDArray[Any]]:
    """What views read, each file or array once."""
    return {_identity(array): array for view in views for array in _arrays(view)}


def _arrays(view: View) -> tuple[NDArray[Any], ...]:
    """The stored arrays that the inputs of a view are made of; none of an unknown type of view."""
    if isinstance(view, SubsetView):
        return _arrays(view.view)
    return view.stored if isinstance(view, InputView) else ()


def _identity(array: NDArray[Any]) -> object:
    """The same for two arrays of one file; an array without a file is itself alone."""
    file = array.file if isinstance(array, CheckedArray) else None
    return id(array) if file is None else file


def _shared(array: NDArray[Any]) -> Tensor:
    """A tensor in the memory of an array, which nobody writes to."""
    with warnings.catch_warnings():
        # PyTorch has no tensors that cannot be written to, and says so.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
