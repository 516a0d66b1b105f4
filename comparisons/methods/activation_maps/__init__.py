"""Other authors' maps from a network's activations, as methods of the comparison."""

from comparisons.methods.activation_maps.fem import FEM
from comparisons.methods.activation_maps.lafam import LAFAM
from comparisons.methods.activation_maps.multi_layer_fem import MULTI_LAYER_FEM
from comparisons.methods.registry import METHODS

__all__ = ["ACTIVATION_MAPS", "register_activation_maps"]

ACTIVATION_MAPS = (LAFAM, FEM, MULTI_LAYER_FEM)


def register_activation_maps() -> None:
    """Register every method of the package, in the order of `ACTIVATION_MAPS`."""
    for entry in ACTIVATION_MAPS:
        METHODS.register(entry.name, entry)
