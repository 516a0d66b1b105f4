"""Large holes filled by conjugate gradients, against SciPy's direct solution of the same system."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from evaluation.masking import diffusion, imputation
from evaluation.masking.diffusion import diffused
from evaluation.masking.imputation import noisy_linear

SIZE = 70, 93
RNG = np.random.default_rng(0)


def _image(size: tuple[int, int]) -> np.ndarray:
    smooth = ndimage.gaussian_filter(RNG.random((3, *size)), (0, 3, 3))
    spread = (smooth - smooth.min()) / np.ptp(smooth)
    return (255 * spread).astype(np.float32)


def _removed(kind: str, share: float, size: tuple[int, int]) -> np.ndarray:
    rows, columns = np.indices(size)
    saliency = {
        "scattered": RNG.random(size),
        "blobs": ndimage.gaussian_filter(RNG.random(size), 6),
        "disk": -np.hypot(rows - size[0] / 2, columns - size[1] / 2),
        "border": np.hypot(rows - size[0] / 2, columns - size[1] / 2),
        "rows": rows + 0.0,
    }[kind]
    return saliency >= np.quantile(saliency, 1 - share)


def _direct(plane: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """The weighted means of all neighbours as one sparse system, pixel by pixel."""
    height, width = plane.shape
    place = np.arange(plane.size).reshape(plane.shape)
    rows, columns, weights = [], [], []
    for y in (-1, 0, 1):
        for x in (-1, 0, 1):
            if y or x:
                here = place[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
                there = place[max(0, y) : height - max(0, -y), max(0, x) : width - max(0, -x)]
                rows.append(here.ravel())
                columns.append(there.ravel())
                weights.append(np.full(here.size, 1 / 12 if y and x else 1 / 6))
    every = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    matrix = sparse.coo_array(every, shape=(plane.size, plane.size)).tocsr()
    total = np.asarray(matrix.sum(1)).ravel()
    hole = removed.ravel()
    inner = sparse.diags_array(total[hole]) - matrix[hole][:, hole]
    known = matrix[hole][:, ~hole] @ plane.ravel()[~hole].astype(float)
    filled = plane.astype(float).ravel()
    filled[hole] = spsolve(inner.tocsc(), known)
    return filled.reshape(plane.shape)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["scattered", "blobs", "disk", "border", "rows"])
def test_it_is_the_direct_solution(kind, share):
    image, removed = _image(SIZE), _removed(kind, share, SIZE)
    filled = diffused(image, removed)
    np.testing.assert_array_equal(filled[:, ~removed], image[:, ~removed])
    for plane, expected in zip(filled, image, strict=True):
        assert np.abs(plane - _direct(expected, removed)).max() < 1


def test_one_kept_pixel_fills_everything_with_its_colour():
    removed = np.ones(SIZE, bool)
    removed[5, 90] = False
    image = np.full((3, *SIZE), 9, np.float32)
    image[:, 5, 90] = 40, 120, 255
    filled = diffused(image, removed)
    for plane, colour in zip(filled, (40, 120, 255), strict=True):
        np.testing.assert_allclose(plane, colour, atol=1)


def test_blocks_have_the_energy_of_their_removed_pixels():
    removed = _removed("blobs", 0.6, (16, 24))
    hole = removed.astype(np.float32)
    total = np.full_like(hole, 1.0)
    for level, energies in enumerate(diffusion._energies(hole, total, 3)):
        side = 2**level
        for row in range(0, 16, side):
            for column in range(0, 24, side):
                inside = hole[row : row + side, column : column + side]
                padded = np.pad(inside, 1)
                neighbours = ndimage.convolve(
                    padded, [[1 / 12, 1 / 6, 1 / 12], [1 / 6, 0, 1 / 6], [1 / 12, 1 / 6, 1 / 12]]
                )
                expected = inside.sum() - (padded * neighbours).sum()
                found = energies[row // side, column // side]
                assert found == pytest.approx(expected, abs=1e-4)


def test_the_fill_of_large_images_is_that_of_small_ones(monkeypatch):
    image = np.moveaxis(_image(SIZE), 0, 2).astype(np.uint8)[None]
    kept = ~_removed("blobs", 0.5, SIZE)[None]
    exact = noisy_linear(image, kept, np.array([3]))
    monkeypatch.setattr(imputation, "_EXACT", 0)
    iterated = noisy_linear(image, kept, np.array([3]))
    assert (iterated != exact).any()  # another solver ran
    np.testing.assert_allclose(iterated, exact, atol=1)
