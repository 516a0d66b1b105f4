"""Triton's kernels against float64 rewrites of the formulas and against PyTorch's operations.

The kernels run on a GPU if there is one. Else Triton's interpreter runs them in a process of its
own, since it has to be switched on before Triton is imported.
"""

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
import threading
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastsal import FastCAM, SMOEScale
from fastsal.attribution import planned_reader
from fastsal.attribution.planned_reader import PlannedReader
from fastsal.kernels import cpu, cuda
from fastsal.kernels.memory import layout_of, without_kernels
from fastsal.kernels.plan import GpuPlan
from fastsal.maps.combination import combine
from fastsal.maps.normalization import gaussian
from fastsal.statistics.smoe import smoe_scale, smoe_scale_plain

pytestmark = pytest.mark.heavy

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
EPSILON = 1e-6
ROOT = Path(__file__).parents[3]
GPU = torch.cuda.is_available()

kernels = pytest.mark.skipif(
    not (INTERPRETED or GPU), reason="no GPU; Triton's interpreter runs these in another process"
)
on_gpu = pytest.mark.skipif(INTERPRETED or not GPU, reason="no GPU")


@pytest.mark.skipif(INTERPRETED or GPU, reason="is run by another, or on a GPU")
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_by_the_interpreter():
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Convolutions in full float32 precision, by the same algorithm each time."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


