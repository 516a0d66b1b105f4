"""A network and its saliency map as one module or one ONNX file."""

from fastsal.export.model import ModelWithMap, with_fast_cam, with_map

__all__ = ["ModelWithMap", "with_fast_cam", "with_map"]
