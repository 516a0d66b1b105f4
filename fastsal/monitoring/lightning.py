"""A Lightning callback that watches a network while a Trainer fits it."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import nn

from fastsal.monitoring.monitor import Watch, watch


class WatchMaps(pl.Callback):
    """Watches a network's forward passes in training, as `watch` does.

    Passes of validation are not counted. Without `to` samples go to the trainer's TensorBoard
    logger, where it has one.

    Args:
        every: As for `watch`.
        to: As for `watch`.
        network: The name of the network inside the LightningModule; None is the LightningModule
            itself, for one whose `training_step` calls `self(...)`.
        options: What else `watch` takes.

    >>> WatchMaps(every=50, network="model", images=4).every
    50
    """

    def __init__(
        self, every: int = 100, to: Any = None, *, network: str | None = None, **options: Any
    ) -> None:
        self.every, self.to, self.network, self.options = every, to, network, options
        self.watch: Watch | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to watch."""
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
        """Leave out the passes of validation."""
        if self.watch is not None:
            self.watch.pause()

    def on_validation_end(self, *_: Any, **__: Any) -> None:
        """Go on."""
        if self.watch is not None:
            self.watch.begin()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """End."""
        if self.watch is not None:
            self.watch.__exit__(None)

    def on_exception(self, *_: Any, **__: Any) -> None:
        """End, where the fit failed."""
        if self.watch is not None:
            self.watch.__exit__(Exception)
