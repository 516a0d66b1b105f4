"""Class activation maps: the weights of a layer's channels, and their registry."""

from fastsal.cam import weights  # noqa: F401
from fastsal.cam.registry import CAMS, Cam, get_cam, register_cam

__all__ = ["CAMS", "Cam", "get_cam", "register_cam"]
