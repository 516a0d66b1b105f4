"""`WatchMaps`: a Lightning callback for `fastsal.watch`."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import nn

from fastsal.monitoring.monitor import Watch, watch


class WatchMaps(pl.Callback):
    """A Lightning callback that reads every N-th training pass of a network, as `fastsal.watch`.

    Validation passes are not counted.

    Args:
        every (int): The number of forward passes from one sample to the next. Default: 100.
        to (Callable, str, pathlib.Path, SummaryWriter or list of these, optional): The sinks of
            samples, as for `watch`. Default: None, the trainer's TensorBoard loggers.
        network (str, optional): The name of the network inside the LightningModule. Default: None,
            the LightningModule itself, for one whose `training_step` calls `self(...)`.
        options (Any): Further arguments of `watch`.

    Attributes:
        watch (Watch, optional): The `Watch` of the running or last fit; None before the first.

    Example:
        >>> trainer = pl.Trainer(
        ...     callbacks=[WatchMaps(every=50, network="model", images=4)], logger=False,
        ...     enable_checkpointing=False, enable_progress_bar=False,
        ... )
        >>> trainer.callbacks[0].every
        50
    """

    def __init__(
        self, every: int = 100, to: Any = None, *, network: str | None = None, **options: Any
    ) -> None:
        self.every, self.to, self.network, self.options = every, to, network, options
        self.watch: Watch | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start watching the network."""
        to = self.to
        if to is None:
            writers = (getattr(logger, "experiment", None) for logger in trainer.loggers)
            to = [writer for writer in writers if hasattr(writer, "add_image")]
        model: nn.Module = pl_module
        if self.network is not None:
            model = pl_module.get_submodule(self.network)
        self.watch = watch(model, self.every, to, **self.options)
        self.watch.begin()

    def on_validation_start(self, *_: Any, **__: Any) -> None:
        """Stop counting passes during validation."""
        if self.watch is not None:
            self.watch.pause()

    def on_validation_end(self, *_: Any, **__: Any) -> None:
        """Count passes again."""
        if self.watch is not None:
            self.watch.begin()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stop watching."""
        if self.watch is not None:
            self.watch.__exit__(None)

    def on_exception(self, *_: Any, **__: Any) -> None:
        """Stop watching after a fit that failed."""
        if self.watch is not None:
            self.watch.__exit__(Exception)
