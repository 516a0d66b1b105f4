"""SMOE Scale times 1 less Grad-CAM: what the network finds elsewhere than at the class.

From the authors' later notebook, https://github.com/LLNL/fastcam, demo-captum.ipynb.
"""

from __future__ import annotations

from functools import partial

from comparisons.methods.activation_maps.attributors import of_size
from comparisons.methods.base import PAPER, Method
from fastsal import FastCAM

__all__ = ["OUT_OF_CLASS"]

OUT_OF_CLASS = Method(
    "out-of-class",
    "SMOE Scale x (1 - Grad-CAM)",
    "cam",
    f"{PAPER}; their notebook demo-captum",
    {"weights": "linear", "cam": "gradcam", "complement": True},
    of_size(partial(FastCAM, complement=True)),
    passes=1,
    gradients=0,
)
