"""Cost of the map inside onnxruntime and OpenVINO, beside that of reading each scale once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from comparisons.deployment.exported import (
    CALIBRATION,
    COMPARED,
    NETWORKS,
    SIZE,
    converted,
    initial,
    patches,
    rank_correlations,
    session,
    written,
)
from evaluation.hardware import machine_facts
from evaluation.profiling.timing import added_time
from fastsal.export.onnx import map_nodes
from fastsal.export.onnx_nodes import PREFIX
from fastsal.export.openvino import make_map_first
from fastsal.optional import needed

PRECISIONS = ("float32", "int8")
PACKAGES = ("fastsal", "torch", "onnx", "onnxscript", "onnxruntime", "openvino")
ROUNDS, THREADS = 41, (1, 2)
DEPLOYED: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "resnet50, initial weights": NETWORKS["resnet50, initial weights"],
    "mobilenet_v3_large, initial weights": (
        partial(initial, "mobilenet_v3_large", SIZE),
        partial(patches, CALIBRATION + COMPARED, SIZE, 2),
    ),
    "efficientnet_lite0, trained": NETWORKS["efficientnet_lite0, trained"],
}


@dataclass(frozen=True)
class Files:
    """The ONNX files of a network in one precision.

    Attributes:
        network: The network's name.
        precision: One of `PRECISIONS`.
        alone: The file of the network.
        floor: That of the network and the sum over the channels of each scale.
        mapped: That of the network and its map.
        images: The images whose maps are compared, `(N, 3, H, W)`.
    """

    network: str
    precision: str
    alone: Path
    floor: Path
    mapped: Path
    images: Tensor


def with_sums(alone: Path, mapped: Path) -> Path:
    """Write a network's file with the sum over the channels of each scale; return its path.

    Args:
        alone: The file of the network.
        mapped: That of the network and its map, which reads the same tensors.
    """
    onnx: Any = needed("onnx", "exported files", "'fastsal[onnx]'")
    proto, other = onnx.load(alone), onnx.load(mapped)
    made = {name for node in proto.graph.node for name in node.output}
    map_inputs = (
        name for node in other.graph.node if node.name.startswith(PREFIX) for name in node.input
    )
    scales = [name for name in dict.fromkeys(map_inputs) if name in made]
    axes = onnx.numpy_helper.from_array(np.array([1]), "axes")
    proto.graph.initializer.append(axes)
    for index, name in enumerate(scales, 1):
        output = f"sum_{index}"
        proto.graph.node.append(
            onnx.helper.make_node(
                "ReduceSum", [name, "axes"], [output], name=PREFIX + output, keepdims=0
            )
        )
        proto.graph.output.append(
            onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
        )
    path = alone.with_name(f"{alone.stem}-sums.onnx")
    onnx.save(proto, path)
    return path


def prepared(folder: Path) -> list[Files]:
    """Write the files of each network in each precision.

    Args:
        folder: Folder of the ONNX files.
    """
    found = []
    for index, (name, (build, draw)) in enumerate(DEPLOYED.items()):
        own = folder / str(index)
        own.mkdir()
        images = draw()
        alone, mapped = written(build(), images, "map", own)
        paths = (alone, with_sums(alone, mapped), mapped)
        for precision in PRECISIONS:
            of = [converted(path, precision, images[:CALIBRATION]) for path in paths]
            found.append(Files(name, precision, of[0], of[1], of[2], images[CALIBRATION:]))
    return found


class _OpenVino:
    """An ONNX file in OpenVINO, with the call of an onnxruntime session."""

    def __init__(self, path: Path, threads: int) -> None:
        openvino: Any = needed("openvino", "exported files", "'fastsal[openvino]'")
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            # Some processors would compute in bfloat16.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        model = openvino.convert_model(str(path))
        if any("map" in output.get_names() for output in model.outputs):
            # As in the files of `write_openvino`.
            make_map_first(model, own=1)
        self._compiled = openvino.Core().compile_model(model, "CPU", settings)
        self._request = self._compiled.create_infer_request()

    def run(self, names: list[str] | None, feed: dict[str, Any]) -> list[Any]:
        """Return the outputs of these names, or all of them."""
        found = self._request.infer(feed, share_inputs=True, share_outputs=True)
        return [found[name] for name in (names or self._compiled.outputs)]


ENGINES: dict[str, Callable[[Path, int], Any]] = {"onnxruntime": session, "openvino": _OpenVino}


def rows(folder: Path) -> Iterator[dict[str, object]]:
    """Yield a row for each network, engine, precision, number of threads, and kind of reading.

    Args:
        folder: Folder of the ONNX files.
    """
    yield from timed(prepared(folder))


def timed(found: list[Files]) -> Iterator[dict[str, object]]:
    """Yield the rows of the files that `prepared` wrote."""
    facts = machine_facts(PACKAGES)
    exact = {files.network: files.mapped for files in found if files.precision == "float32"}
    for files in found:
        feed = {"input": files.images[:1].numpy()}
        for engine, opened in ENGINES.items():
            reference = session(exact[files.network], 1)
            ranks = rank_correlations(reference, opened(files.mapped, 1), files.images)
            for threads in THREADS if files.precision == "float32" else THREADS[:1]:
                alone = opened(files.alone, threads)
                for what, path in (("sums", files.floor), ("map", files.mapped)):
                    read = opened(path, threads)
                    taken = added_time(
                        partial(alone.run, None, feed), partial(read.run, None, feed), ROUNDS
                    )
                    yield {
                        "network": files.network,
                        "engine": engine,
                        "precision": files.precision,
                        "threads": threads,
                        "batch": 1,
                        "device": "cpu",
                        "what": what,
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
                        "added_bytes": path.stat().st_size - files.alone.stat().st_size,
                        "added_nodes": len(map_nodes(path)),
                        "rank_correlation_least": round(min(ranks), 4) if what == "map" else "",
                        **facts,
                    }
