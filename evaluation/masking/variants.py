"""Variants of ROAR and KAR, for details on which the literature disagrees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evaluation.masking.levels import FILLS

__all__ = ["BLURRED", "OWN_TARGET", "UNITS", "Variant", "crossfitted"]

# Units of removal: a pixel with all its channels, or each channel of a pixel by itself.
UNITS: tuple[str, ...] = ("pixel", "element")
# Maps explain the class that the explained network itself predicts.
OWN_TARGET = "self"
_CROSSFIT = "crossfit-"
# Suffix of a method's name for its blurred maps.
BLURRED = "+blur"


def crossfitted(folds: int) -> str:
    """The `target_from` of targets that are cross-fitted in a number of folds.

    >>> crossfitted(5)
    'crossfit-5'
    """
    return f"{_CROSSFIT}{folds}"


@dataclass(frozen=True)
class Variant:
    """A variant of ROAR and KAR; all else is equal in all variants of a run.

    Args:
        fill: fill of removed pixels, one of `evaluation.masking.levels.FILLS`.
        mask_unit: the unit that is ranked and removed, one of `UNITS`.
        target_from: ``"self"`` if maps explain the class that their own network predicts;
            ``"crossfit-K"`` if the class of a training image is predicted by a network that was
            trained on the other K - 1 of K folds.
        recursive: True if each fraction's maps come from the network retrained at the fraction
            before.

    Raises:
        ValueError: an unknown fill or unit, or targets of fewer than 2 folds.

    >>> Variant(fill="noisy-linear").title
    'fill noisy-linear'
    >>> Variant(target_from=crossfitted(5)).folds
    5
    """

    fill: str = "mean"
    mask_unit: str = "pixel"
    target_from: str = OWN_TARGET
    recursive: bool = False

    def __post_init__(self) -> None:
        """Refuse unknown words."""
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
        """Number of folds of cross-fitted targets; 0 for the network's own targets."""
        words = self.target_from.removeprefix(_CROSSFIT)
        return int(words) if self.target_from.startswith(_CROSSFIT) and words.isdigit() else 0

    @property
    def title(self) -> str:
        """The differences from the protocol, in words; empty for the protocol itself."""
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
        """The entries of a specification that differ from the protocol, without the fill.

        So cells of the protocol keep the ids from before there were variants.
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
    def of_spec(cls, spec: Mapping[str, Any]) -> Variant:
        """The variant of a cell's specification.

        >>> Variant.of_spec({"fill": "mean", "unit": "element"})
        Variant(fill='mean', mask_unit='element', target_from='self', recursive=False)
        """
        return cls(
            spec.get("fill", "mean"),
            spec.get("unit", "pixel"),
            spec.get("target_from", OWN_TARGET),
            spec.get("recursive", False),
        )
