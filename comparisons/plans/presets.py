"""Presets of a comparison, and the options of volumes and signals in place of those of images."""

from __future__ import annotations

from typing import Any

__all__ = ["GRID_OPTIONS", "PRESETS"]

# Options of volumes (3 axes) and signals (1) in place of those of a preset for images: a network
# that takes them, no crops and flips, and a rate at which it learns in few epochs.
GRID_OPTIONS: dict[int, dict[str, Any]] = {
    3: {
        "model": "convnet-3d",
        "recipe": {"learning_rate": 0.1, "crop_padding": 0, "flip": False},
    },
    1: {
        "model": "convnet-1d",
        "recipe": {"learning_rate": 0.05, "crop_padding": 0, "flip": False},
    },
}

# Options of `run` by preset; what the command line states goes before these.
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "data": "shapes",
        "model": "resnet9",
        "methods": "random,smoe-linear,gradient",
        "fractions": (0.5,),
        "mask_only": (("roar", 0.5),),
        "train_images": 320,
        "test_images": 80,
        "measure_images": 16,
        "recipe": {"epochs": 1},
    },
    "quick": {
        "data": "shapes",
        "model": "resnet9",
        "methods": "random,centre,oracle,smoe-linear,fastcam,gradient-sgsq",
        "fractions": (0.5, 0.9),
        "mask_only": (("roar", 0.5),),
        "train_images": 1600,
        "test_images": 800,
        "measure_images": 48,
        # Small batches and a low rate: few steps must do.
        "recipe": {"epochs": 4, "batch_size": 32, "learning_rate": 0.02},
    },
    "full": {
        "data": "shapes",
        "model": "resnet9",
        "seeds": (0, 1, 2, 3, 4),
        "recipe": {"epochs": 12},
    },
    # Objects fill 1 to 2 % of a volume, so fractions are small.
    "volumes": {
        "data": "volumes",
        **GRID_OPTIONS[3],
        "methods": "random,centre,oracle,smoe-linear,fastcam,gradcam",
        "fractions": (0.02, 0.1),
        "mask_only": (("roar", 0.1),),
        "measures": ("localisation", "insertion-deletion"),
        "measure_images": 200,
        "train_images": 600,
        "test_images": 200,
        "image_size": 20,
        "recipe": GRID_OPTIONS[3]["recipe"] | {"epochs": 7, "batch_size": 32},
    },
    # An event is a fifth of a signal.
    "signals": {
        "data": "signals",
        **GRID_OPTIONS[1],
        "methods": "random,centre,oracle,smoe-linear,fastcam,gradcam",
        "fractions": (0.1, 0.3),
        "mask_only": (("roar", 0.3),),
        "measures": ("localisation", "insertion-deletion"),
        "measure_images": 300,
        "train_images": 1500,
        "test_images": 300,
        "recipe": GRID_OPTIONS[1]["recipe"] | {"epochs": 8, "batch_size": 32},
    },
    # A published network, as it is, on photographs: nothing is trained.
    "published": {
        "data": "imagenette",
        "model": "resnet50",
        "weights": "torchvision:DEFAULT",
        "methods": "smoe-linear,fastcam,gradcam,gradient,centre,random",
        "modes": (),
        "mask_only": (),
        "measures": ("insertion-deletion", "road"),
        "measure_images": 1000,
        "measure_steps": 8,
        # Of training images, the channel mean alone is taken.
        "train_images": 1000,
        "test_images": 1000,
        "image_size": 224,
        "recipe": {},
    },
}
