"""The settings of SMOE Scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastsal.arguments.batches import checked_max_batch
from fastsal.attribution.tiles import Tiling, checked_tile
from fastsal.kernels.constants import EPSILON
from fastsal.maps.normalization import (
    NORMALIZATIONS,
    Normalization,
    NormalizeOver,
    get_normalization,
)
from fastsal.maps.prior import Prior, Weights, layer_weights, load_weights
from fastsal.statistics.registry import Statistic, StatisticFunction, get_statistic, with_epsilon


@dataclass(frozen=True)
class Settings:
    """The checked settings of an attributor.

    Attributes:
        statistic: Reduces a layer's activations to one value a location.
        normalization: Brings the values of a map into one range.
        normalize_over: "image" normalises each map by itself, "batch" the maps of a scale together.
        weights: "linear", "equal", "prior", numbers, or weights measured on one network.
        tiling: The tiles of a large image; None reads every image whole.
        max_batch: How many images go through the network at once; None for all.

    >>> from dataclasses import replace
    >>> settings = Settings.checked(weights=[3, 1])
    >>> replace(settings, weights="equal").layer_weights(["layer1", "layer2"])
    (1.0, 1.0)
    """

    statistic: Statistic
    normalization: Normalization
    normalize_over: NormalizeOver
    weights: str | Prior | tuple[float, ...]
    tiling: Tiling | None
    max_batch: int | None

    @classmethod
    def checked(
        cls,
        *,
        weights: Weights = "linear",
        statistic: str | Statistic | StatisticFunction = "smoe_scale",
        normalize: str = "gaussian",
        normalize_over: NormalizeOver = "image",
        max_batch: int | None = None,
        tile: Sequence[int] | None = None,
        overlap: int | Sequence[int] | None = None,
        blend: str | None = None,
        epsilon: float = EPSILON,
    ) -> Settings:
        """Return the settings for the arguments of `SMOEScale`.

        A file of weights is read here, so that a later change of the file changes no attributor.

        Args:
            weights: As for `SMOEScale`, as all that follow.
            statistic: A name, a `Statistic` or a function.
            normalize: The name of a registered normalisation.
            normalize_over: "image" or "batch".
            max_batch: 1 or more, or None.
            tile: As for `SMOEScale`, as both that follow.
            overlap: In pixels, or None.
            blend: "none", "linear", "gaussian", or None.
            epsilon: Above 0.

        Raises:
            ValueError: If a name is unknown or a number is out of its range.
        """
        given = load_weights(weights)
        if normalize_over not in ("image", "batch"):
            raise ValueError(f"normalize_over is 'image' or 'batch', got {normalize_over!r}")
        return cls(
            statistic=with_epsilon(get_statistic(statistic), epsilon),
            normalization=get_normalization(normalize),
            normalize_over=normalize_over,
            weights=given if isinstance(given, (str, Prior)) else tuple(given),
            tiling=checked_tile(tile, overlap, blend),
            max_batch=checked_max_batch(max_batch),
        )

    def described(self) -> list[str]:
        """Return statistic and weights, and every other setting that is not its default.

        >>> Settings.checked(normalize="minmax", max_batch=8).described()
        ["statistic='smoe_scale'", "weights='linear'", "normalize='minmax'", 'max_batch=8']
        """
        weights = "measured" if isinstance(self.weights, Prior) else repr(self.weights)
        said = [f"statistic={self.statistic.name!r}", f"weights={weights}"]
        names = [name for name, known in NORMALIZATIONS.items() if known is self.normalization]
        if names != ["gaussian"]:
            said.append(f"normalize={names[0]!r}")
        if self.normalize_over != "image":
            said.append(f"normalize_over={self.normalize_over!r}")
        if self.max_batch is not None:
            said.append(f"max_batch={self.max_batch}")
        if self.tiling is not None:
            said.append(f"tile={self.tiling.sides}")
        return said

    def check_weights(self, names: Sequence[str] | None) -> None:
        """Raise if the weights do not fit the layers.

        Args:
            names: The layers' names; None if the layers are not known yet, so that the count of
                the weights cannot be wrong.

        Raises:
            ValueError: As `layer_weights` raises it.
        """
        if names is not None:
            self.layer_weights(names)
        elif not isinstance(self.weights, Prior):
            layer_weights(self.weights, 1 if isinstance(self.weights, str) else len(self.weights))

    def layer_weights(self, names: Sequence[str]) -> tuple[float, ...]:
        """Return one weight for each of the layers of these names.

        Raises:
            ValueError: If the weights are for other layers, or for another number of them.
        """
        return layer_weights(self.weights, len(names), names)
