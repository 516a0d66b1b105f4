"""The map in an ONNX file that exists already, without its PyTorch model."""

from fastsal.export.onnx_graph.insertion import MapInFile, write_map_into

__all__ = ["MapInFile", "write_map_into"]