class InterpretedPlan(GpuPlan):
    """A `GpuPlan` where a `CpuPlan` is made, which is told a statistic as well."""

    def __init__(self, layouts, shares, size, statistic):
        assert statistic == "smoe_scale"
        super().__init__(layouts, shares, size)


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    """Under the interpreter, tensors on the CPU count as tensors on a GPU."""
    if INTERPRETED:
        monkeypatch.setattr(cuda, "reachable", lambda _: True)
        monkeypatch.setattr(planned_reader, "CpuPlan", InterpretedPlan)
        monkeypatch.setattr(cpu, "readable", cuda.readable)
        for name in ("smoe_scale", "gaussian", "combine"):
            form = getattr(cuda, name)
            monkeypatch.setattr(cpu, name, lambda *given, form=form, **_: form(*given))


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels that are launched."""
    names = []
    found = cuda._kernels()

    class Launch:
        def __init__(self, name):
            self.name = name

        def __getitem__(self, grid):
            launch = getattr(found, self.name)[grid]

            def counted(*arguments, **options):
                names.append(self.name)
                return launch(*arguments, **options)

            return counted

    class Kernels:
        probe = found and found.probe
        statistic, squash, combine = map(Launch, ("statistic", "squash", "combine"))

    cuda._statistic.cache_clear()
    monkeypatch.setattr(cuda, "_kernels", lambda: Kernels)
    yield names
    cuda._statistic.cache_clear()


def normal(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def in_float64(activations, epsilon=EPSILON):
    shifted = activations.float().clamp_min(0).add(epsilon).double()
    mean = shifted.mean(1)
    return mean * (mean.log2() - shifted.log2().mean(1))


def kernel_smoe_scale(activations, epsilon=EPSILON):
    values = cuda.smoe_scale(activations, epsilon)
    assert values is not None
    return values


LAYOUTS = {
    "contiguous": lambda tensor: tensor,
    "channels_last": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "channels_last, part of them": lambda tensor: torch.cat((tensor, tensor), 1).contiguous(
        memory_format=torch.channels_last
    )[:, tensor.shape[1] :],
}


@kernels
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("channels", [1, 21, 260])
def test_smoe_scale_is_the_equation(channels, dtype, layout):
    activations = (3 * normal((2, channels, 3, 3), channels)).to(dtype)
    values = kernel_smoe_scale(LAYOUTS[layout](activations))
    assert values.dtype == torch.float32
    mean = activations.float().clamp_min(0).mean(1).double()
    expected = in_float64(activations)
    assert ((values - expected).abs() <= 2e-6 * expected + 2e-7 * mean + 1e-12).all()


# Sparse and heavy-tailed ones; near the ends of float32.
VALUES = {
    "constant": lambda: torch.full((1, 37, 3, 5), 0.3, device=DEVICE),
    "zero": lambda: torch.zeros(1, 64, 3, 5, device=DEVICE),
    "one channel": lambda: (
        F.one_hot(torch.arange(15) % 12, 12).T.reshape(1, 12, 3, 5).to(DEVICE, torch.float32)
    ),
    "spread": lambda: (8 * normal((1, 64, 3, 5))).exp(),
    "tiny": lambda: 1e-12 * normal((1, 64, 3, 5)).relu(),
    "huge": lambda: 1e12 * normal((1, 64, 3, 5)).relu(),
    "largest": lambda: 3.4e38 * normal((1, 64, 3, 5)).sigmoid(),
    "one location": lambda: normal((3, 2048, 1, 1)).relu(),
}


@kernels
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kind", VALUES)
def test_smoe_scale_agrees_with_the_plain_form(kind, layout):
    activations = LAYOUTS[layout](VALUES[kind]())
    values, plain = kernel_smoe_scale(activations), smoe_scale_plain(activations)
    # The difference of two nearly equal logarithms has float32's digits: five of 127.
    mean = activations.double().mean(1)
    relative = 1e-4 if kind == "largest" else 1e-5
    assert ((values - plain).abs() <= relative * plain + 1e-6 + 1e-6 * mean).all()
    torch.testing.assert_close(values.double(), in_float64(activations), rtol=5e-6, atol=1e-6)
    if kind in ("constant", "zero"):
        assert not values.any()


@kernels
def test_smoe_scale_of_many_locations(monkeypatch):
    monkeypatch.setattr(cuda, "ENOUGH_BLOCKS", 6)
    activations = normal((3, 33, 9, 15)).relu()
    assert cuda.StatisticLaunch(layout_of(activations)).block == cuda.MANY_LOCATIONS
    torch.testing.assert_close(
        kernel_smoe_scale(activations).double(), in_float64(activations), rtol=5e-6, atol=1e-6
    )


@kernels
@pytest.mark.parametrize("epsilon", [1e-3, 1e-10, 1e-30])
def test_smoe_scale_of_another_epsilon(epsilon):
    activations = normal((1, 70, 3, 6)).relu()
    values = kernel_smoe_scale(activations, epsilon)
    expected = in_float64(activations, epsilon)
    torch.testing.assert_close(values.double(), expected, rtol=5e-6, atol=1e-7)
    assert cuda.smoe_scale(activations, 1e-40) is None


@kernels
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_stays_in_its_location(value, dtype, layout):
    for channel in (0, 18):
        activations = normal((1, 19, 3, 3)).to(dtype)
        activations[0, channel, 1, 2] = value
        finite = kernel_smoe_scale(LAYOUTS[layout](activations)).isfinite()
        assert not finite[0, 1, 2]
        assert finite.sum() == 8


@kernels
@pytest.mark.parametrize(
    ("case", "tensor"),
    {
        "integers": torch.zeros(1, 4, 2, 2, dtype=torch.int32),
        "a stride between columns": torch.zeros(1, 4, 2, 4)[..., ::2],
        "a stride between rows": torch.zeros(1, 4, 4, 2)[:, :, ::2],
        "gradients": torch.zeros(1, 4, 2, 2, requires_grad=True),
        "empty": torch.zeros(0, 4, 2, 2),
    }.items(),
)
def test_what_is_left_to_the_plain_form(case, tensor):
    on_device = tensor.detach().to(DEVICE).requires_grad_(tensor.requires_grad)
    if tensor.stride() != on_device.stride():
        on_device = torch.zeros(1, 4, 4, 4, device=DEVICE)[:, :, ::2, ::2]
    assert cuda.smoe_scale(on_device, EPSILON) is None
    with without_kernels():
        assert cuda.smoe_scale(normal((1, 4, 2, 2)), EPSILON) is None


@kernels
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (70, 61)])
def test_gaussian_is_the_normal_distributions(size):
    norm = pytest.importorskip("scipy.stats").norm
    maps = normal((3, *size)).exp()
    maps[1] = 7.3
    kept = maps.clone()
    squashed = cuda.gaussian(maps)
    assert torch.equal(maps, kept)
    for values, result in zip(maps.cpu().double().numpy(), squashed.cpu().double(), strict=True):
        deviation = values.std(ddof=1) if values.size > 1 else 0
        constant = deviation <= 1e-6 * values.max()
        expected = 0.5 if constant else norm.cdf(values, values.mean(), deviation)
        assert abs(result.numpy() - expected).max() < 4e-7
    assert (squashed[1] == 0.5).all()
    with without_kernels():
        torch.testing.assert_close(squashed, gaussian(maps), rtol=0, atol=4e-7)


@kernels
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_gaussian_of_maps_whose_squares_leave_float32(factor):
    maps = normal((1, 6, 6)).abs()
    torch.testing.assert_close(cuda.gaussian(factor * maps), cuda.gaussian(maps))


@kernels
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_gaussian_of_what_is_not_finite_is_not_finite(value):
    maps = torch.ones(2, 4, 4, device=DEVICE)
    maps[1, 0, 0] = value
    assert cuda.gaussian(maps).isnan().flatten(1).sum(1).tolist() == [0, 16]


@kernels
@pytest.mark.parametrize("size", [(28, 28), (33, 20), (5, 64), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_combining_is_pytorchs_upsampling(size, channels):
    maps = [normal((2, *of)) for of in [(28, 28), (14, 7), (9, 13), (1, 1), (40, 50)]]
    weights = [1, 2, 3.5, 0, 0.25]
    out = torch.full((2, channels, *size), float("nan"), device=DEVICE)
    assert cuda.combine(maps, weights, out)
    expected = sum(
        weight * F.interpolate(given[:, None].double(), size, mode="bilinear")
        for given, weight in zip(maps, weights, strict=True)
    )
    torch.testing.assert_close(out.double(), expected.expand_as(out), rtol=0, atol=2e-5)
    wider = torch.empty(2, channels, size[0], size[1] + 1, device=DEVICE)[..., :-1]
    assert wider.is_contiguous() or not cuda.combine(maps, weights, wider)
    repeated = combine(maps, weights, size, channels)
    torch.testing.assert_close(repeated, out / sum(weights), rtol=1e-5, atol=1e-6)


def network(channels=12):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU()),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(channels, 20, 3, padding=1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(20, 4),
    )
    # Every class rises with some location, so that no class activation map is 0.
    nn.init.normal_(net[5].weight, 0.1, 0.05)
    return net.eval().to(DEVICE)


def images(count=2, height=12, width=10, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=generator).to(DEVICE)


def by_hand(net, batch, weights=(1, 2)):
    """Eq 1 to 3 by PyTorch's own operations."""
    with torch.no_grad(), without_kernels():
        first = net[0](batch)
        combined = 0
        for weight, tensor in zip(weights, [first, net[2](net[1](first))], strict=True):
            squashed = gaussian(smoe_scale_plain(tensor.float()))[:, None]
            upsampled = F.interpolate(squashed, batch.shape[2:], mode="bilinear")
            combined = combined + weight * upsampled
    return (combined / sum(weights)).expand(batch.shape)


