"""A run directory with a planted truth, written through the real store."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.masking.levels import saliency_levels
from evaluation.storage.records import CellResult, Record, pack_bits
from evaluation.storage.store import Store

CLASSES = ("disk", "ring", "square", "cross <x> & y")
# Method: group, ROAR accuracy lost from 0 to 100 %, accuracy from the mask alone.
METHODS: dict[str, tuple[str, float, float]] = {
    "random": ("control", 0.20, 0.25),
    "centre": ("control", 0.45, 0.25),
    "smoe-linear": ("smoe", 0.42, 0.33),
    "gradient": ("gradient", 0.22, 0.30),
}
TITLES = {
    "random": "Random",
    "centre": "Centre disk",
    "smoe-linear": "SMOE Scale, linear weights",
    "gradient": "Gradient",
}
UNMASKED = 0.75
SEED_STEP = 0.01


def planted(method: str, mode: str, fraction: float, seed: int) -> float:
    """The accuracy that the run directory holds."""
    if method == "random" and mode == "kar":
        return planted(method, "roar", round(1 - fraction, 10), seed)
    lost = METHODS.get(method, ("", 0.3, 0.0))[1]
    value = (
        UNMASKED - lost * fraction
        if mode == "roar"
        else UNMASKED - 0.3 * (1 - fraction) * (1 - lost)
    )
    return round(value + SEED_STEP * seed, 6)


def make_run(
    root: Path,
    *,
    methods: Mapping[str, tuple[str, float, float]] = METHODS,
    fractions: tuple[float, ...] = (0.1, 0.5, 0.9),
    seeds: tuple[int, ...] = (0, 1),
    size: int = 8,
    images: int = 3,
    test_images: int = 20,
    train: Callable[[str, str, float, int], bool] | None = None,
    accuracy: Callable[[str, str, float, int], float] = planted,
) -> Path:
    """Write a run; `train` says which masked trainings have finished, None: all."""
    store = Store(root)
    rng = np.random.default_rng(0)
    common: dict[str, Any] = {"dataset": "shapes", "model": "resnet9", "layer": None}
    common |= {"version": "0.1.0", "unit": "1"}
    environment = {"torch": "2.4.0", "processor": "a <fast> processor", "threads": 1}

    def save(id: str, kind: str, records: list[Record], **fields: Any) -> None:
        store.save_result(
            CellResult(id, kind, {}, tuple(records), seconds=2.0, environment=environment, **fields)
        )

    def record(method: str, cell: str, metric: str, value: float, **fields: Any) -> Record:
        place: dict[str, Any] = {"mode": "unmasked", "fraction": None, "seed": None, **common}
        parameters = {"weights": "linear"} if method.startswith("smoe") else {}
        return Record(
            **(
                place
                | {"method": method, "parameters": parameters, "metric": metric}
                | {"value": value, "cell": cell, **fields}
            )
        )

    about = {
        name: {
            "title": TITLES.get(name, name),
            "citation": f"Author of {name} 2020, https://example.org/{name}",
            "parameters": {"weights": "linear"} if group == "smoe" else {},
            "group": group,
        }
        for name, (group, _, _) in methods.items()
    }
    plan = {
        "plan": {
            "data": "shapes",
            "model": "resnet9",
            "methods": list(methods),
            "modes": ["roar", "kar"],
            "fractions": list(fractions),
            "seeds": list(seeds),
            "recipe": {"epochs": 6, "flip": True},
        },
        "command": "python -m comparisons run --data shapes",
        "methods": about,
    }
    (root / "plan.json").write_text(json.dumps(plan))

    staged = store.data("d0")
    staged.mkdir(parents=True)
    meta = {
        "name": "shapes",
        "classes": list(CLASSES),
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.2],
        "size": [size, size],
        "train": 400,
        "test": 20,
        "skipped": [{"path": "train/disk/<b>.png", "why": "truncated"}],
        "has_object_masks": True,
    }
    (staged / "meta.json").write_text(json.dumps(meta))
    pictures = rng.integers(0, 255, (20, size, size, 3), dtype=np.uint8)
    objects = np.zeros((20, size, size), np.bool_)
    objects[:, size // 4 : size // 2, size // 4 : size // 2] = True
    np.save(staged / "test_images.npy", np.where(objects[..., None], pictures, pictures // 3))
    np.save(staged / "test_labels.npy", np.arange(20) % len(CLASSES))
    np.save(staged / "test_object_masks.npy", objects)
    save("d0", "data", [])

    for seed in seeds:
        cell = f"base{seed}"
        value = UNMASKED + SEED_STEP * seed
        shared = {"init": f"init{seed}", "order": f"order{seed}"}
        found = [record("none", cell, "accuracy", value, seed=seed)]
        save(cell, "base", found, hashes=shared)

    index = np.arange(images) * 2
    for name, (group, _, from_mask) in methods.items():
        cell = f"maps-{name}"
        measured = [
            record(name, cell, "attribution_ms", 0.5 * (1 + len(name)), unit="ms"),
            record(name, cell, "stored_bytes", 2048.0, unit="B"),
        ]
        if name != "centre":
            measured.append(record(name, cell, "pointing_game", 0.625))
        save(cell, "maps", measured)
        draws = np.random.default_rng(zlib.crc32(name.encode()))
        saliency = draws.gamma(0.5, size=(images, size, size)).astype(np.float32)
        saliency += objects[index] * (0.0 if name == "random" else 2.0)
        arrays = {
            "index": index,
            "saliency": saliency,
            "levels": saliency_levels(saliency, fractions, index),
            "cuts": np.asarray(fractions),
        }
        if group == "smoe":
            scales = np.random.default_rng(7).random((images, 4, size, size), dtype=np.float32)
            arrays["scales"] = scales * (0.3 + 0.7 * objects[index][:, None])
        store.save_arrays(store.gallery(cell), arrays)
        if name not in ("centre", "gradient"):
            cell = f"mask-{name}"
            value = record(
                name, cell, "mask_only_accuracy", from_mask, mode="roar", fraction=0.5, seed=0
            )
            save(cell, "mask_only", [value], hashes={"init": "init0", "order": "order0"})
        for seed in seeds:
            for mode in ("roar", "kar"):
                for fraction in fractions:
                    dual = name == "random"
                    finished = train is None or train(name, mode, fraction, seed)
                    if not finished or (dual and mode == "kar"):
                        continue
                    cell = f"{name}-{mode}-{fraction:g}-{seed}"
                    value = accuracy(name, mode, fraction, seed)
                    place = {"mode": mode, "fraction": fraction, "seed": seed}
                    found = [record(name, cell, "accuracy", value, **place)]
                    if dual:
                        place |= {"mode": "kar", "fraction": round(1 - fraction, 10)}
                        place |= {"derived_from": f"roar at {100 * fraction:g} %"}
                        found.append(record(name, cell, "accuracy", value, **place))
                    save(
                        cell,
                        "retrain",
                        found,
                        correct=pack_bits(rng.random(test_images) < value),
                        images=test_images,
                        hashes={"init": f"init{seed}", "order": f"order{seed}", "model": cell},
                        history=({"epoch": 0, "loss": 1.0, "accuracy": 0.5, "seconds": 2.0},),
                    )
    return root


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def partial_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stopped before SMOE's KAR and before the gradient's last KAR training."""

    def train(method: str, mode: str, fraction: float, seed: int) -> bool:
        if mode == "kar" and method == "smoe-linear":
            return False
        return (method, mode, fraction, seed) != ("gradient", "kar", 0.5, 1)

    return make_run(tmp_path_factory.mktemp("partial"), train=train)


@pytest.fixture(scope="session")
def uneven_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every KAR accuracy is 0.03 lower at seed 1 than at seed 0, every ROAR accuracy the same."""

    def accuracy(method: str, mode: str, fraction: float, seed: int) -> float:
        return planted(method, mode, fraction, 0) - (0.03 * seed if mode == "kar" else 0.0)

    return make_run(tmp_path_factory.mktemp("uneven"), accuracy=accuracy)


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """`make_run`, for fixtures that need a run of another kind."""
    return make_run


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run of its own, for tests that change it."""

    def make(**options: Any) -> Path:
        return make_run(tmp_path / "run", **options)

    return make
