"""Maps while a network trains or serves, from the forward passes that happen anyway."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastsal.attribution.smoe_scale import SMOEScale
from fastsal.maps.combination import Weights
from fastsal.maps.normalization import get_normalization
from fastsal.monitoring.passes import COMPILED, Counter, Pass
from fastsal.monitoring.sample import Sample, drift, entropy
from fastsal.monitoring.sinks import as_sinks
from fastsal.networks import state
from fastsal.networks.layers import Layer
from fastsal.networks.scales import Scale, candidates_of, chosen_scales
from fastsal.statistics.registry import Statistic, StatisticFunction

# What the statistic gave, checked and squashed here: a sample's numbers are of that.
_AS_THEY_ARE: dict[str, Any] = {"normalize": "none", "normalize_over": "batch"}


def watch(
    model: nn.Module,
    every: int = 100,
    to: Any = None,
    *,
    layers: Layer | Scale | Sequence[Layer | Scale] | None = None,
    weights: Weights = "linear",
    statistic: str | Statistic | StatisticFunction = "smoe_scale",
    normalize: str = "gaussian",
    images: int = 8,
    run_eager: bool = False,
) -> Watch:
    """Return a context in which every N-th forward pass of a model gives its maps.

    Nothing runs besides the passes that happen anyway, and these give what they gave: the loss, the
    gradients, BatchNorm's statistics and the random numbers are the same to the bit. Between
    samples a pass has one hook, which counts it. Where no layers are given the first pass, in
    whatever mode, shows which end the network's scales, and the second is the first that is read.

    Args:
        model: The network as it is called: with its `DataParallel` or `DistributedDataParallel`
            around it. Passes that fastsal itself runs are not counted.
        every: How many forward passes lie between samples. Gradient accumulation has several a
            step.
        to: Where samples go: a function of a `Sample`, a folder's path, a TensorBoard
            `SummaryWriter`, or several. A sink that fails is warned of once, and the model runs on;
            so it is with a batch that cannot be read after one that could. In a distributed run
            rank 0 alone hands samples on; every process has its `latest`.
        layers: As for `SMOEScale`.
        weights: As for `SMOEScale`.
        statistic: As for `SMOEScale`.
        normalize: As for `SMOEScale`; every map by itself.
        images: How many of a batch are read, its first: what a sample holds is bounded by it.
        run_eager: Lets a compiled model run uncompiled in the passes that are read, since compiled
            ones call no hooks. Its results there differ from the compiled ones by rounding.

    Returns:
        A `Watch`; `latest` is its last `Sample`, the only one it holds.

    Raises:
        ValueError: If a setting does not fit, or the model is compiled without `run_eager`. At the
            first pass that is read, if its scales cannot be found or read.
        TypeError: If the model is no module, or `to` is nothing that takes samples.

    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(
    ...     nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    ...     nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10),
    ... )
    >>> with watch(net, every=2) as w:
    ...     for _ in range(5):
    ...         net(torch.rand(4, 3, 8, 8)).sum().backward()
    >>> w.latest.step, w.latest.combined.shape, [scale.name for scale in w.latest.scales]
    (4, torch.Size([4, 8, 8]), ['1', '4'])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected the torch.nn.Module that is called, got {model!r}")
    for name, number in (("every", every), ("images", images)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a whole number of 1 or more, got {number!r}")
    if model._compiled_call_impl is not None:
        raise ValueError(
            "the model was compiled in place, by model.compile(), and calls no hooks at all: "
            "compile it as `compiled = torch.compile(model)` and watch that with run_eager=True"
        )
    if state.compiled(state.parts(model)) and not run_eager:
        raise ValueError(COMPILED)
    if layers is None and isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise ValueError(
            "DataParallel runs copies of the network, in which scales cannot be found: give "
            "layers=fastsal.find_scales(model.module, images)"
        )
    attributor = SMOEScale(
        _network(model), layers, weights=weights, statistic=statistic, **_AS_THEY_ARE
    )
    return Watch(model, attributor, every, to, normalize, images, found=layers is not None)


def _network(model: nn.Module) -> nn.Module:
    """Return the network under what compiles, copies or distributes it."""
    while True:
        inner = state.uncompiled(model)
        if isinstance(inner, (nn.DataParallel, DistributedDataParallel)):
            inner = inner.module
        if inner is model:
            return model
        model = inner


class Watch:
    """Reads every N-th forward pass of a model while it is entered; made by `watch`.

    Attributes:
        latest: The last `Sample`; None before the first.
        passes: How many forward passes were seen.
    """

    def __init__(
        self,
        model: nn.Module,
        attributor: SMOEScale,
        every: int,
        to: Any,
        normalize: str,
        images: int,
        found: bool,
    ) -> None:
        self.model = model
        self.network = _network(model)
        self.attributor = attributor
        self.every = every
        self.images = images
        self.normalization = get_normalization(normalize)
        self.sinks = as_sinks(to)
        self.latest: Sample | None = None
        self.passes = 0
        self._means: list[Tensor] = []
        # Whether the attributor knows its scales.
        self.found = found
        self._lock = threading.Lock()
        self._reading: Pass | None = None
        self._told: set[str] = set()
        self._handle: torch.utils.hooks.RemovableHandle | None = None

    def __enter__(self) -> Watch:
        self.begin()
        return self

    def begin(self) -> None:
        """Count passes from now on, where that is not done already."""
        if self._handle is None:
            self._handle = self.model.register_forward_pre_hook(Counter(self), with_kwargs=True)

    def pause(self) -> None:
        """Leave out the passes from now on, until `begin`."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.pause()
        # What Ctrl-C broke off has not ended itself.
        if self._reading is not None and self._reading.thread == threading.get_ident():
            self._reading.end()
            self._reading = None
        if error is None and not self.passes:
            self._tell(
                "nothing",
                "no forward pass of the watched model was seen; watch the module that is called, "
                "with its wrapper around it, inside the `with` block",
            )

    def count(self, args: Any, kwargs: Any) -> None:
        """Count a pass, and begin to read it if its turn has come."""
        if state.reading():
            return
        with self._lock:
            step = self.passes
            self.passes += 1
            due = step % self.every == 0 or self.latest is None
            if not due or self._reading is not None:
                return
            self._reading = passed = Pass(self, step)
        try:
            passed.begin(args, kwargs)
        except Exception as error:
            passed.end()
            self._reading = None
            self._skip(passed, error)

    def finish(self, passed: Pass, output: Any) -> None:
        """Take what a pass gave, and hand it on; None is the output of one that failed."""
        self._reading = None
        if output is None:
            return
        try:
            if passed.trace is not None:
                self.attributor = SMOEScale(
                    self.network,
                    chosen_scales(candidates_of(self.network, passed.trace, output)),
                    weights=self.attributor.settings.weights,
                    statistic=self.attributor.settings.statistic,
                    **_AS_THEY_ARE,
                )
                self.found = True
                return
            sample = self._sample(passed)
        except Exception as error:
            self._skip(passed, error)
            return
        self.latest = sample
        if _rank() == 0:
            for sink in self.sinks:
                self._hand(sample, sink)

    def _sample(self, passed: Pass) -> Sample:
        if passed.error is not None:
            raise passed.error
        reader = passed.reader
        values = [reading.gathered(passed.device_ids)[: self.images] for reading in passed.readings]
        with torch.no_grad():
            if not torch.stack([one.sum() for one in values]).isfinite().all():
                raise _NotFinite("activations are not finite")
            entropies = torch.stack([entropy(one) for one in values])
            maps = [self.normalization(one) for one in values]
            means = [one.mean(0) for one in maps]
            drifts = None
            if self._means:
                pairs = zip(self._means, means, strict=True)
                drifts = torch.stack([drift(before.to(now.device), now) for before, now in pairs])
            self._means = means
            return Sample(
                step=passed.step,
                images=passed.images,
                scales=reader.scales,
                per_scale=tuple(maps),
                combined=reader.combined(maps),
                entropy=entropies,
                drift=drifts,
            )

    def _skip(self, passed: Pass, error: Exception) -> None:
        """Warn once of a pass that cannot be read, or raise if none could be so far.

        A wrong setting is an error at the first pass; one batch that is odd ends no training.
        """
        if self.latest is None and not isinstance(error, _NotFinite):
            raise error
        self._tell("reading", f"pass {passed.step} could not be read: {error}")

    def _hand(self, sample: Sample, sink: Any) -> None:
        try:
            sink(sample)
        except Exception as error:
            self._tell(
                "sink", f"{sink!r} failed at pass {sample.step} and the model runs on: {error!r}"
            )

    def _tell(self, what: str, message: str) -> None:
        if what not in self._told:
            self._told.add(what)
            warnings.warn(f"fastsal.watch: {message}", stacklevel=2)


class _NotFinite(ValueError):
    """Activations that are not finite, as where a loss scale was too large."""


def _rank() -> int:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0
    return distributed.get_rank()
