"""Options of the engine, declared once for every command that runs cells."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from comparisons.cli import options as shared
from comparisons.engines.select import Engine, engine_of

__all__ = ["EngineOptions", "with_engine_options"]


@dataclass(frozen=True)
class EngineOptions:
    """Options of the engine as typed; each field is one option.

    >>> EngineOptions(workers=2).engine_of().workers
    2
    """

    workers: Annotated[int | None, shared.WORKERS] = None
    threads: Annotated[int, shared.THREADS] = 1
    device: Annotated[str, shared.DEVICE] = "cpu"
    engine: Annotated[str, shared.ENGINE] = "local"
    address: Annotated[str | None, shared.ADDRESS] = None
    cpus_per_cell: Annotated[float | None, shared.CPUS_PER_CELL] = None
    gpus_per_cell: Annotated[float | None, shared.GPUS_PER_CELL] = None

    def engine_of(self, *, ranks: int = 1, memory_budget_mib: int | None = None) -> Engine:
        """Return the engine that the options describe.

        Args:
            ranks: processes that train one network.
            memory_budget_mib: that one pass of a saliency method may hold; None for what suits the
                device.

        Raises:
            ValueError: options that make no sense; says which and what to do.
        """
        return engine_of(
            self.engine,
            address=self.address,
            workers=self.workers,
            threads=self.threads,
            cpus_per_cell=self.cpus_per_cell,
            gpus_per_cell=self.gpus_per_cell,
            ranks=ranks,
            device=self.device,
            memory_budget_mib=memory_budget_mib,
        )


def with_engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of an engine, after its own.

    Args:
        command: takes `EngineOptions` as its second parameter.

    Returns:
        The command with an option in place of that parameter for each field.
    """
    # String annotations are resolved in the module of each function.
    first, taken, *own = inspect.signature(command, eval_str=True).parameters.values()
    shown = list(inspect.signature(EngineOptions, eval_str=True).parameters.values())

    @functools.wraps(command)
    def called(*given: Any, **values: Any) -> None:
        engine = EngineOptions(**{each.name: values.pop(each.name) for each in shown})
        command(*given, **{taken.name: engine}, **values)

    return shared.declare_parameters(called, [first, *own, *shown])
