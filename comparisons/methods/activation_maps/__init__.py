"""Other authors' maps from a network's activations, as methods of the comparison."""

from comparisons.methods.activation_maps.cam import CAM
from comparisons.methods.activation_maps.fem import FEM
from comparisons.methods.activation_maps.lafam import LAFAM
from comparisons.methods.activation_maps.layer_cam import MULTI_LAYER_CAM
from comparisons.methods.activation_maps.multi_layer_fem import MULTI_LAYER_FEM
from comparisons.methods.activation_maps.out_of_class import OUT_OF_CLASS
from comparisons.methods.activation_maps.recipro_cam import RECIPRO_CAM
from comparisons.methods.activation_maps.refine_cam import REFINE_CAM
from comparisons.methods.activation_maps.score_cam import SCORE_CAM
from comparisons.methods.registry import METHODS

__all__ = ["CLASS_MAPS", "MAPS", "register_class_maps", "register_maps"]

# Of no class, and of a class.
MAPS = (LAFAM, FEM, MULTI_LAYER_FEM)
CLASS_MAPS = (CAM, RECIPRO_CAM, MULTI_LAYER_CAM, REFINE_CAM, SCORE_CAM, OUT_OF_CLASS)


def register_maps() -> None:
    """Register the maps that are of no class, in their order."""
    for entry in MAPS:
        METHODS.register(entry.name, entry)


def register_class_maps() -> None:
    """Register the maps of a class, in their order."""
    for entry in CLASS_MAPS:
        METHODS.register(entry.name, entry)
