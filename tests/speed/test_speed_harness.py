"""Maps for a training set beside Captum's own batching, at the same memory budget."""

from __future__ import annotations

import pytest
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from torch import nn

from comparisons.budget import MEMORY_BUDGET_MIB, memory_budget_bytes, rows_at_once
from comparisons.methods import METHODS, Batch
from evaluation.networks.build import build_network

pytestmark = pytest.mark.training

COPIES, STEPS, NOISE = 15, 25, 0.15


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return build_network("resnet9", 10, 0, size=(32, 32)).eval()


@pytest.fixture
def batch(timed) -> Batch:
    images, size = (64, 32) if timed else (2, 16)
    inputs = torch.rand(images, 3, size, size, generator=torch.Generator().manual_seed(0))
    target = torch.ones(images, dtype=torch.int64)
    return Batch(inputs, target, torch.arange(images), 1.0, (0.0, 0.0, 0.0))


def captum_smoothed(network: nn.Module, batch: Batch, at_once: int) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NoiseTunnel(Saliency(network)).attribute(
            batch.inputs,
            nt_type="smoothgrad_sq",
            nt_samples=COPIES,
            nt_samples_batch_size=max(1, min(COPIES, at_once // len(batch.inputs))),
            stdevs=NOISE,
            target=batch.target,
            abs=False,
        )


def captum_integrated(network: nn.Module, batch: Batch, at_once: int) -> torch.Tensor:
    return IntegratedGradients(network).attribute(
        batch.inputs,
        baselines=torch.zeros_like(batch.inputs[:1]),
        n_steps=STEPS,
        internal_batch_size=max(len(batch.inputs), at_once),
        target=batch.target,
    )


CAPTUM = {"gradient-sgsq": captum_smoothed, "ig": captum_integrated}


@pytest.mark.filterwarnings("ignore:Input Tensor")
@pytest.mark.parametrize("whose", ["fastsal's harness", "Captum's own batching"])
@pytest.mark.parametrize("name", CAPTUM)
def test_maps_of_a_training_set(measure, timed, network, batch, name, whose):
    explain = METHODS[name].prepare(network)
    if whose == "fastsal's harness":
        explain(batch)

        def work() -> torch.Tensor:
            return explain(batch)
    else:
        plain = Saliency(network)
        at_once = rows_at_once(
            lambda inputs, target: plain.attribute(inputs, target=target, abs=False),
            batch.inputs,
            batch.target,
            memory_budget_bytes(),
        )

        def work() -> torch.Tensor:
            return CAPTUM[name](network, batch, at_once).abs().sum(1)

    maps = measure(
        f"{name}, {len(batch.inputs)} images, {MEMORY_BUDGET_MIB} MiB",
        work,
        rounds=5,
        images=len(batch.inputs),
    )
    if not timed:
        torch.testing.assert_close(maps, explain(batch), rtol=1e-3, atol=1e-5)
