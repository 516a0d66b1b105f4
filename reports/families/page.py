"""The page of families: the last scale of each, what comes after it, and reasons."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from reports.families.measurement import Measurement

# Of the parameters that work on locations.
MOST_AFTER = 0.05
ONE_RESOLUTION = "one resolution"
PYRAMID = "a pyramid and heads read every scale"
QUERIES = "boxes are decoded from queries, after the last grid"
DECODER = "a decoder reads every scale"
# Families with a larger share after or beside the last scale, or with another error.
REASONS = {
    "timm crossvit": "two branches on grids of their own; depths of the first stage are read",
    "timm coat": "three resolutions read each other in parallel blocks, and all reach the output",
    "timm efficientvim": "the heads of all stages read hidden states without locations",
    "timm tnt": "every patch is a map of 4x4 locations of its own",
    "timm mobilenetv5": "the last two stages are merged at the finer of their grids",
    **{
        f"torchvision detection.{name}": PYRAMID
        for name in [
            "faster_rcnn",
            "fcos",
            "keypoint_rcnn",
            "mask_rcnn",
            "retinanet",
            "ssd",
            "ssdlite",
        ]
    },
    "torchvision segmentation.lraspp": "a head of two scales follows",
    **{
        f"transformers {name}": QUERIES
        for name in ["conditional_detr", "dab-detr", "detr", "table-transformer"]
    },
    **{
        f"transformers {name}": "a pyramid reads every scale, and boxes are decoded from queries"
        for name in [
            "d_fine",
            "deformable_detr",
            "deimv2",
            "pp_doclayout_v3",
            "pp_doclayout_v4",
            "rt_detr",
            "rt_detr_v2",
        ]
    },
    **{
        f"transformers {name}": DECODER
        for name in ["dpt", "pp_ocrv5_mobile_det", "tipsv2_dpt", "upernet"]
    },
}

INTRODUCTION = """# Families of networks

The last scale that `find_scales` finds in one network of every family of timm, torchvision and
transformers, and the share of the network that runs after it. The table is written by

```
python -m reports.families --records reports/runs/families/families.jsonl --page docs/families.md
```

A *family* is a module of the package and the letters with which its networks' names begin (for
torchvision a module, for transformers a model type with its default configuration). The network
with the fewest parameters stands for its family. It has random weights; gains that begin at 0 are
set to 1 and batch norms take the statistics of two random images, so that no branch is silent. The
image has the network's default size.

- **last scale**: the layer, channels x rows x columns, and the stride. *in*: the layer's input;
  *+n*: the result of the nth function after the layer.
- **strides**: those of all scales.
- **after**: the share of the parameters that runs after the last scale. It is measured without
  the trace of `find_scales`, in autograd's graph. Parameters that work on one location, as after
  global pooling, are left out.
- **beside**: the share of the other parameters that reaches the output around the last scale.
- **without**: locations at which layers work that every path crosses, and no scale is.
- **head**: the share of all parameters that works on one location.
"""


def write_page(path: Path, measurements: Iterable[Measurement]) -> None:
    """Write the page.

    Args:
        path: The page's file.
        measurements: One a family.
    """
    found = sorted(measurements, key=lambda one: one.family)
    regular = [one for one in found if is_regular(one)]
    with_reason = [one for one in found if not is_regular(one)]
    packages = dict.fromkeys(one.family.partition(" ")[0] for one in found)
    lines = [INTRODUCTION]
    for package in packages:
        mine = [one for one in regular if one.family.startswith(package)]
        lines += [
            f"## {package}\n",
            "| family | network, side | last scale | strides | after | beside | head |",
        ]
        lines += ["|---|---|---|---|---|---|---|", *map(_row, mine), ""]
    lines += [
        "## The others\n",
        "One scale or none, an octave without a scale, or more than "
        f"{MOST_AFTER:.0%} after or beside the last scale.\n",
        "| family | network | last scale | after | beside | without | reason |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {one.family} | `{_short(one)}` | {_last(one)} | {_shares(one)} | "
            f"{', '.join(map(str, one.unread))} | {reason(one)} |"
            for one in with_reason
        ),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def is_regular(found: Measurement) -> bool:
    """Return True if a network has several scales, none is missing and little comes after them."""
    little = found.after + found.beside <= MOST_AFTER
    return len(found.scales) > 1 and little and not found.unread


def reason(found: Measurement) -> str:
    """Return the reason why a family has no scales, or why much comes after the last one."""
    if found.family in REASONS:
        return REASONS[found.family]
    if len(found.scales) == 1:
        return ONE_RESOLUTION
    return found.error


def without_reason(measurements: Iterable[Measurement]) -> Collection[str]:
    """Return the families which need a reason and have none."""
    return [
        one.family
        for one in measurements
        if one.size and not is_regular(one) and reason(one) in (one.error, "")
    ]


def _row(found: Measurement) -> str:
    strides = ", ".join(str(scale.stride) for scale in found.scales)
    return (
        f"| {found.family.partition(' ')[2]} | `{_short(found)}`, {found.size} | {_last(found)} "
        f"| {strides} | {_shares(found)} | {found.head:.0%} |"
    )


def _short(found: Measurement) -> str:
    return found.network.rpartition(":")[2]


def _shares(found: Measurement) -> str:
    return f"{found.after:.1%} | {found.beside:.1%}" if found.scales else "|"


def _last(found: Measurement) -> str:
    if not found.scales:
        return ""
    scale = found.scales[-1]
    side = " in" if scale.layer_input else f" +{scale.functions}" if scale.functions else ""
    return f"`{scale.name}`{side} {'x'.join(map(str, scale.size))}, {scale.stride}"
