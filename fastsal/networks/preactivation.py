"""Pre-activations: the input of the activation function that made a tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from fastsal.geometry.functions import name_of
from fastsal.networks.hooks import tensors_in
from fastsal.networks.trace import ACTIVATIONS, DROPOUTS

# Functions by which a ReLU can be written.
CLAMPS = frozenset(("clamp", "clamp_", "clamp_min", "clamp_min_"))
# Functions that put tensors together, or take a tensor apart, and change no value.
COLLECTIONS = frozenset(
    """cat concat concatenate stack chunk split tensor_split unbind narrow __getitem__
    channel_shuffle pixel_shuffle""".split()  # noqa: SIM905
)
# Functions that rearrange values and change none: they are applied to the pre-activations too.
LAYOUTS = COLLECTIONS | frozenset(
    """view reshape flatten unflatten permute transpose movedim swapaxes squeeze unsqueeze
    contiguous clone detach to float half bfloat16 double cpu cuda""".split()  # noqa: SIM905
)


class PreActivations(TorchFunctionMode):
    """A torch function mode that keeps the input of every activation function.

    An input is kept as long as the output made from it lives; if it is overwritten in place, a copy
    is kept. Concatenations, views and the like of such outputs have pre-activations as well.

    >>> before = PreActivations()
    >>> with before:
    ...     made = torch.relu_(torch.tensor([-1.0, 2.0]))
    >>> made.tolist(), before.of(made).tolist()
    ([0.0, 2.0], [-1.0, 2.0])
    """

    def __init__(self) -> None:
        super().__init__()
        self._given: Any = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> Tensor | None:
        """Return the pre-activations of a tensor, in its shape; None if no activation made it."""
        given: Tensor | None = self._given.get(tensor)
        return given

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function and note the pre-activations of its outputs."""
        kwargs = kwargs or {}
        name = name_of(func)
        given = None
        read = list(tensors_in((args, kwargs)))
        if name in ACTIVATIONS or name in CLAMPS:
            if read:
                given = read[0].detach()
                # `inplace` has another position in each function; any other flag that is True
                # costs a copy at most.
                flagged = any(value is True for value in (*args, *kwargs.values()))
                if flagged or name.endswith("_"):
                    given = given.clone()
        elif name in LAYOUTS and any(tensor in self._given for tensor in read):
            with torch.no_grad():
                given = func(*self._before(args), **self._before(kwargs))
        result = func(*args, **kwargs)
        made = [args[0]] if name == "__setitem__" else list(tensors_in(result))
        before = [] if given is None else list(tensors_in(given))
        for index, tensor in enumerate(made):
            if index < len(before) and before[index].shape == tensor.shape:
                self._given[tensor] = before[index]
            elif name not in DROPOUTS:
                # A tensor that is written to in place is no longer the activation's output.
                self._given.pop(tensor, None)
        return result

    def _before(self, value: Any) -> Any:
        """Return arguments with pre-activations in place of the tensors that have some."""
        if isinstance(value, Tensor):
            return self._given.get(value, value).detach()
        if isinstance(value, Mapping):
            return {key: self._before(item) for key, item in value.items()}
        if type(value) in (tuple, list):
            return type(value)(self._before(item) for item in value)
        return value
