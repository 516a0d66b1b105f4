"""Image classifiers of transformers: called as they are, and from a local folder."""

import json

import pytest
import torch

from fastsal import FastCAM, GradCAM, ScoreCAM, SMOEScale, find_scales
from fastsal.arguments.logits import logits_of
from fastsal.cli.main import main
from fastsal.networks.by_name import build_network
from fastsal.networks.preprocessing import preprocessing_of

transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore:layer.* give negative activations"),
    pytest.mark.filterwarnings("ignore:.* is 0 everywhere"),
]

COMMON = {"num_labels": 5, "image_size": 32}
TRANSFORMER = {
    **COMMON,
    "patch_size": 8,
    "hidden_size": 24,
    "num_hidden_layers": 8,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
# The configuration, and the number of tokens before the grid; None for several resolutions.
NETWORKS = {
    "vit": (TRANSFORMER, 1),
    "deit": ({**TRANSFORMER, "architectures": ["DeiTForImageClassification"]}, 2),
    "dinov2": ({**TRANSFORMER, "mlp_ratio": 2}, 1),
    "dinov2_with_registers": ({**TRANSFORMER, "mlp_ratio": 2, "num_register_tokens": 4}, 5),
    "swin": ({**COMMON, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2]}, None),
    "hiera": (
        {
            **COMMON,
            "image_size": [64, 64],
            "embed_dim": 8,
            "depths": [1, 2, 2, 1],
            "num_heads": [1, 2, 4, 8],
        },
        None,
    ),
    "pvt": (
        {
            **COMMON,
            "image_size": 64,
            "hidden_sizes": [8, 16, 24, 32],
            "num_attention_heads": [1, 2, 4, 8],
        },
        None,
    ),
    "segformer": (
        {**COMMON, "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 4, 8]},
        None,
    ),
    "cvt": (
        {"num_labels": 5, "embed_dim": [8, 16, 24], "num_heads": [1, 2, 3], "depth": [1, 2, 3]},
        None,
    ),
}


def build(name):
    torch.manual_seed(0)
    configuration = transformers.AutoConfig.for_model(name, **NETWORKS[name][0])
    return transformers.AutoModelForImageClassification.from_config(configuration).eval()


def images(name, count=2):
    side = NETWORKS[name][0].get("image_size", 64)
    side = side if isinstance(side, int) else side[0]
    side = 64 if NETWORKS[name][1] is None else side
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_is_called_as_it_is(name):
    network, inputs = build(name), images(name)
    scales = find_scales(network, inputs)
    before = NETWORKS[name][1]
    if before is None:
        assert len({scale.strides for scale in scales}) == len(scales) >= 2
    else:
        assert len(scales) == 4
        assert {scale.layout.tokens[1:] for scale in scales} == {(before, 4, 4)}
    maps = SMOEScale(network).maps(inputs)
    assert maps.combined.isfinite().all()
    assert maps.combined.flatten(1).std(1).min() > 0
    with torch.no_grad():
        torch.testing.assert_close(maps.logits.logits, network(pixel_values=inputs).logits)


@pytest.mark.parametrize("name", ["vit", "segformer"])
def test_the_class_is_that_of_the_logits(name):
    network, inputs = build(name), images(name)
    named = GradCAM(network).attribute(inputs, 2, relu_attributions=False)
    by_callable = GradCAM(network).attribute(
        inputs, lambda output: output.logits[:, 2], relu_attributions=False
    )
    torch.testing.assert_close(named, by_callable)
    with torch.no_grad():
        predicted = network(inputs).logits.argmax(1)
    alone = FastCAM(network).attribute(inputs)
    torch.testing.assert_close(alone, FastCAM(network).attribute(inputs, predicted))
    with pytest.raises(ValueError, match="target 7 does not fit"):
        SMOEScale(network).attribute(inputs, target=7)


def test_score_cam_takes_the_logits():
    network, inputs = build("vit"), images("vit", 1)
    assert ScoreCAM(network).attribute(inputs, 1).shape == (1, 1, 4, 4)


def test_logits_of_other_outputs():
    logits = torch.ones(2, 3)
    assert logits_of({"logits": logits, "loss": None}) is logits
    assert logits_of(logits) is logits
    # Such as the boxes of a detector: several numbers a class.
    output = {"logits": torch.ones(2, 100, 3)}
    assert logits_of(output) is output
    assert logits_of((logits,)) == (logits,)


@pytest.fixture
def folder(tmp_path):
    network = build("vit")
    network.config.id2label = {index: f"class {index}" for index in range(5)}
    network.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5]})
    )
    return tmp_path, network


