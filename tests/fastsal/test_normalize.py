"""The normalisations against SciPy and closed forms."""

import numpy as np
import pytest
import torch
from scipy import stats

from fastsal.normalize import NORMALIZATIONS, gaussian, get_normalization, minmax, none


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1.0, 1e6, 1e30])
def test_gaussian_is_the_normal_cdf_of_each_map(factor):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 7, 5, generator=generator) ** 3 * factor
    result = gaussian(maps)
    for image, squashed in zip(maps.double().numpy(), result, strict=True):
        expected = stats.norm.cdf(image, loc=image.mean(), scale=image.std(ddof=1))
        np.testing.assert_allclose(squashed.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("normalize", [gaussian, minmax])
@pytest.mark.parametrize("value", [0.0, 1e-20, 0.1, 3.3e7])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (7, 7)])
def test_a_constant_map_is_one_half(normalize, value, size):
    assert torch.equal(normalize(torch.full((2, *size), value)), torch.full((2, *size), 0.5))


def test_a_constant_map_leaves_its_neighbours_alone():
    maps = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(1))
    for normalize in (gaussian, minmax):
        batch = normalize(torch.cat([torch.ones(1, 4, 4), maps]))
        assert torch.equal(batch[1:], normalize(maps))


def test_minmax_and_none():
    maps = torch.tensor([[[2.0, 4.0], [3.0, 6.0]]])
    assert torch.equal(minmax(maps), torch.tensor([[[0.0, 0.5], [0.25, 1.0]]]))
    assert torch.equal(none(maps), maps)


def test_unknown_name():
    with pytest.raises(ValueError, match="unknown normalization 'gauss'; choose from"):
        get_normalization("gauss")
    assert sorted(NORMALIZATIONS) == ["gaussian", "minmax", "none"]
