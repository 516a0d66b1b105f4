"""What the map adds to an ONNX file's size and to onnxruntime's time, in three precisions."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from comparisons.deployment.exported import (
    MAKERS,
    PRECISIONS,
    converted,
    initial,
    patches,
    rank_correlations,
    session,
    written,
)
from evaluation.profiling.timing import added_time

THREADS = 2
# By which a file may grow.
MOST_BYTES = 50_000
# Spearman's, of the map to that of the float32 file.
LEAST_CORRELATION = {"float32": 1.0, "float16": 0.999, "int8": 0.95}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def files(folder):
    """A function to the files of a network alone and with its map; each is made once."""
    made = {}

    def of(name: str, size: int, what: str) -> tuple[Path, Path]:
        if (name, what) not in made:
            place = folder / f"{name}-{what}"
            place.mkdir()
            made[name, what] = written(initial(name, size), patches(1, size, 1), what, place)
        return made[name, what]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("what", MAKERS)
def test_what_the_map_adds(benchmark, timed, files, what, precision):
    name, size = ("resnet50", 224) if timed else ("resnet9", 32)
    alone, mapped = files(name, size, what)
    seen, others = patches(8, size, 2), patches(2, size, 20)
    paths = [converted(path, precision, seen) for path in (alone, mapped)]
    runs = [session(path, THREADS) for path in paths]
    feed = {"input": others[:1].numpy()}
    # The network's own output is what it was.
    own, *_ = runs[0].run(None, feed)
    np.testing.assert_array_equal(runs[1].run(None, feed)[0], own)
    ranks = rank_correlations(session(mapped, THREADS), runs[1], others)
    assert min(ranks) >= LEAST_CORRELATION[precision] - 1e-9
    added_bytes = paths[1].stat().st_size - paths[0].stat().st_size
    assert 0 < added_bytes <= MOST_BYTES

    one, two = (partial(run.run, None, feed) for run in runs)
    taken = added_time(one, two, 40 if timed else 3)
    benchmark.group = f"onnxruntime, {name}, {size} x {size}, {THREADS} threads, {precision}"
    benchmark.extra_info.update(
        network_ms=taken.first_ms,
        added_percent=taken.clock.median,
        added_processor_percent=taken.processor.median,
        added_bytes=added_bytes,
        rank_correlation=min(ranks),
    )
    benchmark.pedantic(two, rounds=5 if timed else 1)
