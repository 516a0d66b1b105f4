"""Memory that the images of one training take on its device."""

from __future__ import annotations

import math

from comparisons.plans.plan import Plan
from evaluation.datasets.load import Extent, channels_of
from evaluation.masking.resident import FREE_SHARE
from evaluation.masking.variants import Variant

__all__ = ["device_bytes", "memory_words"]

_GB = 1e9
# Bytes of a channel of a pixel of a fill that is made once, in half precision.
_FILLED = 2


def device_bytes(plan: Plan, extent: Extent, size: tuple[int, ...]) -> int:
    r"""Bytes of the images and levels that the largest training of a plan keeps on its device.

    $$b = N H W (C + u)$$

    with `C` channels and `u` levels a pixel: 1, or `C` if the channels of a pixel are ranked by
    themselves; `2 C N H W` with a fill that is made once, in half precision.

    Args:
        plan: the options.
        extent: numbers of images.
        size: height and width of the images; of volumes three sides, of signals one.

    >>> plan = Plan("shapes", "resnet9", ("random",))
    >>> device_bytes(plan, Extent("shapes", 8, 50_000, 10_000, (32, 32), True), (32, 32))
    245760000
    """
    pixels = (extent.train + extent.test) * math.prod(size)
    channels = channels_of(plan.data)
    return pixels * max(_of_pixel(variant, channels) for variant in plan.all_variants)


def memory_words(needed: int, device: str, free: int | None) -> str:
    """The memory that a training needs in one sentence, and what happens if it is not there.

    Args:
        needed: bytes of images and levels, from `device_bytes`.
        device: ``"cpu"`` or ``"cuda"``.
        free: bytes that are free on the device; None if it was not asked.

    >>> memory_words(245_760_000, "cuda", 80_000_000_000)
    'images and levels of a training take 0.25 GB of 80.0 GB free on cuda: uploaded once'
    """
    on_cpu = device.partition(":")[0] == "cpu"
    said = f"images and levels of a training take {needed / _GB:,.2f} GB"
    if free is None:
        allowed = f"{100 * FREE_SHARE:.0f} % of {device}'s free memory"
        return f"{said}; where that is more than {allowed}, they are read batch by batch"
    said += f" of {free / _GB:,.1f} GB free on {device}"
    if needed > FREE_SHARE * free:
        return (
            f"{said}, more than {100 * FREE_SHARE:.0f} % of it: they are read batch by batch, with "
            "the same results"
        )
    return (
        f"{said}: the pages of their files, shared by all workers"
        if on_cpu
        else (f"{said}: uploaded once")
    )


def _of_pixel(variant: Variant, channels: int) -> int:
    """Bytes of a pixel: its channels and levels, or a fill that is made once."""
    if variant.fill != "mean":
        return _FILLED * channels
    return channels + (channels if variant.mask_unit == "element" else 1)
