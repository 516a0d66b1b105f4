"""Random generators that depend on whole numbers alone.

At the top of the package, since rooms low and high draw from them.
"""

from __future__ import annotations

import numpy as np

__all__ = ["generator"]


def generator(*key: int) -> np.random.Generator:
    """Return a Philox generator: the same stream for the same numbers, on every machine.

    Args:
        key: the numbers, such as a seed and the index of an image.

    >>> generator(0, 1).permutation(4).tolist() == generator(0, 1).permutation(4).tolist()
    True
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
