"""The files of a run that its pages are made of, and a run's own folder as one home of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from evaluation.storage.checked_arrays import mapped, open_checked
from evaluation.storage.records import CellResult
from evaluation.storage.sealed import read_sealed
from evaluation.storage.store import Store

__all__ = ["RunFiles", "RunFolder"]


class RunFiles(Protocol):
    """The files of a run that pages are made of, in its folder or in an archive."""

    @property
    def root(self) -> Path:
        """The folder of the run or of its archive."""

    def results(self) -> list[CellResult]:
        """Every finished cell, older ones first."""

    def gallery(self, cell: str) -> Mapping[str, NDArray[Any]] | None:
        """The maps of a few test images by a maps cell; None where there are none."""

    def image_facts(self, data: str) -> dict[str, Any]:
        """``meta.json`` of the images of a data cell; empty where it is not there."""

    def of_test_images(self, data: str, name: str, index: Sequence[int]) -> NDArray[Any] | None:
        """Some entries of ``test_images``, ``test_labels`` or ``test_object_masks``; None: absent.

        Args:
            data: id of the data cell.
            name: of the array.
            index: which test images.
        """


class RunFolder:
    """A run's own folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(root)

    def results(self) -> list[CellResult]:
        """Every finished cell, older ones first by the times of their files."""

        def age(result: CellResult) -> int:
            return self.store.cell(result.id).stat().st_mtime_ns

        return sorted(self.store.results(), key=age)

    def gallery(self, cell: str) -> Mapping[str, NDArray[Any]] | None:
        """The arrays in ``gallery/<id>.npz``."""
        path = self.store.gallery(cell)
        return self.store.load_arrays(path) if path.exists() else None

    def image_facts(self, data: str) -> dict[str, Any]:
        """The content of ``data/<id>/meta.json``."""
        path = self.store.data(data) / "meta.json"
        return read_sealed(path) if path.exists() else {}

    def of_test_images(self, data: str, name: str, index: Sequence[int]) -> NDArray[Any] | None:
        """Some entries of an array in ``data/<id>/``."""
        path = self.store.data(data) / f"{name}.npy"
        if not path.exists():
            return None
        facts = self.image_facts(data)
        hashed = facts.get("hashed", False)
        array = open_checked(path, f"{facts['of']} {name}") if hashed else mapped(path)
        chosen: NDArray[Any] = array[list(index)]
        return chosen
