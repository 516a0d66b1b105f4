"""Saliency maps of the forward passes that a training or a server runs anyway."""

from fastsal.monitoring.monitor import Watch, watch
from fastsal.monitoring.sample import Sample

__all__ = ["Sample", "Watch", "watch"]
