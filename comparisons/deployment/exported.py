"""Cost of the map in an ONNX file: its size and onnxruntime's time, in three precisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from evaluation.hardware import machine_facts
from evaluation.networks.build import build_network
from evaluation.profiling.random_weights import enliven
from evaluation.profiling.timing import added_time
from fastsal.export.float16 import write_float16
from fastsal.export.model import ModelWithMap, with_fast_cam, with_map
from fastsal.export.onnx import map_nodes, write_onnx
from fastsal.images.files import read_photograph
from fastsal.optional import needed

PRECISIONS = ("float32", "float16", "int8")
MAKERS: dict[str, Callable[..., ModelWithMap]] = {"map": with_map, "fastcam": with_fast_cam}
PACKAGES = ("fastsal", "torch", "onnx", "onnxscript", "onnxruntime")
SIZE, ROUNDS, THREADS = 224, 21, (1, 2)
# Numbers of images: for calibrating the quantisation, and others for comparing ranks.
CALIBRATION, COMPARED = 8, 8

Array = np.ndarray[Any, np.dtype[np.float32]]


def patches(count: int, size: int, seed: int) -> Tensor:
    """Return images `(N, 3, H, W)` in [0, 1]: 7x7 patches of random colour with some noise.

    >>> patches(2, 32, 0).shape
    torch.Size([2, 3, 32, 32])
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.rand(count, 3, 7, 7, generator=generator), size=(size, size))
    return 0.9 * coarse + 0.1 * torch.rand(count, 3, size, size, generator=generator)


def initial(name: str, size: int) -> nn.Module:
    """Return a network with seeded initial weights.

    BatchNorm takes its statistics from a batch of patches, so that activations do not vanish.
    """
    network = build_network(name, 1000, 0, size=(size, size))
    enliven(network, patches(4, size, 0))
    return network


def crops() -> Tensor:
    """Return crops of four photographs, `(16, 3, 224, 224)`, normalised for EfficientNet-Lite0.

    The first eight are from the upper left corner, the others from the lower right one.
    """
    from reports.pictures.photographs import photographs

    found: list[list[Tensor]] = [[], []]
    for path in photographs():
        image = 2 * read_photograph(path, SIZE * 5 // 4).image - 1
        for corner, place in enumerate((slice(None, SIZE), slice(-SIZE, None))):
            cut = image[:, :, place, place]
            found[corner] += [cut, cut.flip(3)]
    return torch.cat([*found[0], *found[1]])


def trained() -> nn.Module:
    """Return EfficientNet-Lite0 with published weights."""
    from reports.pictures.photographs import efficientnet_lite0

    return efficientnet_lite0()


# Each with its images: those for calibration, then those that ranks are compared on.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "resnet50, initial weights": (
        partial(initial, "resnet50", SIZE),
        partial(patches, CALIBRATION + COMPARED, SIZE, 2),
    ),
    "efficientnet_lite0, trained": (trained, crops),
}


def written(network: nn.Module, images: Tensor, what: str, folder: Path) -> tuple[Path, Path]:
    """Write a network as ONNX, alone and with its map; return both files in this order.

    The first is cut from the second, so that the network's own nodes are the same.
    """
    mapped, alone = folder / f"{what}.onnx", folder / f"{what}-alone.onnx"
    onnx: Any = needed("onnx", "exported files", "'fastsal[onnx]'")
    example = images[:1]
    write_onnx(MAKERS[what](network, example), example, mapped)
    onnx.utils.extract_model(str(mapped), str(alone), ["input"], ["output"])
    return alone, mapped


def converted(path: Path, precision: str, images: Tensor) -> Path:
    """Return an ONNX file converted to a precision, in which the map's nodes stay float32.

    Args:
        path: A float32 file.
        precision: One of `PRECISIONS`.
        images: For the calibration of static quantisation.
    """
    if precision == "float32":
        return path
    target = path.with_name(f"{path.stem}-{precision}.onnx")
    if precision == "float16":
        return write_float16(path, target)
    quantization: Any = needed("onnxruntime.quantization", "exported files", "'fastsal[onnx]'")

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(images)

        def get_next(self) -> dict[str, Array] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"input": batch[None].numpy()}

    quantization.quantize_static(str(path), str(target), Images(), nodes_to_exclude=map_nodes(path))
    return target


def session(path: Path, threads: int) -> Any:
    """Return an onnxruntime session whose threads sleep while they wait."""
    onnxruntime: Any = needed("onnxruntime", "exported files", "'fastsal[onnx]'")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Two sessions are timed in turns: the threads of one must not spin on the other's core.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def rank_correlations(exact: Any, rounded: Any, images: Tensor) -> list[float]:
    """Return Spearman's rank correlation between the maps of two sessions, for each image."""
    found = []
    for image in images:
        feed = {"input": image[None].numpy()}
        maps = [one.run(["map"], feed)[0].ravel() for one in (exact, rounded)]
        found.append(float(spearmanr(*maps).statistic))
    return found


def rows(folder: Path) -> Iterator[dict[str, object]]:
    """Yield a row for each network, kind of map, precision and number of threads.

    Args:
        folder: Folder of the ONNX files.
    """
    facts = machine_facts(PACKAGES)
    for name, (build, draw) in NETWORKS.items():
        network, images = build(), draw()
        calibration, others = images[:CALIBRATION], images[CALIBRATION:]
        feed = {"input": others[:1].numpy()}
        for what in MAKERS:
            alone, mapped = written(network, images, what, folder)
            # Fast-CAM adds only the weighted sum of the last scale, which stays float32.
            for precision in PRECISIONS if what == "map" else PRECISIONS[:1]:
                files = [converted(path, precision, calibration) for path in (alone, mapped)]
                ranks = rank_correlations(session(mapped, 2), session(files[1], 2), others)
                for threads in THREADS if precision == "float32" else THREADS[:1]:
                    one, two = (session(path, threads) for path in files)
                    taken = added_time(
                        partial(one.run, None, feed), partial(two.run, None, feed), ROUNDS
                    )
                    yield {
                        "network": name,
                        "map": what,
                        "precision": precision,
                        "threads": threads,
                        "rounds": ROUNDS,
                        "network_ms": round(taken.first_ms, 2),
                        "network_processor_ms": round(taken.first_processor_ms, 2),
                        **{
                            f"{kind}_{end}_percent": round(getattr(interval, end), 2)
                            for kind, interval in (
                                ("clock", taken.clock),
                                ("processor", taken.processor),
                            )
                            for end in ("median", "low", "high")
                        },
                        "added_bytes": files[1].stat().st_size - files[0].stat().st_size,
                        "network_bytes": files[0].stat().st_size,
                        "rank_correlation_median": round(float(np.median(ranks)), 4),
                        "rank_correlation_least": round(min(ranks), 4),
                        **facts,
                    }
