"""Maps, exports, trainings and commands on a GPU equal those on the CPU; skipped without a GPU.

To run it alone: `python -m pytest tests/fastsal/kernels/test_cuda.py`. It needs torchvision, and
Pillow and tqdm for the command.
"""

import copy
import json
import shutil
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastsal
from fastsal import SMOEScale, heatmap, lovi, overlay, watch
from fastsal.attribution.video import maps as video_maps
from fastsal.cam.registry import CAMS
from fastsal.export.model import with_fast_cam, with_map
from fastsal.maps.normalization import NORMALIZATIONS
from fastsal.statistics.registry import STATISTICS

DEVICE = "cuda"

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings("ignore:layer.* give n"),
    pytest.mark.filterwarnings("ignore:.* is 0 everywhere"),
]


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Convolutions and products in full float32 precision, by the same algorithm each time."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def images(count=3, height=64, width=96, seed=0):
    """Patches of random brightness with some noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 6, generator=generator)
    patches = F.interpolate(coarse, size=(height, width), mode="bilinear")
    return 0.9 * patches + 0.1 * torch.rand(count, 3, height, width, generator=generator)


class Network(nn.Sequential):
    """Three scales, BatchNorm, dropout, a pooled linear head."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 24, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Conv2d(24, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 7),
        )
        # Every class rises with some location, so that no class activation map is 0.
        nn.init.normal_(self[11].weight, 0.1, 0.05)


@pytest.fixture
def pair():
    """The same network on the CPU and on the GPU."""
    network = Network().eval()
    return network, copy.deepcopy(network).to(DEVICE)


def assert_near(found, expected):
    """Equal up to rounding, which is larger where an activation is near 0."""
    assert found.device.type == DEVICE
    found, expected = found.detach().cpu().double(), expected.detach().double()
    assert found.shape == expected.shape
    scale = expected.abs().amax().clamp_min(1e-30)
    difference = (found - expected).abs() / scale
    assert difference.mean() < 1e-4
    assert difference.amax() < 5e-3


def assert_maps_near(found, expected):
    assert [scale.name for scale in found.scales] == [scale.name for scale in expected.scales]
    for one, other in zip(found.per_scale, expected.per_scale, strict=True):
        assert_near(one, other)
    assert_near(found.combined, expected.combined)
    assert_near(found.logits, expected.logits)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_every_statistic(pair, statistic):
    expected = SMOEScale(pair[0], statistic=statistic).maps(images())
    found = SMOEScale(pair[1], statistic=statistic).maps(images().to(DEVICE))
    assert_maps_near(found, expected)


@pytest.mark.parametrize("options", [{"normalize": name} for name in NORMALIZATIONS] + [
    {"normalize_over": "batch"}, {"max_batch": 2}, {"weights": "equal"},
], ids=str)  # fmt: skip
def test_every_option(pair, options):
    expected = SMOEScale(pair[0], **options).maps(images())
    assert_maps_near(SMOEScale(pair[1], **options).maps(images().to(DEVICE)), expected)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121"])
def test_networks_that_are_used(name):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    network = models.get_model(name, weights=None)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        network.train()(images(4))
    network.eval()
    expected = SMOEScale(network).maps(images())
    assert_maps_near(SMOEScale(network.to(DEVICE)).maps(images().to(DEVICE)), expected)


@pytest.mark.parametrize("cam", CAMS)
def test_every_class_activation_map(pair, cam):
    for target in (2, None, torch.tensor([0, 3, 6])):
        given = target.to(DEVICE) if isinstance(target, torch.Tensor) else target
        found = fastsal.FastCAM(pair[1], cam=cam).attribute(images().to(DEVICE), given)
        assert_near(found, fastsal.FastCAM(pair[0], cam=cam).attribute(images(), target))
    alone = [
        fastsal.ClassActivationMap(net, net[8], cam=cam).attribute(images().to(place), 1)
        for net, place in zip(pair, ("cpu", DEVICE), strict=True)
    ]
    assert_near(alone[1], alone[0])


