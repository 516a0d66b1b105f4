"""A cell, the registry of kinds of cells, and the record of one measured number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from evaluation.masking.variants import Variant
from evaluation.storage.hashes import cell_id
from evaluation.storage.records import METRICS, Record
from evaluation.storage.store import Store
from fastsal import __version__
from fastsal.registry import Registry

__all__ = ["CELL_KINDS", "CODE_VERSION", "Cell", "Outcome", "cell_kind", "record"]

# Part of every cell's id. Raised when a change alters what a cell computes, so that
# results from before are not taken for results from after.
CODE_VERSION = 1

# The fields of a `CellResult` that the work of a cell decides: records, hashes and the like; and
# ``earlier_seconds``, those of an earlier start that the cell went on from.
Outcome = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One recorded unit of a run: a training, the maps of a method, a measurement.

    Args:
        kind: ``data``, ``base``, ``pretrained``, ``maps``, ``part`` (of maps), ``retrain``,
            ``mask_only``, ``fold``, ``same``, ``permuted``, ``fine_tuned``, ``measure`` or
            ``profile``; inside a network ``given``, ``activations``, ``locations`` or ``tune``; of
            costs alone ``cost``, ``counts``, ``reading`` or ``steps``.
        spec: everything the result depends on, the hashes of what it reads included.

    >>> Cell("data", {"source": "shapes"}).id == Cell("data", {"source": "cifar10"}).id
    False
    """

    kind: str
    spec: Mapping[str, Any]

    @cached_property
    def id(self) -> str:
        """Hash of the full specification and the version of the code."""
        return cell_id(self.kind, self.spec, CODE_VERSION)

    @property
    def title(self) -> str:
        """The cell in words, as the names of a plan's nodes have them.

        >>> spec = {"method": "centre", "mode": "roar", "fraction": 0.5, "seed": 0}
        >>> Cell("mask_only", spec).title, Cell("base", {"seed": 1}).title
        ('centre, mask only, roar 50 %, seed 0', 'unmasked, seed 1')
        >>> Cell("part", {"method": "ig", "shards": [16, 32]}).title
        'maps of ig, shards 16 to 31'
        """
        spec, method = self.spec, self.spec.get("method", self.kind)
        first = {
            "base": "unmasked",
            "permuted": "labels permuted",
            "fold": f"unmasked without fold {spec.get('fold', 0) + 1} of {spec.get('folds')}",
            "fine_tuned": "fine-tuned",
            "maps": f"maps of {method}",
            "part": f"maps of {method}",
            "measure": f"{spec.get('measure')} of {method}",
            "mask_only": f"{method}, mask only",
        }
        said = [first.get(self.kind, method)]
        if spec.get("layer") is not None:
            said.append(spec["layer"])
        if spec.get("fraction") is not None:
            said.append(f"{spec['mode']} {100 * spec['fraction']:g} %")
        if "shards" in spec:
            start, stop = spec["shards"]
            said.append(f"shards {start} to {stop - 1}")
        if "seed" in spec:
            said.append(f"seed {spec['seed']}")
        return ", ".join(said)

    @property
    def ranks(self) -> int:
        """Number of processes that train the cell's network together.

        >>> Cell("base", {"recipe": {"ranks": 4}}).ranks, Cell("data", {}).ranks
        (4, 1)
        """
        return int(self.spec.get("recipe", {}).get("ranks", 1))


Work = Callable[[Cell, Store, str], Outcome]
CELL_KINDS: Registry[Work] = Registry("kind of cell")


def cell_kind(*names: str) -> Callable[[Work], Work]:
    """Register the decorated function as the work of a kind of cell.

    The function takes the cell, the store and the device, and returns the cell's outcome.

    Args:
        names: of one kind, or of several that share the function.
    """

    def register(work: Work) -> Work:
        for name in names:
            CELL_KINDS.register(name, work)
        return work

    return register


def record(cell: Cell, dataset: str, metric: str, value: float) -> Record:
    """Return one number of a cell, with everything that its specification says of it.

    Args:
        cell: the cell that measured it.
        dataset: name of the images.
        metric: a key of `evaluation.storage.records.METRICS`.
        value: in the metric's unit.
    """
    spec = cell.spec
    return Record(
        method=spec.get("method", "none"),
        parameters=spec.get("parameters", {}),
        dataset=dataset,
        model=spec["model"],
        mode=spec.get("mode", "unmasked"),
        fraction=spec.get("fraction"),
        layer=spec.get("layer"),
        metric=metric,
        value=value,
        unit=METRICS[metric].unit,
        seed=spec.get("seed"),
        version=__version__,
        cell=cell.id,
        **asdict(Variant.of_spec(spec)),
    )
