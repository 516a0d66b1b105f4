"""How a comparison reads ROAR and KAR where the literature disagrees: one track a reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evaluation.masking.levels import FILLS

__all__ = ["BLURRED", "OWN_TARGET", "UNITS", "Track", "crossfitted"]

# What is removed: a pixel with all its channels, or each channel of a pixel by itself.
UNITS: tuple[str, ...] = ("pixel", "element")
# The class that a map explains is what the explained network predicts.
OWN_TARGET = "self"
_CROSSFIT = "crossfit-"
# After a method's name: its maps, blurred.
BLURRED = "+blur"


def crossfitted(folds: int) -> str:
    """Where targets come from that are crossfitted over so many folds.

    >>> crossfitted(5)
    'crossfit-5'
    """
    return f"{_CROSSFIT}{folds}"


@dataclass(frozen=True)
class Track:
    """One reading of ROAR and KAR; everything else is the same in all tracks of a run.

    Args:
        fill: what removed pixels are set to, one of `evaluation.masking.levels.FILLS`.
        mask_unit: what is ranked and removed, one of `UNITS`.
        target_from: ``"self"`` where maps explain what their own network predicts;
            ``"crossfit-K"`` where the class of a training image is predicted by a network that
            was trained on the other K - 1 of K folds.
        recursive: each fraction's maps come from the network retrained at the fraction before.

    >>> Track(fill="noisy-linear").title
    'fill noisy-linear'
    >>> Track(target_from=crossfitted(5)).folds
    5
    """

    fill: str = "mean"
    mask_unit: str = "pixel"
    target_from: str = OWN_TARGET
    recursive: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no reading."""
        if self.fill not in FILLS:
            raise ValueError(f"unknown fill {self.fill!r}: expected one of {', '.join(FILLS)}")
        if self.mask_unit not in UNITS:
            raise ValueError(f"unknown unit {self.mask_unit!r}: expected one of {', '.join(UNITS)}")
        if self.target_from != OWN_TARGET and self.folds < 2:
            raise ValueError(
                f"targets from {self.target_from!r}: expected {OWN_TARGET!r}, or crossfit-K with "
                "at least 2 folds"
            )

    @property
    def folds(self) -> int:
        """Folds of crossfitted targets; 0 where they are the network's own."""
        words = self.target_from.removeprefix(_CROSSFIT)
        return int(words) if self.target_from.startswith(_CROSSFIT) and words.isdigit() else 0

    @property
    def title(self) -> str:
        """What is unusual about the track, in words; empty for the protocol's own."""
        said = []
        if self.fill != "mean":
            said.append(f"fill {self.fill}")
        if self.mask_unit != "pixel":
            said.append(f"unit {self.mask_unit}")
        if self.folds:
            said.append(f"targets crossfitted in {self.folds} folds")
        if self.recursive:
            said.append("recursive")
        return ", ".join(said)

    @property
    def in_spec(self) -> dict[str, Any]:
        """What a cell's specification says of the track beside its fill: the unusual alone.

        The id of a cell that has nothing unusual is what it was before there were tracks.
        """
        said: dict[str, Any] = {}
        if self.mask_unit != "pixel":
            said["unit"] = self.mask_unit
        if self.target_from != OWN_TARGET:
            said["target_from"] = self.target_from
        if self.recursive:
            said["recursive"] = True
        return said

    @classmethod
    def of_spec(cls, spec: Mapping[str, Any]) -> Track:
        """The track that a cell's specification says.

        >>> Track.of_spec({"fill": "mean", "unit": "element"})
        Track(fill='mean', mask_unit='element', target_from='self', recursive=False)
        """
        return cls(
            spec.get("fill", "mean"),
            spec.get("unit", "pixel"),
            spec.get("target_from", OWN_TARGET),
            spec.get("recursive", False),
        )
