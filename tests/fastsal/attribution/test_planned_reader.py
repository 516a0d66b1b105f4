"""Planned readers: the same maps as without a plan, and every change of a call is noticed."""

import copy
import pickle
import threading
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from fastsal import FastCAM, SMOEScale
from fastsal.attribution.planned_reader import PlannedReader
from fastsal.kernels import cpu
from fastsal.kernels.memory import without_kernels
from fastsal.maps.normalization import gaussian
from fastsal.statistics.smoe import smoe_scale_plain

pytestmark = pytest.mark.skipif(not cpu.available(), reason="Numba is not installed")


def network(channels=12):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU()),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(channels, 20, 3, padding=1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(20, 4),
    ).eval()


def images(count=2, height=24, width=20, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=generator)


def by_hand(net, batch, weights=(1, 2), statistic=smoe_scale_plain):
    """Eq 1 to 3 by PyTorch's own operations."""
    with torch.no_grad():
        first = net[0](batch)
        activations = [first, net[2](net[1](first))]
        combined = 0
        for weight, tensor in zip(weights, activations, strict=True):
            with without_kernels():
                squashed = gaussian(statistic(tensor.float()))[:, None]
            upsampled = nn.functional.interpolate(squashed, batch.shape[2:], mode="bilinear")
            combined = combined + weight * upsampled
    return (combined / sum(weights)).expand(batch.shape)


@pytest.fixture
def planned_passes(monkeypatch):
    passes = []
    begin = PlannedReader.begin
    monkeypatch.setattr(
        PlannedReader, "begin", lambda plan, *given: (passes.append(plan), begin(plan, *given))
    )
    return passes


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_second_call_is_planned_and_is_the_equations(planned_passes, layout):
    net = network().to(memory_format=layout)
    attributor = SMOEScale(net, [net[0], net[2]])
    for seed in range(4):
        batch = images(seed=seed).contiguous(memory_format=layout)
        expected = by_hand(net, batch)
        found = attributor.attribute(batch, [1, 2])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(found[:, 0], attributor.maps(batch).combined)
        assert found.is_contiguous()
        one = attributor.attribute(batch, expand_channels=False)
        assert torch.equal(one, found[:, :1])
    # All but the first call; `maps` needs every scale's map, and is not planned.
    assert len(planned_passes) == 7


MOMENTS = {
    "mean": lambda tensor: tensor.mean(1),
    "std": lambda tensor: tensor.std(1, correction=0),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("statistic", MOMENTS)
def test_moments_are_planned_too(planned_passes, statistic, layout):
    net = network().to(memory_format=layout)
    attributor = SMOEScale(net, [net[0], net[2]], statistic=statistic)
    for seed in range(3):
        batch = images(seed=seed).contiguous(memory_format=layout)
        expected = by_hand(net, batch, statistic=MOMENTS[statistic])
        found = attributor.attribute(batch, [1, 2])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)
        assert torch.equal(found[:, 0], attributor.maps(batch).combined)
    assert len(planned_passes) == 2


@pytest.mark.parametrize("length", [1, 64, 4097])
def test_signals_are_planned_too(planned_passes, length):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Sequential(nn.Conv1d(2, 12, 3, padding=1), nn.ReLU()),
        nn.MaxPool1d(2, ceil_mode=True),
        nn.Sequential(nn.Conv1d(12, 20, 3, padding=1), nn.ReLU()),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(20, 4),
    ).eval()
    attributor = SMOEScale(net, [net[0], net[2]])
    for seed in range(3):
        batch = torch.rand(2, 2, length, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad(), without_kernels():
            first = net[0](batch)
            expected = 0
            for weight, tensor in ((1, first), (2, net[2](net[1](first)))):
                squashed = gaussian(smoe_scale_plain(tensor[:, :, None]))
                expected = expected + weight * nn.functional.interpolate(
                    squashed, length, mode="linear"
                )
        found = attributor.attribute(batch, [1, 2])
        torch.testing.assert_close(found, (expected / 3).expand(batch.shape), rtol=1e-5, atol=2e-6)
        assert torch.equal(found[:, 0], attributor.maps(batch).combined)
    assert len(planned_passes) == 2


@pytest.mark.parametrize("statistic", MOMENTS)
def test_moments_count_negative_activations_as_0(planned_passes, statistic):
    net = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.Flatten(), nn.Linear(12 * 12 * 10, 4)).eval()
    attributor = SMOEScale(net, [net[0]], statistic=statistic)
    batch = images()
    with torch.no_grad(), without_kernels():
        rectified = net[0](batch).relu()
        expected = nn.functional.interpolate(
            gaussian(MOMENTS[statistic](rectified))[:, None], batch.shape[2:], mode="bilinear"
        ).expand(batch.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            found = attributor.attribute(batch)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)
    assert len(planned_passes) == 1


