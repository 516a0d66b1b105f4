"""Image sets in a device's memory: the same bytes as those that are read, brought there once."""

from __future__ import annotations

import copy

import numpy as np
import psutil
import pytest
import torch

from evaluation.masking import resident
from evaluation.masking.crossfit import SubsetView
from evaluation.masking.levels import FILLS, MODES, Masking, as_elements, saliency_levels
from evaluation.masking.resident import Residence, ResidentView, free_bytes
from evaluation.masking.views import InputView
from evaluation.networks.build import build_network
from evaluation.storage.array_files import ArrayFile
from evaluation.storage.checked_arrays import open_checked
from evaluation.storage.sealed import Unfit
from evaluation.training.recipe import Recipe
from evaluation.training.retraining import predictions, train

CUTS = (0.1, 0.5, 0.9)
N, SIZE = 48, 12
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
AUGMENTATIONS = {
    "none": {"crop_padding": 0, "flip": False},
    "crops": {"crop_padding": 3, "flip": False},
    "flips": {"crop_padding": 0},
    "crops and flips": {},
    "resized crops": {"crop_padding": 0, "resized_crop": 0.3},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 3), dtype=np.uint8)


def _levels(unit: str, *, ties: bool = False) -> np.ndarray:
    saliency = np.random.default_rng(1).random((N, SIZE, SIZE))
    if ties:
        saliency = np.round(saliency * 2)  # three values: every cut falls among equals
    if unit == "element":
        saliency = as_elements(saliency, 3)
    return saliency_levels(saliency, CUTS, np.arange(N))


def _view(images, *, fill="mean", unit="pixel", mode="roar", fraction=0.5, **more) -> InputView:
    ties = more.pop("ties", False)
    masking = Masking(mode, fraction, CUTS, fill)
    return InputView(images, MEAN, STD, _levels(unit, ties=ties), masking, **more)


def _stored(folder, name: str, array: np.ndarray) -> np.ndarray:
    with ArrayFile(folder / f"{name}.npy", array.shape, array.dtype.str, name) as file:
        file.append(array)
    return open_checked(folder / f"{name}.npy", name)


def _same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    # Not torch.equal, for which 0 and -0 are the same.
    return one.stride() == other.stride() and one.numpy().tobytes() == other.numpy().tobytes()


def _check_same(stored, view) -> None:
    assert isinstance(view, ResidentView)
    assert len(view) == len(stored)
    for indices in (np.arange(len(stored)), np.array([2, 0, 2, len(stored) - 1])):
        assert _same_bytes(view(indices), stored(indices))


@pytest.mark.parametrize("unit", ["pixel", "element"])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fraction", CUTS)
def test_masked_images_have_the_same_bytes(images, tmp_path, fill, unit, mode, fraction):
    stored = _view(images, fill=fill, unit=unit, mode=mode, fraction=fraction).filled(0, tmp_path)
    _check_same(stored, *Residence("cpu").views(stored))


@pytest.mark.parametrize("mode", MODES)
def test_among_ties_exactly_as_many_pixels_are_removed(images, mode):
    white = np.full_like(images, 255)  # no pixel is at the mean by itself
    stored = _view(white, mode=mode, fraction=0.1, ties=True)
    (view,) = Residence("cpu").views(stored)
    _check_same(stored, view)
    kept = (view(np.arange(N)) != 0).all(1).sum((1, 2))
    few = int(np.floor(0.1 * SIZE**2 + 0.5))
    assert kept.tolist() == [few if mode == "kar" else SIZE**2 - few] * N


def test_whole_images_masks_alone_and_subsets_have_the_same_bytes(images):
    chosen = np.array([7, 3, 40])
    for stored in (
        InputView(images, MEAN, STD),
        _view(images, mask_only=True),
        SubsetView(_view(images, mode="kar"), chosen),
    ):
        _check_same(stored, *Residence("cpu").views(stored))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("masked", [True, False])
