"""Operations of an ONNX graph with the values of their tensors, and calls of PyTorch functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

# A sequence of ONNX is a tuple of tensors; None is an input that is left out.
Value: TypeAlias = "Tensor | tuple[Any, ...] | None"


@dataclass(frozen=True)
class Operation:
    """A node of an ONNX graph in one pass.

    Attributes:
        kind: The operator, such as "Conv".
        attributes: The node's attributes, text as `str`.
        inputs: The values that the node reads.
        outputs: The values that it makes.

    Example:
        >>> import torch
        >>> Operation("Relu", {}, (torch.zeros(2, 3),), (torch.zeros(2, 3),)).made.shape
        torch.Size([2, 3])
    """

    kind: str
    attributes: Mapping[str, Any]
    inputs: Sequence[Value]
    outputs: Sequence[Value]

    @property
    def read(self) -> Tensor:
        """The first input.

        Raises:
            ValueError: If it is no tensor.
        """
        return _tensor(self.inputs[0])

    @property
    def made(self) -> Tensor:
        """The first output.

        Raises:
            ValueError: If it is no tensor.
        """
        return _tensor(self.outputs[0])

    def tensor(self, index: int) -> Tensor | None:
        """Return an input, None if it is left out."""
        return _tensor(self.inputs[index]) if self.given(index) else None

    def given(self, index: int) -> bool:
        """Return True if there is such an input."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def numbers(self, index: int, attribute: str, default: Sequence[int] = ()) -> list[int]:
        """Return integers that later operator sets take as an input, earlier ones as attribute."""
        if self.given(index):
            return [int(value) for value in _tensor(self.inputs[index]).flatten().tolist()]
        return [int(value) for value in self.attributes.get(attribute, default)]


def _tensor(value: Value) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"expected a tensor, got {type(value).__name__}")
    return value


@dataclass(frozen=True)
class Call:
    """A call of a PyTorch function, for what a trace reads of it: name, arguments, places.

    Attributes:
        function: The function, which is applied to coordinates alone, never to the values.
        args: Its arguments.
        kwargs: Its keyword arguments.
        outputs: How many of the node's outputs it makes; None for all.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    outputs: int | None = 1


class Named:
    """A function of elements, whose name alone is known: coordinates pass it as they are.

    Args:
        name: PyTorch's name, or an operator's own.

    Raises:
        NotImplementedError: If it is called.

    Example:
        >>> Named("relu").__name__
        'relu'
    """

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse."""
        raise NotImplementedError(self.__name__)
