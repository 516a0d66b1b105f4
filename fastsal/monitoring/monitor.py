"""`watch`: saliency maps of every N-th forward pass of a model in use."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastsal.attribution.reader import ScaleReader
from fastsal.attribution.smoe_scale import SMOEScale, readers_of
from fastsal.keeping.parts import parts, uncompiled
from fastsal.maps.prior import Weights, load_weights
from fastsal.monitoring.counter import COMPILED, TRANSFORMED, Counter
from fastsal.monitoring.passes import Pass
from fastsal.monitoring.sample import Sample
from fastsal.monitoring.sampler import NotFiniteError, Sampler
from fastsal.monitoring.sinks import as_sinks
from fastsal.networks import state
from fastsal.networks.layers import Layer, are_found, of_found
from fastsal.networks.scales import Scale, candidates_of, chosen_scales
from fastsal.statistics.registry import Statistic, StatisticFunction, get_statistic

Layers = Layer | Scale | Sequence[Layer | Scale]

# The reader returns the statistic's values as they are: a sample's entropy is of these, and they
# are checked and normalised here.
_RAW: dict[str, Any] = {"normalize": "none", "normalize_over": "batch"}


def watch(
    model: nn.Module,
    every: int = 100,
    to: Any = None,
    *,
    layers: Layers | None = None,
    weights: Weights = "linear",
    statistic: str | Statistic | StatisticFunction = "smoe_scale",
    normalize: str = "gaussian",
    images: int = 8,
    run_eager: bool = False,
) -> Watch:
    """Return a context in which every N-th forward pass of a model gives SMOE Scale maps.

    No extra forward pass runs, and the model's results do not change: the loss, the gradients,
    BatchNorm's statistics, the random numbers and its errors are the same. A pass between samples
    has two hooks, which count it. If no layers are given, the first pass (in training or evaluation
    mode) is traced to find the network's scales, and the second is the first that is read. Several
    contexts may watch one model. Of a pass with several image batches, as of a siamese network, the
    first that all layers see is shown, read at the calls that see it.

    Args:
        model (torch.nn.Module): The module that is called, with its `DataParallel` or
            `DistributedDataParallel` wrapper. Passes that fastsal itself or a sink runs are not
            counted, nor those that gradient checkpointing repeats or a tracer runs.
        every (int): The number of forward passes from one sample to the next; gradient accumulation
            has several passes a step. A pass that fails is made up for by the next. Default: 100.
        to (Callable, str, pathlib.Path, SummaryWriter or list of these, optional): The sinks of
            samples: functions of a `Sample`, folders or TensorBoard writers. A sink that fails
            gives one warning, and the model runs on; so does a batch that cannot be read after
            one that could. In a distributed run only rank 0 calls the sinks; every process has its
            own `latest`. Default: None.
        layers (str, torch.nn.Module, Scale or list of these, optional): The layers to read, the
            shallowest first, or "late", as for `SMOEScale`. Default: None, which finds them.
        weights (str, path or sequence of float): The weight of every scale, as for `SMOEScale`.
            Default: "linear".
        statistic (str, Statistic or Callable): As for `SMOEScale`. Default: "smoe_scale".
        normalize (str): The normalisation of each map by itself: "gaussian", "gamma", "minmax" or
            "none". Default: "gaussian".
        images (int): The largest number of images in a sample, the first of the batch. Default: 8.
        run_eager (bool): Runs a compiled model uncompiled in the passes that are read, since
            compiled models call no hooks; results differ from the compiled ones by rounding.
            Default: False.

    Returns:
        A `Watch`, whose `latest` is the last `Sample`.

    Raises:
        ValueError: If a setting does not fit, or the model is compiled and `run_eager` is False; at
            the first pass that is read, if the scales cannot be found or read, or it is not clear
            which image a layer's map belongs to.
        TypeError: If the model is no `torch.nn.Module`, or `to` cannot take samples.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", Eq 1 to 3. The
        paper has no maps during training.

    Example:
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
    if state.compiled(parts(model)) and not run_eager:
        raise ValueError(COMPILED)
    if are_found(layers) and isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise ValueError(
            "DataParallel runs copies of the network, in which scales cannot be found: give "
            "layers=fastsal.find_scales(model.module, images)"
        )
    make_attributor = partial(
        SMOEScale,
        _network(model),
        # A file of weights is read once.
        weights=load_weights(weights),
        statistic=get_statistic(statistic),
        **_RAW,
    )
    return Watch(model, make_attributor, layers, every, to, normalize, images)