def test_a_training_ends_with_the_same_weights_and_hashes(images, augmentation, masked):
    stored = _view(images) if masked else InputView(images, MEAN, STD)
    labels = np.arange(N) % 4
    # The last batch of an epoch is smaller.
    recipe = Recipe(epochs=2, batch_size=20, learning_rate=0.01, **AUGMENTATIONS[augmentation])
    first = build_network("resnet9", 4, 0, size=(SIZE, SIZE))
    ends = []
    for view in (stored, *Residence("cpu").views(stored)):
        network = copy.deepcopy(first)
        training = train(network, view, labels, recipe, 3)
        losses = [entry["loss"] for entry in training.history]
        hashes = training.init_hash, training.order_hash, training.model_hash
        ends.append((*hashes, losses, predictions(network, view).tolist()))
    assert ends[0] == ends[1]
    assert all(entry["wait_seconds"] == 0 for entry in training.history)


def test_a_set_that_does_not_fit_stays_where_it_is(images, monkeypatch):
    stored = _view(images), InputView(images, MEAN, STD)
    needed = images.nbytes + images.nbytes // 3  # the images count once
    monkeypatch.setattr(resident, "free_bytes", lambda _: 2 * needed)
    assert all(isinstance(view, ResidentView) for view in Residence("cpu").views(*stored))
    monkeypatch.setattr(resident, "free_bytes", lambda _: 2 * needed - 2)
    assert Residence("cpu").views(*stored) == stored


def test_a_file_is_uploaded_once_and_goes_where_its_memory_is_wanted(images, tmp_path, monkeypatch):
    # A device without memory of its own takes the path of a GPU.
    pixels = _stored(tmp_path, "images", images)
    first, second = (
        _stored(tmp_path, name, _levels("pixel", ties=ties))
        for name, ties in (("first", False), ("second", True))
    )
    masking = Masking("roar", 0.5, CUTS)
    residence = Residence("meta")

    def parts(levels: np.ndarray) -> tuple[torch.Tensor, ...]:
        again = open_checked(tmp_path / "images.npy", "images")  # as the next cell opens it
        (view,) = residence.views(InputView(again, MEAN, STD, levels, masking))
        assert isinstance(view, ResidentView)
        return view.parts

    uploaded = parts(first)
    assert [part.device.type for part in uploaded] == ["meta", "meta"]
    assert [part.shape for part in uploaded] == [pixels.shape, first.shape]
    assert uploaded[0].dtype == torch.uint8
    assert all(part is before for part, before in zip(parts(first), uploaded, strict=True))
    other = parts(second)
    assert other[0] is uploaded[0]
    assert other[1] is not uploaded[1]
    assert parts(first)[1] is uploaded[1]  # both fit
    # What is free before and after the memory of other sets is given back.
    free = [10**9, 0]
    monkeypatch.setattr(resident, "free_bytes", lambda _: free.pop())
    third = parts(_stored(tmp_path, "third", _levels("pixel")))
    assert not free
    assert third[0] is uploaded[0]
    monkeypatch.setattr(resident, "free_bytes", lambda _: 10**9)
    assert parts(first)[1] is not uploaded[1]


def test_a_damaged_set_is_refused(images, tmp_path):
    _stored(tmp_path, "images", images)
    path = tmp_path / "images.npy"
    with path.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    view = InputView(open_checked(path, "images"), MEAN, STD)
    for device in ("cpu", "meta"):
        with pytest.raises(Unfit, match="of hash"):
            Residence(device).views(view)


def test_on_a_processor_a_set_stays_in_the_pages_of_its_file(images, tmp_path):
    stored = _view(_stored(tmp_path, "images", images))
    (view,) = Residence("cpu").views(stored)
    addresses = [part.data_ptr() for part in view.parts]
    assert addresses == [array.ctypes.data for array in stored.stored]


def test_free_memory_of_a_processor_is_what_the_system_says():
    assert free_bytes("cpu") == pytest.approx(psutil.virtual_memory().available, rel=0.2)
