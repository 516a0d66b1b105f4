"""Saliency maps of a network's own forward passes, in training or in production."""

from fastsal.monitoring.monitor import Watch, watch
from fastsal.monitoring.sample import Sample

__all__ = ["Sample", "Watch", "watch"]
