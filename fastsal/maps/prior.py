"""Layer weights: by name, as numbers, or from a file of weights measured on a network."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = "fastsal prior weights 1"

# Measured on ResNet-50, the shallowest scale first. Taken from the paper as given: no formula tried
# on its Table 4 (difference and information scores, by data set, statistic and logarithm, and
# their averages) gives all five. Nearest is ImageNet's SMOE Scale, by layer,
# rho log2(z / rho) + kappa log2(kappa / z): 0.192, 0.172, 0.344, 0.402, 0.695.
PRIOR_WEIGHTS = (0.18, 0.15, 0.37, 0.4, 0.72)


@dataclass(frozen=True)
class Prior:
    """Measured weights, one for each of a network's layers.

    Attributes:
        source: The file, for messages.
        layers: The names of the layers, the shallowest first.
        weights: The weights, in the same order.
    """

    source: str
    layers: tuple[str, ...]
    weights: tuple[float, ...]

    @classmethod
    def read(cls, path: str | Path) -> Prior:
        """Return the weights in a file.

        The file is JSON: "format", "layers" (names) and "weights", one for each layer.
        `python -m comparisons layers --weights-out` writes it, with their derivation.

        Raises:
            ValueError: If the file is missing, or has other content.

        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "prior.json"
        >>> content = {"format": FORMAT, "layers": ["relu", "layer1"], "weights": [0.2, 0.7]}
        >>> _ = file.write_text(json.dumps(content))
        >>> Prior.read(file).for_layers(["relu", "layer1"])
        (0.2, 0.7)
        """
        try:
            content = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read weights from {str(path)!r}: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(
                f'{str(path)!r} holds no weights: expected JSON with "format": "{FORMAT}", as '
                "`python -m comparisons layers --weights-out` writes it"
            )
        names: Any = content.get("layers")
        weights: Any = content.get("weights")
        if not _valid(names, weights):
            raise ValueError(
                f'{str(path)!r}: expected names in "layers" and as many numbers in "weights", '
                f"finite, not negative and not all 0, got {names} and {weights}"
            )
        return cls(str(path), tuple(names), tuple(float(weight) for weight in weights))

    def for_layers(self, names: Sequence[str]) -> tuple[float, ...]:
        """Return the weights for the layers of these names.

        Raises:
            ValueError: If the weights are those of other layers; the message has both lists.
        """
        if tuple(names) != self.layers:
            raise ValueError(
                f"{self.source!r} has weights for the {len(self.layers)} layers "
                f"{', '.join(self.layers)}, and the {len(names)} read are {', '.join(names)}; give "
                f"these layers, or {len(names)} numbers"
            )
        return self.weights


Weights = str | Path | Prior | Sequence[float]


def load_weights(weights: Weights) -> str | Prior | Sequence[float]:
    """Return weights unchanged, or the content of a file if they are a path ending in ".json".

    >>> load_weights("linear"), load_weights([1, 2])
    ('linear', [1, 2])
    """
    if isinstance(weights, (str, Path)):
        return Prior.read(weights) if Path(weights).suffix == ".json" else str(weights)
    return weights


def layer_weights(weights: Weights, layers: int, names: Sequence[str] = ()) -> tuple[float, ...]:
    """Return one weight for each layer, the shallowest first.

    Args:
        weights: "equal", "linear" (1, 2, 3, ...), "prior" (the last of ResNet-50's five), numbers,
            or a file of weights measured on this network: a path that ends in ".json".
        layers: The number of layers.
        names: The names of the layers, which the weights in a file must have.

    Raises:
        ValueError: If the name is unknown, "prior" has too few numbers, the numbers are of another
            count, negative, not finite or all 0, or a file has the weights of other layers.

    >>> layer_weights("linear", 3), layer_weights("prior", 2)
    ((1.0, 2.0, 3.0), (0.4, 0.72))
    """
    weights = load_weights(weights)
    if isinstance(weights, Prior):
        return weights.for_layers(names)
    if isinstance(weights, str):
        if weights == "equal":
            return (1.0,) * layers
        if weights == "linear":
            return tuple(float(k) for k in range(1, layers + 1))
        if weights != "prior":
            raise ValueError(
                f"unknown weights {weights!r}; choose 'linear', 'equal' or 'prior', or give "
                f"{layers} numbers, or a .json file of them"
            )
        if layers > len(PRIOR_WEIGHTS):
            raise ValueError(
                f"weights='prior' has {len(PRIOR_WEIGHTS)} numbers, measured on ResNet-50, and "
                f"there are {layers} layers; give {layers} numbers, or 'linear' or 'equal'"
            )
        return PRIOR_WEIGHTS[len(PRIOR_WEIGHTS) - layers :]
    numbers = tuple(float(weight) for weight in weights)
    if len(numbers) != layers:
        raise ValueError(f"expected {layers} weights, one for each layer, got {numbers}")
    if not all(math.isfinite(weight) and weight >= 0 for weight in numbers) or not sum(numbers):
        raise ValueError(f"weights must be finite, not negative and not all 0, got {numbers}")
    return numbers


def _valid(names: object, weights: object) -> bool:
    """Return True if a file's lists are names and as many weights."""
    if not (isinstance(names, list) and isinstance(weights, list) and len(names) == len(weights)):
        return False
    if not all(isinstance(name, str) for name in names):
        return False
    if not all(isinstance(weight, (int, float)) for weight in weights):
        return False
    return all(math.isfinite(weight) and weight >= 0 for weight in weights) and sum(weights) > 0
