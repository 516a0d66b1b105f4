"""What the map adds to an ONNX file's size and to onnxruntime's time, in three precisions."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evaluation.networks import build_network
from fastsal.export import with_fast_cam, with_map
from fastsal.onnx_file import map_nodes, write_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

THREADS = 2
MAKERS = {"map": with_map, "fastcam": with_fast_cam}


def images(count: int, size: int, seed: int) -> torch.Tensor:
    """Random patches with some noise."""
    generator = torch.Generator().manual_seed(seed)
    patches = F.interpolate(torch.rand(count, 3, 7, 7, generator=generator), size=(size, size))
    return 0.9 * patches + 0.1 * torch.rand(count, 3, size, size, generator=generator)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("onnx")


def written(folder: Path, name: str, size: int, what: str) -> tuple[Path, Path]:
    """The files of a network with its map, and of the same network alone."""
    mapped, alone = folder / f"{name}-{size}-{what}.onnx", folder / f"{name}-{size}-alone.onnx"
    if not mapped.exists():
        network = build_network(name, 1000, 0, size=(size, size))
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = 1.0
        # BatchNorm of a real batch keeps the activations of random weights from vanishing.
        with torch.no_grad():
            network.train()(images(4, size, 0))
        example = images(1, size, 1)
        write_onnx(MAKERS[what](network.eval(), example), example, mapped)
        onnx.utils.extract_model(str(mapped), str(alone), ["input"], ["output"])
    return mapped, alone


def in_precision(path: Path, precision: str, size: int) -> Path:
    """The file converted by onnxruntime's own tools, the map's nodes left in float32."""
    converted = path.with_name(f"{path.stem}-{precision}.onnx")
    if precision == "float32" or converted.exists():
        return path if precision == "float32" else converted
    if precision == "float16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = convert_float_to_float16(
            onnx.load(path), keep_io_types=True, node_block_list=map_nodes(path)
        )
        onnx.save(model, converted)
        return converted
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Images(CalibrationDataReader):
        batches = iter([{"input": images(1, size, seed).numpy()} for seed in range(2, 10)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    quantize_static(str(path), str(converted), Images(), nodes_to_exclude=map_nodes(path))
    return converted


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, over the locations of a map."""
    ranks = [values.ravel().argsort().argsort() for values in (one, other)]
    return float(np.corrcoef(ranks)[0, 1])


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("what", ["map", "fastcam"])
def test_what_the_map_adds(benchmark, timed, folder, what, precision):
    name, size = ("resnet50", 224) if timed else ("resnet9", 32)
    mapped, alone = written(folder, name, size, what)
    runs = [session(in_precision(path, precision, size)) for path in (alone, mapped)]
    feed = {"input": images(1, size, 20).numpy()}
    exact = session(mapped).run(None, feed)
    assert rank_correlation(exact[1], exact[1]) == 1.0
    found = runs[1].run(None, feed)
    np.testing.assert_array_equal(found[0], runs[0].run(None, feed)[0])

    # In pairs, since a machine's clock wanders by more than a map costs.
    rounds = 40 if timed else 1
    differences, times = [], []
    for index in range(rounds):
        spent = [0.0, 0.0]
        for which in (0, 1) if index % 2 else (1, 0):
            start = time.perf_counter()
            runs[which].run(None, feed)
            spent[which] = 1000 * (time.perf_counter() - start)
        differences.append(spent[1] - spent[0])
        times.append(spent[0])
    benchmark.group = f"onnxruntime, {name}, {size} x {size}, {THREADS} threads, {precision}"
    benchmark.extra_info.update(
        network_ms=statistics.median(times),
        added_ms=statistics.median(differences),
        added_percent=100 * statistics.median(differences) / statistics.median(times),
        added_bytes=mapped.stat().st_size - alone.stat().st_size,
        rank_correlation=rank_correlation(found[1], exact[1]),
    )
    if timed:
        print(what, precision, benchmark.extra_info)
    benchmark.pedantic(runs[1].run, args=(None, feed), rounds=5 if timed else 1)
