"""The streams of random numbers, put back after a forward pass that draws from them."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Collection
from typing import Any

import torch


class RandomNumbers:
    """The states of PyTorch's generators before a pass, and of Python's and NumPy's.

    Args:
        devices: The devices of the network.
        libraries: True looks at Python's and NumPy's generators too.
    """

    def __init__(self, devices: Collection[torch.device], libraries: bool) -> None:
        self._generators = [torch.default_generator]
        on_gpu = [device.index or 0 for device in devices if device.type == "cuda"]
        # While a CUDA graph is recorded no state can be read.
        if on_gpu and not torch.cuda.is_current_stream_capturing():
            self._generators += [torch.cuda.default_generators[index] for index in on_gpu]
        self._states = [generator.get_state() for generator in self._generators]
        self._libraries: list[tuple[Any, Callable[[], Any], Callable[[Any], None]]] = []
        if libraries:
            self._libraries.append((random.getstate(), random.getstate, random.setstate))
            numpy = sys.modules.get("numpy")
            if numpy is not None:
                get, put = _state_of_numpy, numpy.random.set_state
                self._libraries.append((get(), get, put))

    def put_back(self) -> bool:
        """Set the generators to their states before; return True if a library's had moved."""
        for generator, state in zip(self._generators, self._states, strict=True):
            if not torch.equal(generator.get_state(), state):
                generator.set_state(state)
        moved = [(state, put) for state, get, put in self._libraries if get() != state]
        for state, put in moved:
            put(state)
        return bool(moved)


def _state_of_numpy() -> tuple[Any, ...]:
    name, keys, *rest = sys.modules["numpy"].random.get_state()
    return (name, tuple(keys.tolist()), *rest)
