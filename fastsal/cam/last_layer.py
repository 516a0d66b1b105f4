"""The class activation map of the last layer on which a score depends."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastsal.arguments.call import Call
from fastsal.arguments.copies import copied
from fastsal.cam.contributions import Contributions, layer_contributions
from fastsal.cam.noting import Places
from fastsal.cam.registry import Cam
from fastsal.networks import hooks
from fastsal.networks.gradients import NoGradientError
from fastsal.networks.layers import NamedLayer


def contributions_of_last(
    cam: Cam,
    layers: Sequence[NamedLayer],
    call: Call,
    *,
    places: Places,
    found: bool = False,
    taps: Sequence[hooks.Tap] = (),
) -> tuple[NamedLayer, Contributions]:
    """Return the last layer whose map is not 0, and what its channels contribute.

    The score of a box from a fine level of a feature pyramid need not depend on its coarsest
    layers. One pass is taken for the last layer, and one more for each layer before it that is
    tried.

    Args:
        cam: The class activation map.
        layers: In the order in which the network runs them.
        call: The model with one image and the target.
        places: As for `layer_contributions`.
        found: As for `layer_contributions`.
        taps: Further places that are read, during a pass that comes to its end.

    Raises:
        ValueError: As `layer_contributions` does.
    """
    # The first pass may write to its inputs.
    spare = copied((call.inputs, call.additional_forward_args))
    values: list[Tensor] | None = None
    for number, layer in enumerate(reversed(layers), 1):
        try:
            contributions = layer_contributions(
                cam,
                layer,
                call,
                places=places,
                found=found,
                taps=taps if values is None else (),
            )
        except NoGradientError:
            if number == len(layers):
                raise
        else:
            values = contributions.values if values is None else values
            if number == len(layers) or bool((contributions.maps.sum(1) > 0).any()):
                return layer, contributions._replace(values=values)
        inputs, further = copied(spare)
        call = call._replace(inputs=inputs, additional_forward_args=further)
    raise ValueError("expected at least one layer, got none")
