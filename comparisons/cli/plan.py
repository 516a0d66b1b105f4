"""The command ``python -m comparisons plan``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from comparisons.budget import usual_memory_budget_mib
from comparisons.cli import options as shared
from comparisons.cli.options import typed_command
from comparisons.cli.plan_options import PlanOptions, with_plan_options
from comparisons.engines.resources import Resources
from comparisons.engines.select import Engine
from comparisons.estimates.cost import cost_of
from comparisons.estimates.files import read_plan_file, write_plan_file
from comparisons.estimates.sheet import Sheet
from comparisons.estimates.throughput import Throughput, given, measured
from comparisons.graph.specs import data_cell
from comparisons.plans.plan import Plan, PlanError
from comparisons.plans.words import as_whole_numbers
from comparisons.runs.session import one_message
from evaluation.datasets.load import Extent, Request, axes_of, extent_of
from evaluation.masking.resident import free_bytes
from evaluation.storage.writing import write_atomically
from evaluation.training.retraining import check_device

__all__ = ["plan"]

_console = Console(highlight=False)
_TRIAL_S = 45.0
_DEVICES = ("cpu", "cuda")
# Of a recipe, what a training's time an image depends on.
_PACE = ("precision", "batch_size", "ranks", "channels_last", "compile", "optimizer")


@with_plan_options
def plan(
    options: PlanOptions,
    counts: Annotated[
        str | None,
        typer.Option(
            help="Training images, test images and classes, for images that are not here and "
            "have no published counts: 100000,5000,200."
        ),
    ] = None,
    images_per_second: Annotated[
        str | None,
        typer.Option(
            help="What one worker does, in place of a trial here: TRAINING, or "
            "TRAINING,FORWARD,GRADIENT,RANKING, or a plan's file that was made where it was tried."
        ),
    ] = None,
    rank_efficiency: Annotated[
        float,
        typer.Option(
            help="Speed of n ranks that train one network over n times the speed of one, at most 1."
        ),
    ] = 1.0,
    workers: Annotated[int | None, shared.WORKERS] = None,
    threads: Annotated[int, shared.THREADS] = 1,
    device: Annotated[str, shared.DEVICE] = "cpu",
    out: Annotated[
        Path, typer.Option(help="The plan's file, for run --plan and to be cited.")
    ] = Path("runs/plan.json"),
    page: Annotated[
        Path | None, typer.Option(help="A Markdown file for the same as a page.")
    ] = None,
    title: Annotated[str, typer.Option(help="The page's heading.")] = "What a comparison takes",
) -> None:
    """Say what a comparison will take, before its first second, and write the plan as a file.

    Defaults below are those of --preset quick.
    """
    with one_message(_console, out), _nothing_kept():
        kind = device.partition(":")[0]
        if images_per_second is None:
            check_device(device)
        elif kind not in _DEVICES:
            raise ValueError(f"device {device!r}: expected one of {', '.join(_DEVICES)}")
        chosen = options.plan(device)
        extent = _extent(chosen, counts)
        size = extent.size
        if size is None:
            raise PlanError(f"the images of {chosen.data} differ in size: say --image-size")
        resources = Resources(
            device, threads, usual_memory_budget_mib(kind), gpus=float(kind == "cuda")
        )
        free = free_bytes(device) if images_per_second is None else None
        count = Engine(workers=workers).workers or resources.workers_here()
        if images_per_second is None:
            _console.print("A trial of the network on this device, in under a minute ...")
            throughput = measured(
                chosen,
                classes=extent.classes,
                size=size,
                resources=resources,
                seconds=_TRIAL_S,
            )
        else:
            throughput = _stated(images_per_second, chosen)
        cost = cost_of(
            chosen, extent, size, throughput, workers=count, rank_efficiency=rank_efficiency
        )
        command = typed_command()
        sheet = Sheet(chosen, extent, size, throughput, cost, kind, rank_efficiency, command, free)
        sheet.show(_console)
        write_plan_file(out, sheet.to_json())
        if page is not None:
            text = sheet.markdown(title).encode()
            write_atomically(page, lambda file: file.write(text))
    _console.print(f"Plan: {out}", soft_wrap=True, markup=False)
    start = f"python -m comparisons run --plan {shlex.quote(str(out))}"
    _console.print(f"Start it: {start}", soft_wrap=True, markup=False)


@contextmanager
def _nothing_kept() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        _console.print("\nStopped; no plan was written.")
        raise typer.Exit(130) from None


def _stated(text: str, chosen: Plan) -> Throughput:
    """Return a throughput from numbers, or from the trial in another plan's file."""
    if not text.endswith(".json"):
        return given(text)
    read = read_plan_file(Path(text))
    tried = read.plan
    others = [name for name in ("model", "image_size") if _differ(name, tried, chosen)]
    others += [name for name in _PACE if _differ(name, tried.recipe, chosen.recipe)]
    if others:
        raise ValueError(
            f"{text} was measured with another {', '.join(others)}: leave out --images-per-second "
            "for a trial of this one"
        )
    try:
        return Throughput.from_json(read.throughput)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{text} holds no throughput ({error}): make it anew") from error


def _differ(name: str, first: object, second: object) -> bool:
    return bool(getattr(first, name) != getattr(second, name))


def _extent(chosen: Plan, counts: str | None) -> Extent:
    """Return the extent of the images here, or of the stated counts."""
    if counts is None:
        return extent_of(chosen.data, Request(**data_cell(chosen).spec["request"]))
    numbers = as_whole_numbers("--counts", counts) or ()
    if len(numbers) != 3 or min(numbers) < 1:
        raise ValueError(
            f"--counts {counts!r}: expected training images, test images and classes, such as "
            "100000,5000,200"
        )
    train, test, classes = numbers
    side = chosen.image_size
    size = None if side is None else (side,) * axes_of(chosen.data)
    name = chosen.data.partition(":")[0]
    return Extent(name, classes, train, test, size, found=False)
