"""Colour maps by name: five perceptually uniform ones as tables, and all of Matplotlib's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastsal.optional import needed

__all__ = ["COLORMAPS", "colormap"]

# Matplotlib's perceptually uniform colour maps (CC0) at equal steps. Linear interpolation between
# them stays within 0.0153 of their 256 entries. People who see two hues alone can tell their
# colours apart, since the lightness rises evenly.
COLORMAPS = {
    "magma": (
        "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 cf4070 e55064 f4695c "
        "fb8761 fea571 fec287 fde0a1 fcfdbf"
    ),
    "inferno": (
        "000004 02020c 050417 0a0722 10092d 160b39 1e0c45 260c51 2f0a5b 380962 400a67 490b6a "
        "510e6c 59106e 61136e 69166e 71196e 781c6d 801f6c 88226a 902568 982766 a02a63 a82e5f "
        "b0315b b73557 bf3952 c63d4d cc4248 d34743 d94d3d df5337 e45a31 e9612b ed6925 f1711f "
        "f47918 f78212 f98b0b fa9407 fb9d07 fca60c fcb014 fbba1f fac42a f8cd37 f6d746 f4e156 "
        "f2ea69 f2f27d f5f992 fcffa4"
    ),
    "viridis": (
        "440154 46085c 471063 481769 481d6f 482475 472a7a 46307e 453781 433d84 414287 3f4889 "
        "3d4e8a 3a538b 38598c 355e8d 33638d 31688e 2e6d8e 2c718e 2a768e 297b8e 27808e 25848e "
        "23898e 218e8d 20928c 1f978b 1e9c89 1fa188 21a585 24aa83 28ae80 2eb37c 35b779 3dbc74 "
        "46c06f 50c46a 5ac864 65cb5e 70cf57 7cd250 89d548 95d840 a2da37 b0dd2f bddf26 cae11f "
        "d8e219 e5e419 f1e51d fde725"
    ),
    "plasma": (
        "0d0887 1b068d 260591 2f0596 38049a 41049d 4903a0 5102a3 5901a5 6100a7 6900a8 7100a8 "
        "7801a8 8004a8 8707a6 8e0ca4 9511a1 9c179e a21d9a a82296 ae2892 b42e8d ba3388 bf3984 "
        "c43e7f c9447a cd4a76 d24f71 d6556d da5b69 de6164 e26660 e66c5c e97257 ed7953 f07f4f "
        "f3854b f58c46 f79342 f99a3e fba139 fca835 fdaf31 feb72d febe2a fdc627 fcce25 fbd724 "
        "f8df25 f6e826 f3f027 f0f921"
    ),
    "cividis": (
        "00224e 002656 002a5f 002d68 003070 083370 163770 203a6f 273e6e 2e416d 34456c 3a486c "
        "3f4c6c 444f6c 49536c 4e566c 535a6d 575d6d 5c616e 60646f 656870 696b71 6d6f72 727274 "
        "767676 7a7a78 7e7d78 838179 888578 8d8878 928c78 969077 9b9476 a09875 a59c74 aaa073 "
        "afa471 b5a86f baac6d bfb06b c4b468 c9b965 cfbd62 d4c15f dac65b dfca57 e5cf52 ead34c "
        "f0d846 f6dd3f fce236 fee838"
    ),
}
_ENTRIES = 256


def colormap(name: str) -> Tensor:
    """Return the colours of a colour map at equal steps, from that of 0 to that of 1.

    Args:
        name: "magma", "inferno", "viridis", "plasma" or "cividis", or a name of Matplotlib's, such
            as "turbo"; with "_r" it is reversed.

    Returns:
        RGB `(K, 3)` in [0, 1], float64.

    Raises:
        ValueError: If there is no colour map of that name.
        ImportError: If the name is none of the five and Matplotlib is not installed.

    >>> colormap("viridis").shape, colormap("magma_r")[-1].mul(255).tolist()
    (torch.Size([52, 3]), [0.0, 0.0, 4.0])
    """
    known, reverse = name.removesuffix("_r"), name.endswith("_r")
    if known in COLORMAPS:
        values = bytes.fromhex(COLORMAPS[known])
        table = torch.tensor(list(values), dtype=torch.float64, device="cpu").reshape(-1, 3) / 255
        return table.flip(0) if reverse else table
    others: Any = needed(
        "matplotlib", f"the colour map {name!r}, which is none of {', '.join(COLORMAPS)},"
    ).colormaps
    if name not in others:
        raise ValueError(
            f"no colour map is called {name!r}; expected one of {', '.join(COLORMAPS)}, or a name "
            "of Matplotlib's"
        )
    entries = others[name]([entry / (_ENTRIES - 1) for entry in range(_ENTRIES)])
    return torch.tensor(entries[:, :3].tolist(), dtype=torch.float64, device="cpu")
