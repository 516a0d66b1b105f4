"""CPU kernels against float64 rewrites of the formulas and against PyTorch's operations."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from fastsal import SMOEScale
from fastsal.kernels import cpu
from fastsal.kernels import threads as kernel_threads
from fastsal.kernels.memory import layout_of, without_kernels
from fastsal.kernels.plan import CpuPlan
from fastsal.maps.combination import combine
from fastsal.maps.normalization import gaussian
from fastsal.statistics.smoe import smoe_scale, smoe_scale_plain

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(not cpu.available(), reason="Numba is not installed"),
]
EPSILON = 1e-6
ROOT = Path(__file__).parents[3]
OUTPUT = {"capture_output": True, "text": True, "check": True}


def in_float64(activations, epsilon=EPSILON):
    shifted = activations.float().clamp_min(0).add(epsilon).double()
    mean = shifted.mean(1)
    return mean * (mean.log2() - shifted.log2().mean(1))


def kernel_smoe_scale(activations, epsilon=EPSILON):
    values = cpu.smoe_scale(activations, epsilon)
    assert values is not None
    return values


def normal(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LAYOUTS = {
    "contiguous": lambda tensor: tensor,
    "channels_last": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "part of the channels": lambda tensor: torch.cat((tensor, tensor), 1)[:, : tensor.shape[1]],
    "part of the images": lambda tensor: torch.stack((tensor, tensor), 1)[:, 1],
    "channels_last, part of them": lambda tensor: torch.cat((tensor, tensor), 1).contiguous(
        memory_format=torch.channels_last
    )[:, tensor.shape[1] :],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("channels", [1, 3, 4, 8, 21, 260, 1030])
def test_smoe_scale_is_the_equation(channels, dtype, layout):
    activations = (3 * normal((2, channels, 5, 7), channels)).to(dtype)
    values = kernel_smoe_scale(LAYOUTS[layout](activations))
    assert values.dtype == torch.float32
    mean = activations.float().clamp_min(0).mean(1).double()
    expected = in_float64(activations)
    assert ((values - expected).abs() <= 1e-6 * expected + 1e-7 * mean + 1e-12).all()


def moments_in_float64(activations):
    numbers = activations.float().clamp_min(0).double()
    return {"mean": numbers.mean(1), "std": numbers.std(1, correction=0)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("channels", [1, 3, 4, 8, 21, 260, 1030])
def test_moments_are_the_equations(channels, dtype, layout):
    activations = (3 * normal((2, channels, 5, 7), channels)).to(dtype)
    for name, expected in moments_in_float64(activations).items():
        values = cpu.statistic(name, LAYOUTS[layout](activations))
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.double(), expected, rtol=2e-6, atol=0)


# More locations than a block; a sparse and a heavy-tailed one; near the ends of float32.
VALUES = {
    "random": lambda: normal((2, 64, 40, 31)).relu(),
    "constant": lambda: torch.full((1, 37, 9, 9), 0.3),
    "zero": lambda: torch.zeros(1, 64, 9, 9),
    "one channel": lambda: F.one_hot(torch.arange(49) % 40, 40).T.reshape(1, 40, 7, 7).float(),
    "spread": lambda: (8 * normal((1, 64, 9, 9))).exp(),
    "tiny": lambda: 1e-12 * normal((1, 64, 9, 9)).relu(),
    "huge": lambda: 1e12 * normal((1, 64, 9, 9)).relu(),
    "largest": lambda: 3e38 * torch.rand((1, 64, 9, 9), generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kind", VALUES)
def test_smoe_scale_agrees_with_the_plain_form(kind, layout):
    activations = LAYOUTS[layout](VALUES[kind]())
    values, plain = kernel_smoe_scale(activations), smoe_scale_plain(activations)
    # The difference of two nearly equal logarithms has float32's digits: five of 127.
    mean = activations.double().mean(1)
    relative = 1e-4 if kind == "largest" else 1e-5
    assert ((values - plain).abs() <= relative * plain + 1e-6 + 1e-6 * mean).all()
    torch.testing.assert_close(values.double(), in_float64(activations), rtol=2e-6, atol=1e-6)


# Deviations far below the mean, of which float32's digits of the activations leave three.
NEARLY_EQUAL = {"nearly equal": lambda: 1 + 1e-4 * normal((1, 67, 9, 9))}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kind", VALUES | NEARLY_EQUAL)
def test_moments_keep_their_digits(kind, layout):
    activations = LAYOUTS[layout]((VALUES | NEARLY_EQUAL)[kind]())
    for name, expected in moments_in_float64(activations).items():
        values = cpu.statistic(name, activations).double()
        torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-36)
        if kind in ("constant", "zero") and name == "std":
            assert not values.any()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("epsilon", [1e-3, 1e-9, 1e-10, 1e-30])
def test_smoe_scale_of_another_epsilon(epsilon, layout):
    activations = LAYOUTS[layout](normal((1, 70, 6, 6)).relu())
    values = kernel_smoe_scale(activations, epsilon)
    torch.testing.assert_close(
        values.double(), in_float64(activations, epsilon), rtol=2e-6, atol=1e-7
    )


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_stays_in_its_location(value, dtype, layout):
    for channel in range(19):
        activations = normal((1, 19, 3, 3)).to(dtype)
        activations[0, channel, 1, 2] = value
        for name in cpu.STATISTICS:
            finite = cpu.statistic(name, LAYOUTS[layout](activations)).isfinite()
            assert not finite[0, 1, 2]
            assert finite.sum() == 8


def test_float16s_smallest_and_largest_numbers():
    bits = torch.arange(0x7C00, dtype=torch.int32).to(torch.int16)
    activations = bits.view(torch.float16).reshape(1, 2, -1, 2)
    torch.testing.assert_close(
        kernel_smoe_scale(activations).double(), in_float64(activations), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("case", "tensor"),
    {
        "integers": torch.zeros(1, 4, 2, 2, dtype=torch.int32),
        "a stride between columns": torch.zeros(1, 4, 2, 4)[..., ::2],
        "a stride between rows": torch.zeros(1, 4, 4, 2)[:, :, ::2],
        "gradients": torch.zeros(1, 4, 2, 2, requires_grad=True),
        "no memory": torch.zeros(1, 4, 2, 2, device="meta"),
        "empty": torch.zeros(0, 4, 2, 2),
        "a subclass": nn.Parameter(torch.zeros(1, 4, 2, 2), requires_grad=False),
    }.items(),
)
def test_what_is_left_to_the_plain_form(case, tensor):
    for name in cpu.STATISTICS:
        assert cpu.statistic(name, tensor) is None


def test_gradients_transforms_and_tracers_follow_the_plain_form():
    activations = normal((2, 6, 3, 3)).relu()
    leaf = activations.clone().requires_grad_()
    smoe_scale(leaf).sum().backward()
    step = 1e-4 * normal(leaf.shape, 1)
    slope = (in_float64(activations + 0.1 + step) - in_float64(activations + 0.1)).sum()
    shifted = (activations + 0.1).requires_grad_()
    smoe_scale(shifted).sum().backward()
    assert (shifted.grad * step).sum().item() == pytest.approx(slope.item(), rel=2e-2)
    expected = smoe_scale(activations)
    mapped = torch.func.vmap(lambda image: gaussian(image[:, 0]))(activations[None])
    torch.testing.assert_close(mapped[0], gaussian(activations[:, 0]))
    graph = make_fx(gaussian)(expected)
    torch.testing.assert_close(graph(2 * expected.flip(0)), gaussian(2 * expected.flip(0)))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 31)])
def test_gaussian_is_the_normal_distributions(size):
    maps = normal((3, *size)).exp()
    maps[1] = 7.5
    squashed = cpu.gaussian(maps)
    for values, result in zip(maps.double().numpy(), squashed.double().numpy(), strict=True):
        deviation = values.std(ddof=1) if values.size > 1 else 0
        expected = norm.cdf(values, values.mean(), deviation) if deviation else 0.5
        assert abs(result - expected).max() < 3e-7
    with without_kernels():
        torch.testing.assert_close(squashed, gaussian(maps), rtol=0, atol=3e-7)


def test_gaussian_keeps_the_order():
    maps = torch.linspace(-7, 7, 100_001).reshape(1, 1, -1)
    assert (cpu.gaussian(maps * maps.std() / 2).diff() >= 0).all()
    assert (cpu.gaussian(maps.sinh()).diff() >= 0).all()


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_gaussian_of_maps_whose_squares_leave_float32(factor):
    maps = normal((1, 6, 6)).abs()
    torch.testing.assert_close(cpu.gaussian(factor * maps), cpu.gaussian(maps))


def test_gaussian_of_what_is_not_finite_is_not_finite():
    maps = torch.ones(2, 4, 4)
    maps[1, 0, 0] = float("nan")
    assert cpu.gaussian(maps).isnan().flatten(1).sum(1).tolist() == [0, 16]


@pytest.mark.parametrize("size", [(28, 28), (33, 20), (5, 64), (1, 1)])
def test_combining_is_pytorchs_upsampling(size):
    maps = [normal((2, *of)) for of in [(28, 28), (14, 7), (9, 13), (1, 1), (40, 50)]]
    weights = [1, 2, 3.5, 0, 0.25]
    out = torch.full((2, 3, *size), float("nan"))
    assert cpu.combine(maps, weights, out[:, 1:2])
    expected = sum(
        weight * F.interpolate(given[:, None].double(), size, mode="bilinear")
        for given, weight in zip(maps, weights, strict=True)
    )
    torch.testing.assert_close(out[:, 1].double(), expected[:, 0], rtol=0, atol=2e-5)
    assert out[:, 0].isnan().all()
    assert out[:, 2].isnan().all()


def test_channels_are_each_their_own():
    maps = [normal((2, 4, 4)), normal((2, 2, 2))]
    for forms in (cpu.available, lambda: False):
        with without_kernels() if not forms() else torch.no_grad():
            repeated = combine(maps, [1, 2], (8, 9), 3)
            assert repeated.is_contiguous()
            assert torch.equal(repeated[:, 1], combine(maps, [1, 2], (8, 9)))
            repeated[:, 0] = 0
            assert repeated[:, 1].any()
            assert torch.equal(repeated[:, 1], repeated[:, 2])


@pytest.mark.parametrize("threads", [2, 3])
def test_shared_work_is_the_same_work(monkeypatch, threads):
    activations = [normal((3, 20, 33, 47)), LAYOUTS["channels_last"](normal((3, 20, 33, 47)))]
    maps = [normal((3, 20, 20)), normal((3, 7, 9))]

    def results():
        return [
            *[kernel_smoe_scale(given) for given in activations],
            cpu.gaussian(maps[0]),
            combine(maps, [1, 2], (45, 40)),
        ]

    alone = results()
    monkeypatch.setattr(kernel_threads, "ELEMENTS_A_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for shared, expected in zip(results(), alone, strict=True):
        assert torch.equal(shared, expected)
    # And by several callers at a time, whose work lies in one pool.
    found = [None] * 4
    callers = [
        threading.Thread(target=lambda place: found.__setitem__(place, results()), args=(place,))
        for place in range(len(found))
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for each in found:
        assert all(torch.equal(a, b) for a, b in zip(each, alone, strict=True))


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 20, 3, padding=1),
        nn.ReLU(),
    )


def test_the_whole_map_without_numba(monkeypatch):
    attributor = SMOEScale(small_net())
    images = torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(1))
    expected = attributor.attribute(images)
    cpu._kernels.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    try:
        assert not cpu.available()
        torch.testing.assert_close(attributor.attribute(images), expected, rtol=1e-5, atol=1e-6)
    finally:
        cpu._kernels.cache_clear()


def test_numba_is_imported_by_the_first_map_alone():
    code = (
        "import sys, torch, fastsal; print('numba' in sys.modules); "
        "fastsal.smoe_scale(torch.ones(1, 2, 2, 2)); print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, **OUTPUT)
    assert done.stdout.split() == ["False", "True"]


def test_no_place_for_compiled_code():
    """Without a directory that can be written, kernels are compiled and not cached."""
    code = (
        "from numba.core import caching\n"
        "(getattr(caching, 'CacheImpl', None) or caching._CacheImpl)._locator_classes = []\n"
        "import torch, fastsal\n"
        "from fastsal.kernels import cpu\n"
        "print(cpu.gaussian(torch.tensor([[[1.0, 2.0, 3.0]]])).flatten().tolist()[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, **OUTPUT)
    assert done.stdout.split() == ["0.5"]


def test_a_call_inside_a_call_has_a_task_of_its_own(monkeypatch):
    """As where a signal handler runs the network in the middle of a pass."""
    outer, inner = normal((1, 8, 5, 5)), normal((1, 8, 5, 5), 1)
    call = cpu.StatisticCall(layout_of(outer))
    results = [torch.empty(1, 5, 5) for _ in range(2)]
    scratch = torch.empty(call.scratch_bytes, dtype=torch.uint8)

    def run(tensor, result):
        return call.run(tensor.data_ptr(), result.data_ptr(), scratch.data_ptr())

    def interrupted(*arguments):
        monkeypatch.setattr(cpu, "run_in_parallel", run_in_parallel)
        assert run(inner, results[1])
        run_in_parallel(*arguments)

    run_in_parallel = cpu.run_in_parallel
    monkeypatch.setattr(cpu, "run_in_parallel", interrupted)
    assert run(outer, results[0])
    for tensor, result in zip((outer, inner), results, strict=True):
        assert torch.equal(result, kernel_smoe_scale(tensor))
    assert not run(torch.zeros(1, 8, 5, 5), results[0])
    assert not results[0].any()


def test_a_plan_reads_between_begin_and_end_alone():
    tensor = normal((1, 8, 5, 5))
    plan = CpuPlan([layout_of(tensor)], [1.0], (5, 5))
    for call in (lambda: plan.read(0, tensor), lambda: plan.combined(1), lambda: plan.values(0)):
        with pytest.raises(RuntimeError, match="between `begin` and `end`"):
            call()
        plan.begin()
        assert plan.read(0, tensor)
        call()
        plan.end()