def test_a_local_folder_gives_network_classes_and_normalisation(folder):
    path, network = folder
    name = f"hf:{path}"
    loaded = build_network(name, pretrained=True)
    inputs = images("vit")
    torch.testing.assert_close(loaded(inputs).logits, network(inputs).logits)
    found = preprocessing_of(name, loaded)
    assert found.mean == pytest.approx((0.5, 0.4, 0.3))
    assert found.std == pytest.approx((0.2, 0.25, 0.5))
    assert found.classes == tuple(f"class {index}" for index in range(5))
    random = build_network(name)
    assert not torch.equal(random(inputs).logits, network(inputs).logits)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"do_normalize": False}, ((0.0,) * 3, (1.0,) * 3)),
        ({"do_normalize": False, "rescale_factor": 1 / 127.5}, ((0.0,) * 3, (0.5,) * 3)),
        (
            {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_rescale": False},
            ((0.5 / 255,) * 3, (0.5 / 255,) * 3),
        ),
    ],
)
def test_the_normalisation_is_the_processor_s(folder, written, expected):
    path, network = folder
    (path / "preprocessor_config.json").write_text(json.dumps(written))
    found = preprocessing_of(f"hf:{path}", network)
    assert found.mean == pytest.approx(expected[0])
    assert found.std == pytest.approx(expected[1])


def test_pickled_weights_are_not_read(folder):
    path, network = folder
    (path / "model.safetensors").unlink()
    torch.save(network.state_dict(), path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"cannot build .*safetensors"):
        build_network(f"hf:{path}", pretrained=True)


def test_a_name_of_the_hub_is_not_downloaded():
    with pytest.raises(
        ValueError, match=r"hf:google/vit.* needs .*config.json.*nothing is downloaded"
    ):
        build_network("hf:google/vit-base-patch16-224", pretrained=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    network, inputs = build("vit"), images("vit")
    whole = SMOEScale(network).maps(inputs).combined
    half = SMOEScale(network.to(dtype)).maps(inputs.to(dtype)).combined
    assert half.dtype == torch.float32
    assert (half - whole).abs().mean() < 0.02


@pytest.mark.parametrize("method", ["smoe", "fastcam"])
def test_the_command_writes_maps_of_a_folder(folder, method, capsys):
    image = pytest.importorskip("PIL.Image")
    path, network = folder
    picture = path / "noise.png"
    pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
    image.fromarray(pixels.numpy()).save(picture)
    out = path / "maps"
    arguments = ["maps", str(picture), "--model", f"hf:{path}", "--size", "32", "--out", str(out)]
    assert main([*arguments, "--method", method]) == 0
    entry = json.loads((out / "manifest.jsonl").read_text().splitlines()[-1])
    assert [scale["size"] for scale in entry["scales"]] == [[4, 4]] * 4
    inputs = pixels.permute(2, 0, 1)[None] / 255
    mean, std = (
        torch.tensor(values)[:, None, None] for values in ((0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    )
    with torch.no_grad():
        predicted = int(network((inputs - mean) / std).logits.argmax())
    assert entry["class_name"] == f"class {predicted}"
    assert f"class {predicted}" in capsys.readouterr().out


def test_the_layers_of_a_folder_are_listed(folder, capsys):
    assert main(["layers", f"hf:{folder[0]}", "--size", "32"]) == 0
    assert capsys.readouterr().out.count("yes") == 4
