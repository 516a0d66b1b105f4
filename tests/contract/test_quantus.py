"""Quantus' metrics over our classes, through the adapter that its users would write.

Quantus is imported here alone, and its license stays with it; without it nothing here runs.
"""

import numpy as np
import pytest
import torch

from fastsal import SMOEScale

quantus = pytest.importorskip("quantus", reason="pip install quantus")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def explain(model, inputs, targets, *, method, device="cpu", **options):
    """Quantus' explanation function: arrays in, an array of the inputs' shape out."""
    images = torch.as_tensor(inputs, dtype=torch.float32, device=device)
    classes = torch.as_tensor(targets, device=device)
    return method(model, **options).attribute(images, classes).cpu().numpy()


@pytest.fixture
def model(small_network):
    return small_network()


@pytest.fixture
def images(small_images):
    return small_images.numpy()


LABELS = np.array([1, 0, 3])


def scored(metric, model, images, method, given=None):
    """Quantus' scores, of maps that it asks the adapter for or is given."""
    return metric(
        model=model,
        x_batch=images,
        y_batch=LABELS,
        a_batch=given,
        explain_func=explain,
        explain_func_kwargs={"method": method},
        channel_first=True,
        softmax=False,
        device="cpu",
    )


def predicted(model, images):
    with torch.no_grad():
        return model(torch.as_tensor(images)).numpy()[range(3), LABELS]


def maps_of(model, images, method):
    maps = method(model).attribute(torch.as_tensor(images), torch.as_tensor(LABELS))
    return maps.numpy()


PLAIN = {"disable_warnings": True, "display_progressbar": False, "abs": False, "normalise": False}


def test_pixel_flipping(model, images, untouched, image_method):
    metric = quantus.PixelFlipping(features_in_step=96, perturb_baseline=0.0, **PLAIN)
    with untouched(model):
        curves = scored(metric, model, images, image_method)
    order = np.argsort(-maps_of(model, images, image_method).reshape(3, -1), axis=1)
    masked, expected = images.reshape(3, -1).copy(), []
    for start in range(0, order.shape[1], 96):
        for image, places in zip(masked, order[:, start : start + 96], strict=True):
            image[places] = 0
        expected.append(predicted(model, masked.reshape(images.shape)))
    np.testing.assert_allclose(curves, np.stack(expected, 1), rtol=1e-5, atol=1e-6)


def test_faithfulness_correlation(model, images, image_method):
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=12, subset_size=96, perturb_baseline=0.0, return_aggregate=False, **PLAIN
    )
    np.random.seed(0)  # noqa: NPY002
    scores = scored(metric, model, images, image_method)
    maps = maps_of(model, images, image_method).reshape(3, -1)
    np.random.seed(0)  # noqa: NPY002
    drops, sums = [], []
    for _ in range(12):
        masked = images.reshape(3, -1).copy()
        places = [np.random.choice(masked.shape[1], 96, replace=False) for _ in range(3)]  # noqa: NPY002
        for image, chosen in zip(masked, places, strict=True):
            image[chosen] = 0
        drops.append(predicted(model, images) - predicted(model, masked.reshape(images.shape)))
        sums.append([row[chosen].sum() for row, chosen in zip(maps, places, strict=True)])
    pairs = zip(np.transpose(sums), np.transpose(drops), strict=True)
    expected = [np.corrcoef(total, drop)[0, 1] for total, drop in pairs]
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)


def fainter(arr, indices, **_):
    return arr * 0.8 + 0.1


def test_max_sensitivity(model, images, image_method):
    metric = quantus.MaxSensitivity(nr_samples=1, perturb_func=fainter, **PLAIN)
    scores = scored(metric, model, images, image_method)
    maps = maps_of(model, images, image_method).reshape(3, -1)
    moved = maps_of(model, fainter(images, None), image_method).reshape(3, -1)
    expected = np.linalg.norm(moved - maps, axis=1) / np.linalg.norm(maps, axis=1)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_sparseness(model, images, image_method):
    metric = quantus.Sparseness(**PLAIN)
    maps = maps_of(model, images, image_method)
    scores = scored(metric, model, images, image_method)
    given = scored(metric, model, images, image_method, maps.copy())
    np.testing.assert_allclose(scores, given, rtol=1e-6)
    for score, values in zip(scores, maps.reshape(3, -1).astype(float), strict=True):
        # The Gini index by its definition: the mean difference of two values.
        gini = np.abs(values[:, None] - values).mean() / (2 * values.mean())
        assert score == pytest.approx(gini, rel=1e-4)


def test_a_map_of_one_channel_is_spread(model, images):
    """Quantus spreads (N, 1, H, W) itself: the scores are those of the full map."""
    metric = quantus.PixelFlipping(features_in_step=96, perturb_baseline=0.0, **PLAIN)
    full = maps_of(model, images, SMOEScale)
    narrow = SMOEScale(model).attribute(torch.as_tensor(images), expand_channels=False).numpy()
    assert narrow.shape == (3, 1, 16, 24)
    np.testing.assert_allclose(
        scored(metric, model, images, SMOEScale, narrow),
        scored(metric, model, images, SMOEScale, full),
    )
