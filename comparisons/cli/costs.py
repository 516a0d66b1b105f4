"""The command ``python -m comparisons profile``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from comparisons.cli import options as shared
from comparisons.cli.options import typed_command
from comparisons.methods.costed import resolve_costed
from comparisons.plans.costs import CostPlan, sides_of
from comparisons.plans.words import as_whole_numbers, as_words
from comparisons.runs.costs import run_costs
from comparisons.runs.session import one_message
from evaluation.training.retraining import check_device

__all__ = ["profile"]

_console = Console(highlight=False)


def profile(
    model: Annotated[
        str,
        typer.Option(
            help="Networks, comma-separated: resnet9, resnet20, fastnet, a torchvision "
            "classifier, or "
            "package.module:function; with random weights."
        ),
    ] = "resnet50",
    methods: Annotated[
        str | None, typer.Option(help="Names, comma-separated; all that are installed by default.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Images at once, comma-separated.")] = "1,8",
    size: Annotated[
        str,
        typer.Option(
            help="Height and width of the images, one number; or sides, such as 16x112x112 of "
            "volumes, 1x4096 of signals."
        ),
    ] = "224",
    channels: Annotated[int, typer.Option(help="Channels of the images.")] = 3,
    classes: Annotated[int, typer.Option(help="Classes of the network.")] = 1000,
    threads: Annotated[
        int | None, typer.Option(help="Threads of PyTorch; by default what it takes itself.")
    ] = None,
    rounds: Annotated[
        int, typer.Option(help="Pairs of samples at most, of the plain pass and of the map.")
    ] = 101,
    limit: Annotated[
        float,
        typer.Option(
            help="Seconds after which a method gets no further round of a batch, beyond 3."
        ),
    ] = 30.0,
    precision: Annotated[
        str, typer.Option("--precision", "--dtype", help="float32,bfloat16 or one of them.")
    ] = "float32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Time the compiled networks too, beside the eager.")
    ] = False,
    cuda_graphs: Annotated[
        bool,
        typer.Option("--cuda-graphs", help="Time them compiled with CUDA graphs too, on a GPU."),
    ] = False,
    memory_budget: Annotated[
        int, typer.Option(help="MiB that one pass of a method may hold.")
    ] = 4096,
    device: Annotated[str, shared.DEVICE] = "cpu",
    out: Annotated[Path, shared.OUT] = Path("runs/profile"),
) -> None:
    """Measure what methods cost beside the plain forward pass: time, operations, memory."""
    with one_message(_console, out):
        check_device(device)
        plan = CostPlan(
            models=as_words(model) or (),
            methods=resolve_costed(as_words(methods)),
            batches=as_whole_numbers("--batch", batch) or (),
            size=int(size) if size.isdecimal() else max(sides_of(size)),
            grid="" if size.isdecimal() else size,
            channels=channels,
            classes=classes,
            threads=torch.get_num_threads() if threads is None else threads,
            rounds=rounds,
            limit_s=limit,
            precisions=as_words(precision) or (),
            compiled=compiled,
            cuda_graphs=cuda_graphs,
            memory_budget_mib=memory_budget,
            device=device,
        )
        report = run_costs(
            plan,
            out,
            command=typed_command(),
            console=_console,
        )
    _console.print(f"Report: {report}", soft_wrap=True, markup=False)
