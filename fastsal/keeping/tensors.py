"""Copies of a network's small tensors, made again only when a tensor was written to."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_

import torch
from torch import Tensor


class TensorMemory:
    """Copies of tensors, by which a forward pass that wrote to them is undone.

    A write counts a tensor's version up, so that a copy is made, and compared, only after one. A
    few of PyTorch's functions write without counting (BatchNorm in training mode, fused observers
    of quantisation): the first pass compares all values and notes such tensors, which are then
    copied before every pass.
    """

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []
        self._versions: list[int | None] = []
        self._copies: list[Tensor] = []
        self._written_silently: set[int] = set()
        self._unknown: set[int] = set()

    def take(self, tensors: Sequence[Tensor], silent: Sequence[Tensor]) -> None:
        """Copy the tensors of which there is no copy yet, or an old one.

        Args:
            tensors: The tensors.
            silent: Those among them that are written to without a count.
        """
        if len(tensors) != len(self._tensors) or not all(map(is_, tensors, self._tensors)):
            self._adopt(tensors)
        self._written_silently.update(map(id, silent))
        versions = _versions(self._tensors)
        if versions == self._versions and None not in versions and not self._written_silently:
            return
        for index, tensor in enumerate(self._tensors):
            version = versions[index]
            fresh = version is not None and version == self._versions[index]
            if not fresh or id(tensor) in self._written_silently:
                self._copies[index] = tensor.detach().clone()
        self._versions = versions

    def put_back(self) -> None:
        """Write the copies over the tensors that were written to since `take`."""
        versions = _versions(self._tensors)
        unseen = self._written_silently or self._unknown
        if versions == self._versions and None not in versions and not unseen:
            return
        for index, (tensor, copy) in enumerate(zip(self._tensors, self._copies, strict=True)):
            counted = versions[index] != self._versions[index]
            if not (
                counted
                or versions[index] is None
                or id(tensor) in self._written_silently
                or id(tensor) in self._unknown
            ):
                continue
            if not torch.equal(tensor, copy):
                if not counted:
                    self._written_silently.add(id(tensor))
                with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                    tensor.copy_(copy)
        self._versions = _versions(self._tensors)
        self._unknown.clear()

    def _adopt(self, tensors: Sequence[Tensor]) -> None:
        known = {
            id(tensor): (version, copy)
            for tensor, version, copy in zip(
                self._tensors, self._versions, self._copies, strict=True
            )
        }
        self._unknown = {id(tensor) for tensor in tensors} - known.keys()
        self._written_silently &= known.keys()
        self._tensors = list(tensors)
        found = [known.get(id(tensor), (None, tensor)) for tensor in tensors]
        self._versions = [version for version, _ in found]
        self._copies = [copy for _, copy in found]


def _versions(tensors: Sequence[Tensor]) -> list[int | None]:
    """Return how often each tensor was written to; None for those of inference mode."""
    try:
        return [tensor._version for tensor in tensors]
    except RuntimeError:
        return [None if tensor.is_inference() else tensor._version for tensor in tensors]