def _network(model: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of the compiler and of several devices."""
    while True:
        inner = uncompiled(model)
        if isinstance(inner, (nn.DataParallel, DistributedDataParallel)):
            inner = inner.module
        if inner is model:
            return model
        model = inner


class Watch:
    """A context that makes a `Sample` of every N-th forward pass of a model; `watch` returns it.

    Args:
        model (torch.nn.Module): The module that is called.
        make_attributor (Callable): Returns a `SMOEScale` of the network for given layers.
        layers (str, torch.nn.Module, Scale or list of these, optional): The layers to read; None
            and "late" find them in the first pass.
        every (int): The number of forward passes from one sample to the next.
        to (Callable, str, pathlib.Path, SummaryWriter or list of these, optional): The sinks.
        normalize (str): The normalisation of each map.
        images (int): The largest number of images in a sample.

    Attributes:
        latest (Sample, optional): The last sample, the only one that is kept; None before the
            first.
        passes (int): The number of forward passes so far.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU())
        >>> w = watch(net, layers=["1", "3"])
        >>> with w:
        ...     _ = net(torch.rand(2, 3, 8, 8))
        >>> w.pause()  # no further pass is counted
        >>> w.passes, w.latest.step
        (1, 0)
    """

    def __init__(
        self,
        model: nn.Module,
        make_attributor: Callable[[Layers | None], SMOEScale],
        layers: Layers | None,
        every: int,
        to: Any,
        normalize: str,
        images: int,
    ) -> None:
        self.latest: Sample | None = None
        self.passes = 0
        self._model = model
        self._network = _network(model)
        self._make_attributor = make_attributor
        self._layers = layers
        self._attributor = make_attributor(layers)
        self._scales_known = not are_found(layers)
        self._every = every
        self._images = images
        self._sampler = Sampler(normalize)
        self._sinks = as_sinks(to)
        self._lock = threading.Lock()
        self._current: Pass | None = None
        self._warned: set[str] = set()
        self._counter: Counter | None = None
        # True if the next pass that can be read is due whatever its number.
        self._owed = True

    def __enter__(self) -> Watch:
        self.begin()
        return self

    def begin(self) -> None:
        """Start counting passes, or go on after `pause`."""
        if self._counter is None:
            self._counter = Counter.of(self._model)
            self._counter.add(self._on_pass)

    def pause(self) -> None:
        """Stop counting passes until `begin`."""
        if self._counter is not None:
            self._counter.remove(self._on_pass)
            self._counter = None

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.pause()
        if error is None and not self.passes:
            self._warn_once(
                "nothing",
                "no forward pass of the watched model was seen; watch the module that is called, "
                "with its wrapper around it, inside the `with` block",
            )

    def _reader(self, image: Tensor) -> ScaleReader:
        return readers_of(self._attributor).for_image(image)

    def _on_pass(self, args: Any, kwargs: Any) -> Pass | None:
        """Count a pass, and begin to read it if it is due."""
        with self._lock:
            step = self.passes
            self.passes += 1
            self._owed = self._owed or step % self._every == 0
            if not self._owed or self._current is not None:
                return None
            if state.transformed():
                self._warn_once("transformed", TRANSFORMED)
                return None
            self._owed = False
            make_reader = self._reader if self._scales_known else None
            self._current = current = Pass(
                step, self._model, self._network, self._images, make_reader, self._on_end
            )
        try:
            current.begin(args, kwargs)
        except Exception as error:
            current.leave(None)
            self._current = None
            self._raise_or_warn(current, error)
            return None
        return current

    def _on_end(self, ended: Pass, output: Any) -> None:
        """Make a sample of a pass that was read, or take the scales of one that was traced."""
        self._current = None
        # A pass that failed is made up for by the next.
        self._owed = output is None or self.latest is None
        if output is None:
            return
        try:
            if ended.trace is not None:
                found = candidates_of(self._network, ended.trace, output)
                chosen = of_found(chosen_scales(found), self._layers)
                self._attributor = self._make_attributor(chosen)
                self._scales_known = True
                return
            sample = self._sampler.sample(ended)
        except Exception as error:
            self._raise_or_warn(ended, error)
            return
        self.latest, self._owed = sample, False
        if _rank() == 0:
            # A sink may call the model: these are no passes of the training.
            with state.hooked(()):
                for sink in self._sinks:
                    self._send(sample, sink)

    def _raise_or_warn(self, failed: Pass, error: Exception) -> None:
        """Warn once of a pass that cannot be read; raise if no pass could be read before.

        A wrong setting shows at the first pass. One odd batch must not end a training.
        """
        if self.latest is None and not isinstance(error, NotFiniteError):
            raise error
        self._warn_once("pass", f"pass {failed.step} could not be read: {error}")

    def _send(self, sample: Sample, sink: Any) -> None:
        try:
            sink(sample)
        except Exception as error:
            self._warn_once(
                "sink", f"{sink!r} failed at pass {sample.step} and the model runs on: {error!r}"
            )

    def _warn_once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            warnings.warn(f"fastsal.watch: {message}", stacklevel=2)


def _rank() -> int:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0
    return distributed.get_rank()
