"""`fastsal maps` of a detector, on a folder of pictures of different sizes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fastsal import Detection, FastCAM
from fastsal.cli.main import main
from fastsal.images.colour import heatmap
from fastsal.images.files import read_photograph
from tests.fastsal.detectors.networks import detector, images

NETWORKS = """
from tests.fastsal.detectors.networks import detector as make


def detector():
    return make("retinanet")
"""


@pytest.mark.filterwarnings("ignore:layer.* give negative activations")
def test_a_folder_of_pictures_of_different_sizes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "networks.py").write_text(NETWORKS)
    for number, image in enumerate(images()[0][:2]):
        pixels = (image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        Image.fromarray(pixels).save(f"photos/{number}.png")
    given = ["--size", "original", "--mean", "0", "0", "0", "--std", "1", "1", "1", "--quiet"]
    given += ["--random-weights", "--method", "fastcam", "--target", "1", "--out", "maps"]
    assert main(["maps", "photos", "--model", "networks.py:detector", *given]) == 0
    lines = (tmp_path / "maps/manifest.jsonl").read_text().splitlines()
    entries = {entry["file"]: entry for entry in map(json.loads, lines)}
    assert len(entries) == 2
    torch.manual_seed(0)
    network = detector("retinanet")
    for number in range(2):
        entry = entries[f"../photos/{number}.png"]
        assert entry["settings"]["cam"] == "layercam"
        photograph = read_photograph(tmp_path / f"photos/{number}.png", None)
        output = network(photograph.image)[0]
        best = int(output["scores"].argmax())
        assert entry["predicted_class"] == int(output["labels"][best])
        assert entry["probability"] == pytest.approx(float(output["scores"][best]), abs=1e-5)
        expected = FastCAM(network).attribute(
            photograph.image, Detection(label=1), expand_channels=False
        )
        shown = np.asarray(Image.open(tmp_path / "maps" / entry["pictures"]["map"]))
        picture = heatmap(expected[:, 0])[0].permute(1, 2, 0).numpy() * 255
        assert shown.shape == picture.shape
        assert np.abs(shown - picture).max() <= 1