def test_other_sizes_batches_types_and_weights_are_seen(planned_passes):
    net = network()
    attributor = SMOEScale(net, [net[0], net[2]])
    for height, count in [(24, 2), (24, 2), (30, 2), (24, 1), (24, 2), (30, 2)]:
        batch = images(count, height)
        torch.testing.assert_close(
            attributor.attribute(batch), by_hand(net, batch), rtol=1e-5, atol=1e-6
        )
    assert len(planned_passes) == 3
    attributor.settings = replace(attributor.settings, weights=(3, 1))
    torch.testing.assert_close(
        attributor.attribute(batch), by_hand(net, batch, (3, 1)), rtol=1e-5, atol=1e-6
    )
    net.double()
    doubled = batch.double()
    torch.testing.assert_close(
        attributor.attribute(doubled), by_hand(net, doubled, (3, 1)).double(), rtol=1e-5, atol=1e-5
    )


def test_a_layer_that_gives_another_tensor_is_read_the_ordinary_way(planned_passes):
    net = network()
    attributor = SMOEScale(net, [net[0], net[2]])
    batch = images()
    attributor.attribute(batch)
    # The first layer as planned, the second with other channels, in another type.
    net[2][0] = nn.Conv2d(12, 9, 3, padding=1)
    net[5] = nn.Linear(9, 4)
    expected = by_hand(net, batch)
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = attributor.attribute(batch)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert len(planned_passes) == 2


def test_what_is_not_finite_is_named_and_the_next_call_is_right():
    net = network()
    attributor = SMOEScale(net, [net[0], net[2]])
    batch = images()
    expected = attributor.attribute(batch)
    for spoiled in (float("nan"), float("inf")):
        bad = batch.clone()
        bad[1, 0, 3, 3] = spoiled
        with pytest.raises(ValueError, match="layer '0' gives activations that are not finite"):
            attributor.attribute(bad)
        assert torch.equal(attributor.attribute(batch), expected)


def test_modes_and_training_are_seen_at_every_call(planned_passes):
    net = nn.Sequential(network(), nn.Dropout(0.5))
    attributor = SMOEScale(net, [net[0][0], net[0][2]])
    batch = images()
    expected = attributor.attribute(batch)
    net.train()
    assert torch.equal(attributor.attribute(batch), expected)
    assert net[0].training
    with without_kernels():
        torch.testing.assert_close(attributor.attribute(batch), expected, rtol=1e-5, atol=1e-6)
    assert len(planned_passes) == 1


def test_results_are_not_written_over_by_later_calls():
    net = network()
    attributor = SMOEScale(net, [net[0], net[2]])
    first = attributor.attribute(images())
    second = attributor.attribute(images())
    kept = second.clone()
    attributor.attribute(images(seed=5))
    assert torch.equal(second, kept)
    assert torch.equal(first, kept)


def test_copies_have_no_plans():
    net = network()
    attributor = SMOEScale(net, ["0", "2"])
    expected = attributor.attribute(images())
    for copied in (copy.deepcopy(attributor), pickle.loads(pickle.dumps(attributor))):
        assert torch.equal(copied.attribute(images()), expected)
        assert torch.equal(copied.attribute(images()), expected)


@pytest.mark.parametrize("method", [SMOEScale, FastCAM])
def test_threads_with_one_attributor(method):
    net = network()
    attributor = method(net) if method is FastCAM else method(net, [net[0], net[2]])
    batches = [images(seed=seed) for seed in range(4)]
    expected = [method(net).attribute(batch, 1) for batch in batches]
    wrong = []

    def work(place):
        for _ in range(8):
            if not torch.equal(attributor.attribute(batches[place], 1), expected[place]):
                wrong.append(place)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
