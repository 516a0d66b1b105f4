"""Maps of volumes on their voxels: PyTorch's trilinear interpolation, by planes."""

import pytest
import torch
import torch.nn.functional as F

from fastsal.maps.resize import upsample

SIZES = [
    ((4, 4, 4), (16, 16, 16)),
    ((4, 7, 5), (9, 7, 31)),
    ((1, 3, 3), (8, 6, 6)),
    ((6, 5, 4), (6, 20, 9)),
    ((8, 9, 10), (3, 4, 5)),
    ((5, 1, 1), (1, 1, 7)),
]


def of_torch(maps, size):
    return F.interpolate(maps[:, None], size=size, mode="trilinear", align_corners=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("given", "size"), SIZES)
def test_volumes_are_trilinear(given, size, dtype):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, *given, generator=generator, dtype=dtype)
    before = maps.clone()
    found = upsample(maps, size)
    assert found.shape == (2, 1, *size)
    assert found.dtype == dtype
    torch.testing.assert_close(found, of_torch(maps, size), rtol=0, atol=1e-6)
    assert torch.equal(maps, before)


def test_gradients_and_half_precision():
    maps = torch.rand(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda given: upsample(given, (7, 9, 6)), maps)
    half = torch.rand(1, 300, 2, 2).bfloat16()
    found = upsample(half, (900, 2, 2)).float()
    expected = of_torch(half.float(), (900, 2, 2))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)


def test_batches_of_maps_under_a_transform():
    maps = torch.rand(3, 2, 3, 4, 5)
    found = torch.vmap(lambda one: upsample(one, (6, 8, 10)))(maps)
    expected = of_torch(maps.flatten(0, 1), (6, 8, 10)).unflatten(0, (3, 2))
    torch.testing.assert_close(found, expected)