def test_pictures_are_made_where_the_maps_are(pair):
    expected = SMOEScale(pair[0]).maps(images())
    found = SMOEScale(pair[1]).maps(images().to(DEVICE))
    assert_near(heatmap(found.combined), heatmap(expected.combined))
    assert_near(lovi(found.stacked), lovi(expected.stacked))
    shown = overlay(images().to(DEVICE), found.combined)
    assert_near(shown, overlay(images(), expected.combined))


def test_images_elsewhere_than_the_network_are_told(pair):
    with pytest.raises(RuntimeError, match=r"(?i)device|type"):
        SMOEScale(pair[1]).attribute(images())
    # And the network is as it was.
    assert_near(pair[1](images().to(DEVICE)), pair[0](images()))


def test_half_precision_and_channels_last(pair):
    expected = SMOEScale(pair[0]).maps(images()).combined
    wide = copy.deepcopy(pair[1]).to(memory_format=torch.channels_last)
    given = images().to(DEVICE).contiguous(memory_format=torch.channels_last)
    assert_near(SMOEScale(wide).maps(given).combined, expected)
    for kind in (torch.float16, torch.bfloat16):
        half = copy.deepcopy(pair[1]).to(kind)
        found = SMOEScale(half).maps(images().to(DEVICE, kind)).combined
        assert (found.cpu().float() - expected).abs().mean() < 0.02
        with torch.autocast(DEVICE, kind):
            found = SMOEScale(pair[1]).maps(images().to(DEVICE)).combined
        assert (found.cpu().float() - expected).abs().mean() < 0.02


@pytest.mark.parametrize("devices", [1, 2])
def test_data_parallel(pair, devices):
    if torch.cuda.device_count() < devices:
        pytest.skip("not as many GPUs")
    expected = SMOEScale(pair[0]).maps(images(4))
    parallel = nn.DataParallel(pair[1], device_ids=list(range(devices)))
    layers = [scale.name for scale in expected.scales]
    found = SMOEScale(parallel, layers).maps(images(4).to(DEVICE))
    assert_near(found.combined, expected.combined)
    grad = fastsal.FastCAM(parallel, pair[1][8], scales=layers).attribute(images(4).to(DEVICE), 1)
    on_cpu = fastsal.FastCAM(pair[0], pair[0][8], scales=layers).attribute(images(4), 1)
    assert_near(grad, on_cpu)


def trained(network, context=None, autocast=False):
    """Losses, gradients and parameters of a training on the GPU, watched or not."""
    network = copy.deepcopy(network).to(DEVICE).train()
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    seen = []

    def steps():
        for step in range(4):
            given = images(6, seed=step).to(DEVICE)
            with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
                loss = F.cross_entropy(network(given).float(), torch.arange(6, device=DEVICE))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.extend([loss.detach().clone(), *(p.grad.clone() for p in network.parameters())])

    if context is None:
        steps()
    else:
        with context(network):
            steps()
    return [*seen, *network.state_dict().values(), torch.cuda.get_rng_state()]


@pytest.mark.parametrize("autocast", [False, True])
def test_a_training_that_is_watched_is_the_same_to_the_bit(pair, tmp_path, autocast):
    pytest.importorskip("PIL.Image")
    samples = []
    expected = trained(pair[0], autocast=autocast)
    found = trained(
        pair[0],
        lambda net: watch(net, 1, [samples.append, tmp_path], layers=["2", "5", "8"]),
        autocast,
    )
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert [sample.step for sample in samples] == [0, 1, 2, 3]
    for tensor in (samples[3].images, samples[3].combined, samples[3].entropy, samples[3].drift):
        assert tensor.device.type == DEVICE
    assert samples[3].combined.std() > 0.05
    assert len(list(tmp_path.glob("*.png"))) == 4
    lines = [json.loads(line) for line in (tmp_path / "numbers.jsonl").open()]
    assert lines[3]["scales"] == samples[3].numbers


def test_what_is_watched_is_what_the_cpu_gives(pair):
    expected = SMOEScale(pair[0]).maps(images())
    with watch(pair[1], 1) as w, torch.inference_mode():
        pair[1](images().to(DEVICE))
        pair[1](images().to(DEVICE))
    assert_near(w.latest.combined, expected.combined)
    for one, other in zip(w.latest.per_scale, expected.per_scale, strict=True):
        assert_near(one, other)
    assert w.latest.numbers["8"]["drift"] if w.latest.drift is not None else True


