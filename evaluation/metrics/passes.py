"""Plain forward passes of a frozen network, by PyTorch or by onnxruntime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.optional import needed, one_line

__all__ = ["ENGINES", "Forward", "check_engine", "forward_in"]

# From images ``(N, C, H, W)`` to logits ``(N, classes)``.
Forward = Callable[[Tensor], Tensor]
ENGINES = ("torch", "onnxruntime")
# The largest difference of a probability between the two engines.
_ROUNDING = 1e-3
# Images of one call: more take no less time an image, and their activations more memory.
_AT_ONCE = 8
# PyTorch does not export a dimension of size 1 as one that varies.
_EXAMPLES = 2


def check_engine(name: str, device: str) -> None:
    """Refuse an engine that is not there, or not for a device.

    Raises:
        ValueError: an unknown name, or onnxruntime for another device than the CPU.
        ImportError: a package of the extra ``onnx`` is not installed; says which.
    """
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}: expected {' or '.join(ENGINES)}")
    if name == "onnxruntime":
        if torch.device(device).type != "cpu":
            raise ValueError(
                f"--passes-in onnxruntime is for --device cpu, got {device}: leave it out"
            )
        for package in ("onnx", "onnxscript", "onnxruntime"):
            needed(package, "--passes-in onnxruntime")


def forward_in(name: str, network: nn.Module, example: Tensor) -> Forward:
    """The forward pass of a network in an engine, with as many threads as PyTorch has.

    On a CPU onnxruntime takes a fraction of the time: it joins normalisations and activations to
    the convolutions before them. Its answers are those of PyTorch to rounding, which is checked.

    Args:
        name: one of `ENGINES`.
        network: the network, in evaluation mode; its weights must not change later.
        example: `(N, C, H, W)`, images of the size that will be shown; volumes or signals likewise.

    Raises:
        ValueError: the network cannot be exported, or answers otherwise in onnxruntime.

    >>> images = torch.rand(2, 3, 8, 8)
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    >>> forward_in("torch", network, images)(images).shape
    torch.Size([2, 4])
    """
    if name == "torch":
        return network
    check_engine(name, str(example.device))
    onnxruntime: Any = needed("onnxruntime", "--passes-in onnxruntime")
    repeats = -(-_EXAMPLES // len(example))
    images = torch.cat([example[:_EXAMPLES]] * repeats)[:_EXAMPLES].contiguous()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        try:
            _export(network, images, path)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ValueError(
                f"the network cannot be run in onnxruntime ({one_line(error)}): leave out "
                "--passes-in"
            ) from error
    (given,) = session.get_inputs()

    def forward(inputs: Tensor) -> Tensor:
        whole = inputs.contiguous()
        parts = [whole[i : i + _AT_ONCE] for i in range(0, len(whole), _AT_ONCE)]
        logits = [session.run(None, {given.name: part.numpy()})[0] for part in parts]
        return torch.cat([torch.from_numpy(part) for part in logits])

    with torch.inference_mode():
        differ = (forward(images).softmax(1) - network(images).softmax(1)).abs().max()
    if not float(differ) < _ROUNDING:
        raise ValueError(
            f"in onnxruntime a probability differs by {float(differ):.2g} from PyTorch's: expected "
            f"less than {_ROUNDING:g}; leave out --passes-in"
        )
    return forward


def _export(network: nn.Module, images: Tensor, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.inference_mode(False):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (images.clone(),),
                path,
                dynamo=True,
                dynamic_shapes=({0: batch},),
                verbose=False,
            )
    finally:
        logger.setLevel(level)
