"""The normalisations against SciPy and closed forms."""

import numpy as np
import pytest
import torch
from scipy import stats

from fastsal.maps.normalization import (
    NORMALIZATIONS,
    gamma,
    gaussian,
    get_normalization,
    minmax,
    none,
    over_batch,
)


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1.0, 1e6, 1e30])
def test_gaussian_is_the_normal_cdf_of_each_map(factor):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 7, 5, generator=generator) ** 3 * factor
    result = gaussian(maps)
    for image, squashed in zip(maps.double().numpy(), result, strict=True):
        expected = stats.norm.cdf(image, loc=image.mean(), scale=image.std(ddof=1))
        np.testing.assert_allclose(squashed.numpy(), expected, atol=2e-6)


def scipy_gamma(values, shift=0.0):
    """The Gamma CDF of an image by SciPy's own fit, with the stated epsilon."""
    values = values + shift + 1e-6 * np.abs(values).max()
    shape, _, scale = stats.gamma.fit(values.ravel(), floc=0)
    return stats.gamma.cdf(values, shape, scale=scale)


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1.0, 1e6, 1e30])
@pytest.mark.parametrize("power", [0.1, 0.5, 1, 3, 20])
def test_gamma_is_the_gamma_cdf_of_each_map(factor, power):
    maps = torch.rand(3, 7, 5, generator=torch.Generator().manual_seed(2)) ** power
    maps[0, :3] = 0
    for image, squashed in zip(maps.double().numpy(), gamma(maps * factor), strict=True):
        np.testing.assert_allclose(squashed.numpy(), scipy_gamma(image), atol=2e-6)


@pytest.mark.parametrize("variation", [0.1, 0.02, 0.01, 1e-3, 1e-4])
def test_gamma_of_maps_that_hardly_vary(variation):
    # The Gamma shape is from 100 to 1e8, where most float32 digits of x / theta cancel.
    maps = 3 + 3 * variation * torch.randn(2, 9, 9, generator=torch.Generator().manual_seed(3))
    for image, squashed in zip(maps.double().numpy(), gamma(maps), strict=True):
        atol = 2e-6 + 1e-7 / variation
        np.testing.assert_allclose(squashed.numpy(), scipy_gamma(image), atol=atol)
        assert (np.diff(squashed.numpy().ravel()[image.ravel().argsort()]) >= 0).all()


def test_gamma_of_negative_values_starts_at_the_smallest():
    maps = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(4))
    for image, squashed in zip(maps.double().numpy(), gamma(maps), strict=True):
        np.testing.assert_allclose(squashed.numpy(), scipy_gamma(image, -image.min()), atol=2e-6)


@pytest.mark.parametrize("normalize", [gamma, gaussian, minmax])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_types_are_computed_in_float32_or_finer(normalize, dtype):
    maps = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(5)).to(dtype)
    result = normalize(maps)
    assert result.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(result.float(), normalize(maps.float()), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_over_a_batch_is_one_tall_map(name):
    maps = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(6)) ** 2
    tall = maps.reshape(1, 12, 5)
    shared = over_batch(NORMALIZATIONS[name], maps)
    assert torch.equal(shared.reshape(1, 12, 5), NORMALIZATIONS[name](tall))
    assert torch.equal(shared.flatten().argsort(), maps.flatten().argsort())


@pytest.mark.parametrize("normalize", [gamma, gaussian, minmax])
@pytest.mark.parametrize("value", [0.0, 1e-20, 0.1, 3.3e7])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (7, 7)])
def test_a_constant_map_is_one_half(normalize, value, size):
    assert torch.equal(normalize(torch.full((2, *size), value)), torch.full((2, *size), 0.5))


def test_a_constant_map_leaves_its_neighbours_alone():
    maps = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(1))
    for normalize in (gamma, gaussian, minmax):
        batch = normalize(torch.cat([torch.ones(1, 4, 4), maps]))
        assert torch.equal(batch[1:], normalize(maps))


def test_minmax_and_none():
    maps = torch.tensor([[[2.0, 4.0], [3.0, 6.0]]])
    assert torch.equal(minmax(maps), torch.tensor([[[0.0, 0.5], [0.25, 1.0]]]))
    assert torch.equal(none(maps), maps)


def test_unknown_name():
    with pytest.raises(ValueError, match="unknown normalization 'gauss'; choose from"):
        get_normalization("gauss")
    assert sorted(NORMALIZATIONS) == ["gamma", "gaussian", "minmax", "none"]