def assert_near(found, expected):
    assert found.device.type == DEVICE
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-5, atol=3e-6)


@pytest.fixture
def planned_passes(monkeypatch):
    passes = []
    begin = PlannedReader.begin
    monkeypatch.setattr(
        PlannedReader, "begin", lambda plan, *given: (passes.append(plan), begin(plan, *given))
    )
    return passes


@kernels
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_second_call_is_a_launch_a_scale_and_two(planned_passes, launches, layout):
    net = network().to(memory_format=layout)
    attributor = SMOEScale(net, [net[0], net[2]])
    for seed in range(2):
        batch = images(seed=seed).contiguous(memory_format=layout)
        expected = by_hand(net, batch)
        launches.clear()
        found = attributor.attribute(batch, [1, 2])
        if seed:
            assert launches == ["statistic", "statistic", "squash", "combine"]
        assert_near(found, expected)
        assert found.is_contiguous()
        assert_near(attributor.maps(batch).combined, expected[:, 0])
        assert torch.equal(attributor.attribute(batch, expand_channels=False), found[:, :1])
    # All but the first call; `maps` shows what each scale gave, and is not planned.
    assert len(planned_passes) == 3
    assert isinstance(planned_passes[0]._plan, GpuPlan)


@kernels
def test_other_sizes_batches_types_and_weights_are_seen(planned_passes):
    net = network()
    attributor = SMOEScale(net, [net[0], net[2]])
    for height, count in [(8, 2), (8, 2), (10, 2), (8, 1), (10, 2)]:
        batch = images(count, height)
        assert_near(attributor.attribute(batch), by_hand(net, batch))
    assert len(planned_passes) == 2
    attributor.settings = dataclasses.replace(attributor.settings, weights=(3, 1))
    assert_near(attributor.attribute(batch), by_hand(net, batch, (3, 1)))
    net.double()
    doubled = batch.double()
    assert_near(attributor.attribute(doubled), by_hand(net, doubled, (3, 1)))
    assert len(planned_passes) == 2
    # One layer as planned, the other with other channels.
    net.float()
    net[2][0] = nn.Conv2d(12, 9, 3, padding=1).to(DEVICE)
    net[5] = nn.Linear(9, 4).to(DEVICE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = attributor.attribute(batch)
    assert_near(found, by_hand(net, batch, (3, 1)))
    assert len(planned_passes) == 3


@kernels
@pytest.mark.parametrize("spoiled", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named_and_the_next_call_is_right(spoiled):
    net = network()
    attributor = SMOEScale(net, [net[0], net[2]])
    batch = images()
    expected = attributor.attribute(batch)
    bad = batch.clone()
    bad[1, 0, 3, 3] = spoiled
    for read in (attributor.attribute, attributor.maps):
        with pytest.raises(ValueError, match="layer '0' gives activations that are not finite"):
            read(bad)
    assert_near(attributor.attribute(batch), expected)


@kernels
def test_the_plain_forms_give_the_same(planned_passes, launches):
    net = network()
    for attributor in (SMOEScale(net, [net[0], net[2]]), FastCAM(net, net[2], scales=["0", "2"])):
        batch = images()
        first = attributor.attribute(batch, 1)
        second = attributor.attribute(batch, 1)
        assert_near(first, second)
        assert second.amax() > 0.5
        assert len(planned_passes) == 1
        planned_passes.clear()
        launches.clear()
        with without_kernels():
            assert_near(attributor.attribute(batch, 1), second)
        assert not launches
        assert not planned_passes


@kernels
def test_the_whole_map_without_triton(monkeypatch):
    net = network()
    expected = SMOEScale(net).attribute(images())
    monkeypatch.setitem(sys.modules, "fastsal.kernels.triton_kernels", None)
    monkeypatch.delattr("fastsal.kernels.triton_kernels", raising=False)
    cuda.available.cache_clear()
    cuda._kernels.cache_clear()
    try:
        assert not cuda.available(torch.device(DEVICE))
        assert_near(SMOEScale(net).attribute(images()), expected)
    finally:
        cuda.available.cache_clear()
        cuda._kernels.cache_clear()


@kernels
def test_a_gpu_for_which_triton_does_not_compile_has_the_plain_form(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(cuda._kernels().probe, "run", fail)
    cuda.available.cache_clear()
    try:
        assert cuda.smoe_scale(normal((1, 4, 2, 2)), EPSILON) is None
    finally:
        cuda.available.cache_clear()


@kernels
def test_a_map_too_large_for_one_program_has_the_plain_form(monkeypatch, planned_passes):
    net = network()
    monkeypatch.setattr(cuda, "LARGEST_MAP", 119)
    attributor = SMOEScale(net, ["0", "2"])
    for _ in range(2):
        assert_near(attributor.attribute(images()), by_hand(net, images()))
    assert not planned_passes
    assert cuda.gaussian(normal((2, 10, 12))) is None


@kernels
def test_gradients_follow_the_plain_form():
    leaf = (normal((2, 6, 3, 3)).relu() + 0.1).requires_grad_()
    smoe_scale(leaf).sum().backward()
    step = 1e-4 * normal(leaf.shape, 1)
    with torch.no_grad():
        slope = (in_float64(leaf + step) - in_float64(leaf)).sum()
    assert (leaf.grad * step).sum().item() == pytest.approx(slope.item(), rel=2e-2)


@kernels
def test_copies_have_no_plans():
    net = network()
    attributor = SMOEScale(net, ["0", "2"])
    expected = attributor.attribute(images())
    for copied in (copy.deepcopy(attributor), pickle.loads(pickle.dumps(attributor))):
        assert_near(copied.attribute(images()), expected)
        assert_near(copied.attribute(images()), expected)


@on_gpu
def test_threads_with_one_attributor():
    net = network()
    attributor = SMOEScale(net, ["0", "2"])
    batches = [images(seed=seed) for seed in range(4)]
    attributor.attribute(batches[0], 1)
    expected = [attributor.attribute(batch, 1) for batch in batches]
    wrong = []

    def work(place):
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                found = attributor.attribute(batches[place], 1)
                if not torch.allclose(found, expected[place], atol=1e-5):
                    wrong.append(place)

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@on_gpu
def test_a_call_waits_for_the_gpu_once():
    net = network()
    attributor = SMOEScale(net, ["0", "2"])
    batch = images()
    for _ in range(2):
        attributor.attribute(batch, 1)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            attributor.attribute(batch, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum("synchroniz" in str(warning.message) for warning in seen) == 1


@on_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="not as many GPUs")
def test_on_another_gpu_than_the_current():
    net = network()
    expected = by_hand(net, images())
    net.to("cuda:1")
    attributor = SMOEScale(net, ["0", "2"])
    for _ in range(2):
        assert_near(attributor.attribute(images().to("cuda:1")).to("cuda:0"), expected)


@on_gpu
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("count", [1, 5])
def test_a_network_that_is_used(kind, layout, count):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    net = models.resnet18(weights=None).to(DEVICE, memory_format=layout)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        net.train()(images(4, 224, 200))
    net.eval().to(kind)
    batch = images(count, 224, 200).to(kind, memory_format=layout)
    for attributor in (SMOEScale(net), FastCAM(net)):
        with without_kernels():
            expected = attributor.attribute(batch, 3)
        assert expected.std() > 0.05
        for _ in range(2):
            found = attributor.attribute(batch, 3)
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