WAYS = {
    "as it is": lambda module, _: module,
    "jit": lambda module, example: torch.jit.trace(module, example, check_trace=False),
    "export": lambda module, example: torch.export.export(module, (example,)).module(),
    "compile": lambda module, _: torch.compile(module, fullgraph=True),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [with_map, with_fast_cam])
def test_a_model_with_its_map(pair, make, way):
    if way == "compile" and not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("no C compiler")
    example = images().to(DEVICE)
    module = make(pair[1], example)
    with torch.no_grad():
        output, combined, per_scale = WAYS[way](module, example)(example)
    expected = SMOEScale(pair[0]).maps(images())
    assert_near(output, expected.logits)
    for one, other in zip(per_scale, expected.per_scale, strict=True):
        assert_near(one, other)
    fast_cam = fastsal.FastCAM(pair[0]).attribute(images(), None)[:, 0]
    assert_near(combined, expected.combined if make is with_map else fast_cam)


def test_a_compiled_model_is_read(pair):
    expected = SMOEScale(pair[0]).maps(images())
    compiled = torch.compile(pair[1], backend="eager")
    compiled(images().to(DEVICE))
    assert_maps_near(SMOEScale(compiled).maps(images().to(DEVICE)), expected)


def test_tiles_hold_less_and_give_the_same(pair):
    given = images(1, 1024, 1024)
    expected = SMOEScale(pair[0]).maps(given)
    held = {}
    for name, options in {"whole": {}, "tiles": {"tile": (128, 128), "overlap": 8}}.items():
        attributor = SMOEScale(pair[1], **options)
        on_device = given.to(DEVICE)
        attributor.maps(on_device)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found = attributor.maps(on_device)
        held[name] = torch.cuda.max_memory_allocated() - before
        assert_near(found.combined, expected.combined)
        del found
    assert held["tiles"] < held["whole"] / 3


def test_no_map_leaves_memory_behind(pair):
    attributors = [SMOEScale(pair[1]), fastsal.FastCAM(pair[1])]
    given = images().to(DEVICE)

    def run():
        for attributor in attributors:
            attributor.attribute(given)
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    run()
    after = run()
    assert all(run() == after for _ in range(5))


def test_a_video(pair):
    frames = images(5, seed=2)
    expected = list(video_maps(frames, SMOEScale(pair[0]), smoothing=0.7))
    found = list(video_maps(frames.to(DEVICE), SMOEScale(pair[1]), smoothing=0.7, at_once=2))
    for one, other in zip(found, expected, strict=True):
        assert_near(one.combined, other.combined)


NETWORK = """
import torch
from torch import nn

def classifier():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )
"""


@pytest.mark.parametrize("method", ["smoe", "fastcam"])
def test_the_command(tmp_path, monkeypatch, method):
    pillow = pytest.importorskip("PIL.Image")
    pytest.importorskip("tqdm")
    from fastsal.cli.main import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    pixels = images(2)[:, :, :, :64].mul(255).byte().movedim(1, -1).numpy()
    (tmp_path / "photos").mkdir()
    for index, picture in enumerate(pixels):
        pillow.fromarray(picture).save(tmp_path / "photos" / f"{index}.png")
    shown = {}
    for device in ("cpu", DEVICE):
        arguments = ["maps", "photos", "--model", "net.py:classifier", "--method", method, "--lovi"]
        options = ["--size", "original", "--out", device, "--device", device, "--quiet"]
        assert main([*arguments, *options]) == 0
        shown[device] = [
            torch.frombuffer(bytearray(pillow.open(path).tobytes()), dtype=torch.uint8).float()
            for path in sorted((tmp_path / device).glob("*.png"))
        ]
    assert len(shown[DEVICE]) == 6
    for one, other in zip(shown[DEVICE], shown["cpu"], strict=True):
        assert (one - other).abs().mean() < 1
        assert one.std() > 5
    lines = (tmp_path / DEVICE / "manifest.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["environment"]["device"] == DEVICE


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-q"]))
