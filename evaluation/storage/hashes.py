"""Hashes of arrays and of specifications."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastsal.files import short_hash

__all__ = ["ContentHash", "cell_id", "content_hash", "spec_id", "weights_hash"]

# Bytes that are hashed at once: nothing interrupts the hash of a map of hundreds of gigabytes.
_HASHED_TOGETHER = 2**26


class ContentHash:
    """Incremental `content_hash`: SHA-256 over shapes, types and bytes, as 16 hex digits.

    >>> parts = ContentHash()
    >>> parts.begin((3, 2), "|u1")
    >>> parts.update(np.zeros((2, 2), np.uint8))
    >>> parts.update(np.zeros((1, 2), np.uint8))
    >>> parts.digest() == content_hash(np.zeros((3, 2), np.uint8))
    True
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def begin(self, shape: tuple[int, ...], dtype: str) -> None:
        """Start the next array, of this shape and type (a ``dtype.str``)."""
        self._hash.update(f"{dtype}{shape}".encode())

    def update(self, part: NDArray[Any]) -> None:
        """Add the next entries of the array."""
        entries = np.atleast_1d(part)
        size = entries.itemsize * int(np.prod(entries.shape[1:]))
        together = max(1, _HASHED_TOGETHER // max(1, size))
        for start in range(0, len(entries), together):
            # By index, at which a checked array checks itself.
            self._hash.update(np.ascontiguousarray(entries[start : start + together]).data)

    def digest(self) -> str:
        """The hash of all arrays so far."""
        return self._hash.hexdigest()[:16]


def content_hash(*arrays: NDArray[Any]) -> str:
    """SHA-256 over shapes, types and bytes of arrays, as 16 hex digits.

    >>> content_hash(np.zeros(3)) == content_hash(np.zeros(4))
    False
    """
    hashed = ContentHash()
    for array in arrays:
        hashed.begin(array.shape, array.dtype.str)
        hashed.update(array)
    return hashed.digest()


def spec_id(spec: Mapping[str, Any]) -> str:
    """The id of a specification: SHA-256 over its canonical JSON, as 16 hex digits.

    >>> spec_id({"a": 1, "b": 2}) == spec_id({"b": 2, "a": 1})
    True
    """
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return short_hash(text.encode())


def cell_id(kind: str, spec: Mapping[str, Any], code: int) -> str:
    """The id of a cell: the hash of its kind and specification, and of the version of the code.

    >>> cell_id("data", {"source": "shapes"}, 1) == cell_id("data", {"source": "shapes"}, 2)
    False
    """
    return spec_id({"kind": kind, "code": code, "spec": spec})


def weights_hash(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over the names and bytes of weights and buffers, as 16 hex digits.

    >>> weights_hash({"a": torch.zeros(2)}) == weights_hash({"b": torch.zeros(2)})
    False
    """
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode())
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(values.numpy().data)
    return digest.hexdigest()[:16]
