"""A network whose worker dies or waits where a test says; and what was built, one line each.

Read by path in worker processes: it knows nothing but the folder it lies in.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch import distributed, nn

from evaluation.networks.build import ResNet9

HERE = Path(__file__).parent


def _in_driver() -> bool:
    return os.getpid() == int((HERE / "driver").read_text())


class Mortal(ResNet9):
    """A ResNet-9 of width 4."""

    steps = 0

    def __init__(self, classes: int) -> None:
        super().__init__(classes, width=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and not _in_driver():
            self.steps += 1
            if self.steps == 2:
                self._second_step()
        return super().forward(x)

    def _second_step(self) -> None:
        """In the middle of a training: die if a file says so, which is then gone; or wait."""
        for order in sorted(HERE.glob("kill-*")):
            try:
                order.unlink()
            except FileNotFoundError:  # another worker obeyed
                continue
            os.kill(os.getpid(), signal.SIGKILL)
        if (HERE / "always").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if (HERE / "hold").exists():
            (HERE / f"held-{_node()}").write_text(str(os.getpid()))
            while (HERE / "hold").exists():
                time.sleep(0.05)


def _node() -> str:
    try:
        import ray

        return str(ray.get_runtime_context().get_node_id())
    except Exception:
        return "here"


def network(classes: int) -> nn.Module:
    """What ``--model .../mortal.py:network`` builds."""
    in_ranks = distributed.is_initialized()
    if in_ranks and distributed.get_rank() == 1 and (HERE / "rank-1-fails").exists():
        raise OverflowError("too much for this rank")
    if not _in_driver():
        with (HERE / "built").open("a") as file:
            file.write(f"{os.getpid()}\n")
    return Mortal(classes)
