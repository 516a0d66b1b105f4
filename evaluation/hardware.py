"""The machine and the code: processors, versions of installed packages, commit.

At the top of the package, since rooms low and high ask for it.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

__all__ = ["machine_facts", "processor_name", "processors", "source_commit"]


def processors() -> int:
    """The number of processors that this process may use, or of all where the system hides that.

    >>> processors() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name(device: str = "cpu") -> str:
    """The model name of the GPU or of the CPU.

    Args:
        device: a CUDA device for the name of that GPU; else the CPU's name.

    >>> processor_name() != ""
    True
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            names = (line.partition(":")[2] for line in file if line.startswith("model name"))
            return next(names).strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine_facts(packages: Sequence[str]) -> dict[str, str]:
    """The CPU's name, the number of its cores and the versions of packages.

    Args:
        packages: distribution names; ``"none"`` is the version of one that is not installed.

    >>> machine_facts(["torch"])["torch"].split(".")[0]
    '2'
    """
    found = {"processor": processor_name(), "cores": str(os.cpu_count())}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


@cache
def source_commit() -> str:
    """The commit of the checkout that this code runs from; empty if it is none.

    A ``+`` behind it says that tracked files were changed.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    command = ("git", "-C", str(root))
    try:
        said = [
            subprocess.run(
                (*command, *words), capture_output=True, text=True, timeout=10, check=True
            )
            for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "-uno"))
        ]
    except (OSError, subprocess.SubprocessError):
        return ""
    return said[0].stdout.strip() + ("+" if said[1].stdout.strip() else "")
