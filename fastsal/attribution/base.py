"""The base class of fastsal's attribution classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from captum.attr._utils.attribution import Attribution

from fastsal.arguments.batches import split
from fastsal.arguments.call import Call
from fastsal.arguments.inputs import Images, as_tuple
from fastsal.maps.several_images import attributed, one_at_a_time


class NamedAttribution(Attribution):  # type: ignore[misc]
    """A Captum attribution class with a name of its own and without an asynchronous form."""

    _field_name: ClassVar[str | None] = None
    device_ids: list[int] | None

    @classmethod
    def get_name(cls) -> str:
        """Return the method's name in the field.

        >>> from fastsal import FastCAM, GradCAMPlusPlus
        >>> FastCAM.get_name(), GradCAMPlusPlus.get_name()
        ('Fast-CAM', 'Grad-CAM++')
        """
        name: str = cls._field_name or super().get_name()
        return name

    def __repr__(self) -> str:
        """The class, the model's and the settings in one line, not the model's layers."""
        model = self.forward_func
        name = getattr(model, "__name__", type(model).__name__)
        return f"{type(self).__name__}({', '.join([name, *self._facts()])})"

    def _facts(self) -> list[str]:
        """Return what a subclass says of itself after its model."""
        return []

    def attribute_future(self) -> None:
        """Raise, since there is no asynchronous form.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(f"attribute_future is not available for {self.get_name()}")

    def _one_at_a_time(
        self,
        attribute: Callable[..., Any],
        inputs: Images,
        target: Any,
        additional_forward_args: object,
        **settings: Any,
    ) -> list[Any] | None:
        """Return what a list of images, or a target of every detection, gives; None for others."""
        if not one_at_a_time(inputs, target):
            return None
        further = additional_forward_args
        return attributed(attribute, self.forward_func, inputs, target, further, **settings)

    def _calls(
        self,
        inputs: Images,
        target: Any,
        additional_forward_args: object,
        max_batch: int | None = None,
    ) -> list[Call]:
        """Return the calls of the model that a batch takes, one for every `max_batch` images."""
        tensors = as_tuple(inputs)
        call = Call(self.forward_func, tensors, target, additional_forward_args, self.device_ids)
        return split(call, max_batch)
