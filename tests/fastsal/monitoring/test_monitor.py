"""A watched model does what it did, to the bit, and its maps are those of the passes it ran."""

import copy
import gc
import json
import math
import pickle
import warnings
import weakref
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastsal
from fastsal import SMOEScale, find_scales, watch
from fastsal.monitoring.sample import drift, entropy

pytestmark = pytest.mark.training


class Network(nn.Sequential):
    """Convolutions, BatchNorm, in-place ReLUs and dropout, whose forward passes are counted."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 5),
        )
        self.ran = 0

    def forward(self, inputs):
        self.ran += 1
        return super().forward(inputs)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network()


def batches(count=4, images=6, size=16):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.rand(images, 3, size, size, generator=generator), torch.arange(images) % 5)
        for _ in range(count)
    ]


@contextmanager
def told():
    """The messages of the warnings that are given."""
    messages = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages += [str(warning.message) for warning in caught]


def graph(tensor):
    """The autograd graph: every node's kind and what it leads to, from the loss on."""
    found, waiting = [], [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and len(found) < 10_000:
            found.append((node.name(), len(node.next_functions)))
            waiting.extend(source for source, _ in node.next_functions)
    return found


def trained(model, network, *, accumulate=1, autocast=False):
    """Losses, graphs, gradients, parameters, buffers and random state of a training."""
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    seen = []
    for step, (images, labels) in enumerate(batches()):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(images).float(), labels)
        seen += [loss.detach().clone(), graph(loss)]
        loss.backward()
        seen += [parameter.grad.clone() for parameter in network.parameters()]
        if step % accumulate == accumulate - 1:
            optimizer.step()
            optimizer.zero_grad()
    seen += [value.clone() for value in network.state_dict().values()]
    return [*seen, torch.get_rng_state()]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("wrap", [lambda net: net, nn.DataParallel], ids=["bare", "DataParallel"])
@pytest.mark.parametrize("loop", [{}, {"accumulate": 2}, {"autocast": True}], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"layers": ["2", "7"], "statistic": "truncnormal_mean"}], ids=["found", "given"]
)
def test_a_training_is_the_same_to_the_bit(network, every, wrap, loop, options):
    alone = copy.deepcopy(network)
    expected = trained(wrap(alone), alone, **loop)
    model = wrap(network)
    samples = []
    with watch(model, every, samples.append, **options) as w:
        assert same(trained(model, network, **loop), expected)
    assert network.ran == alone.ran == w.passes == 4
    first = 0 if options else 1
    assert [sample.step for sample in samples] == [
        step for step in range(4) if step >= first and (step % every == 0 or step == first)
    ]


def test_the_maps_are_those_of_the_pass_that_ran(network):
    network.eval()
    images = batches(1)[0][0]
    expected = SMOEScale(network).maps(images)
    network.ran = 0
    with watch(network, every=1, images=4) as w, torch.no_grad():
        network(images)
        assert w.latest is None
        network(images)
    assert network.ran == 2
    assert w.latest.step == 1
    assert [scale.name for scale in w.latest.scales] == ["2", "7"]
    # The first four images of six, as if they had come alone.
    assert torch.equal(w.latest.images, images[:4])
    assert torch.equal(w.latest.combined, expected.combined[:4])
    for found, wanted in zip(w.latest.per_scale, expected.per_scale, strict=True):
        assert torch.equal(found, wanted[:4])
    assert torch.equal(w.latest.stacked, expected.stacked[:4])


def test_in_training_the_maps_are_of_what_the_network_computes(network):
    # The statistic of the tensor that a hook of one's own sees.
    seen = {}
    network[7].register_forward_hook(lambda _, __, out: seen.update(out=out.detach().clone()))
    with watch(network, 1, layers=["2", "7"], normalize="none") as w:
        network(batches(1)[0][0])
    assert torch.equal(w.latest.per_scale[1], fastsal.smoe_scale(seen["out"]))
    assert not w.latest.combined.requires_grad


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_a_serving_model_is_watched_in_any_gradient_mode(network, mode):
    images = batches(1)[0][0]
    network.eval()
    expected = network(images)
    with watch(network, 1) as w, mode():
        assert torch.equal(network(images), expected)
        assert torch.equal(network(images), expected)
    assert w.latest.numbers["7"]["entropy"] > 0


NETWORKS = [
    "resnet18",
    "densenet121",
    "vgg11_bn",
    "alexnet",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "convnext_tiny",
    "googlenet",
    "shufflenet_v2_x0_5",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_pass_in_training_shows_the_scales_that_one_in_evaluation_does(name):
    from fastsal.networks.by_name import build_network

    net = build_network(name, None, pretrained=False)
    size = 96
    images = torch.rand(2, 3, size, size)
    expected = [(scale.name, scale.call) for scale in find_scales(net, images)]
    net.train()
    with watch(net, 1) as w:
        net(images)
        net(images)
    assert [(scale.name, scale.call) for scale in w.latest.scales] == expected


def test_between_samples_there_are_two_hooks_and_afterwards_none(network, untouched):
    def hooks():
        return [
            len(getattr(module, kind))
            for module in network.modules()
            for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        ]

    within, images = [], batches(1)[0][0]
    network[0].register_forward_hook(lambda *_: within.append(sum(hooks())))
    network.eval()
    own = sum(hooks())
    with untouched(network, images), watch(network, 3, layers=["2", "7"]):
        assert sum(hooks()) == own + 2
        for _ in range(4):
            network(images)
            assert sum(hooks()) == own + 2
    # Of the passes 0 and 3 two layers are read.
    assert within == [own + 4, own + 2, own + 2, own + 4]


def test_a_pass_that_fails_leaves_nothing_behind(network):
    with watch(network, 1, layers=["2", "7"]) as w:
        with pytest.raises(RuntimeError, match="expected input"):
            network(torch.rand(2, 4, 16, 16))
        assert w.latest is None
        # The module's own hook, which ends each pass.
        assert [len(module._forward_hooks) for module in network.modules()] == [1] + [0] * 11
        network(batches(1)[0][0])
        assert w.latest.step == 1
    assert torch._C._len_torch_function_stack() == 0


def test_ctrl_c_within_a_pass_leaves_nothing_behind(network):
    def stop(*_):
        raise KeyboardInterrupt

    network[4].register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt), watch(network, 1):
        network(batches(1)[0][0])
    assert torch._C._len_torch_function_stack() == 0
    assert sum(len(module._forward_hooks) for module in network.modules()) == 1


def test_a_sample_holds_few_images_and_the_latest_alone_is_held(network):
    held = []
    with watch(network, 1, lambda sample: held.append(weakref.ref(sample)), images=2) as w:
        for images, _ in batches(5):
            network(images).sum().backward()
    gc.collect()
    assert [reference() is not None for reference in held] == [False, False, False, True]
    tensors = [*w.latest.per_scale, w.latest.combined, w.latest.images]
    assert [len(tensor) for tensor in tensors] == [2] * 4
    # None is a view that would keep a whole batch.
    assert all(t.untyped_storage().nbytes() == 4 * t.numel() for t in tensors)
    assert all(t.grad_fn is None for t in tensors)


def test_a_sink_that_fails_is_warned_of_once(network):
    def full(sample):
        raise OSError("no space left")

    kept = []
    with told() as messages, watch(network, 1, [full, kept.append]):
        for images, _ in batches():
            network(images)
    assert len(messages) == 1
    assert "no space left" in messages[0]
    assert [sample.step for sample in kept] == [1, 2, 3]


@pytest.mark.parametrize("statistic", ["smoe_scale", "mean"])
def test_activations_that_are_not_finite_end_no_training(network, statistic):
    images = batches(1)[0][0]
    broken = images.clone()
    broken[0] = math.nan
    network.eval()
    options = {"layers": ["2", "7"], "statistic": statistic}
    with told() as messages, watch(network, 1, **options) as w:
        for given in (images, broken, broken, images):
            network(given)
    assert len(messages) == 1
    assert "pass 1 could not be read: activations are not finite" in messages[0]
    assert w.latest.step == 3


def test_an_odd_batch_ends_no_training(network):
    def fails(tensor):
        if len(tensor) == 1:
            raise RuntimeError("one is too few")
        return tensor.mean(1)

    images = batches(1)[0][0]
    with told() as messages, watch(network, 1, layers=["2", "7"], statistic=fails) as w:
        for given in (images, images[:1], images[:1], images):
            network.eval()(given)
    assert len(messages) == 1
    assert "pass 1 could not be read: one is too few" in messages[0]
    assert w.latest.step == 3
    # At the first that is read it is the setting that is wrong.
    w = watch(network, 1, layers=["2", "7"], statistic=fails)
    with pytest.raises(RuntimeError, match="too few"), w:
        network(images[:1])


def test_what_cannot_be_watched_says_what_to_do(network):
    cases = [
        ({"every": 0}, ValueError, "every must be a whole number of 1 or more, got 0"),
        ({"images": True}, ValueError, "images must be a whole number"),
        ({"to": 7}, TypeError, "SummaryWriter"),
        ({"layers": "nowhere"}, ValueError, "no layer named 'nowhere'"),
        ({"normalize": "other"}, ValueError, "unknown normalization"),
        ({"weights": [1, -1]}, ValueError, "not negative"),
    ]
    for options, kind, message in cases:
        with pytest.raises(kind, match=message):
            watch(network, **options)
    with pytest.raises(TypeError, match="Module that is called"):
        watch(network.forward)
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.warns(UserWarning, match="keeps one resolution"), watch(flat):
        flat(torch.rand(2, 3, 8, 8))
    assert not flat[0]._forward_hooks
    with pytest.raises(ValueError, match="image batch"), watch(flat):
        flat(torch.rand(3, 8, 8))


def test_the_wrong_module_is_told(network):
    with told() as messages, watch(nn.DataParallel(network)):
        network(batches(1)[0][0])
    assert len(messages) == 1
    assert "no forward pass of the watched model" in messages[0]


def test_attributions_are_not_passes_of_the_model(network):
    images = batches(1)[0][0]
    attributor = SMOEScale(network)
    with watch(network, 1) as w:
        attributor.attribute(images)
        network(images)
        attributor.attribute(images)
    assert w.passes == 1


def test_a_copy_of_a_watched_model_is_not_watched(network):
    images = batches(1)[0][0]
    with watch(network, 1) as w:
        averaged = copy.deepcopy(network)
        loaded = pickle.loads(pickle.dumps(network))
        averaged(images), loaded(images)
        assert w.passes == 0
        network(images)
    assert w.passes == 1


def test_a_compiled_model_is_read_uncompiled_or_says_so(network):
    images = batches(1)[0][0]
    compiled = torch.compile(network, backend="eager")
    with pytest.raises(ValueError, match="run_eager=True"):
        watch(compiled)
    expected = copy.deepcopy(network)
    with watch(compiled, 2, run_eager=True) as w:
        for _ in range(5):
            torch.manual_seed(0)
            result = compiled(images)
            torch.manual_seed(0)
            assert torch.equal(result, expected(images))
        assert w.latest.step == 4
    assert torch._dynamo.eval_frame._stance.stance == "default"
    in_place = copy.deepcopy(network)
    in_place.compile(backend="eager")
    with pytest.raises(ValueError, match=r"torch\.compile\(model\)"):
        watch(in_place, run_eager=True)
    for wrapped in (compiled, torch.compile(network, backend="eager")):
        with told(), pytest.raises(RuntimeError) as caught, watch(network, layers=["2", "7"]):
            wrapped(images)
        assert "compile it first" in str(caught.value)


def test_entropy_is_shannon_s_over_locations():
    scipy_stats = pytest.importorskip("scipy.stats")
    assert entropy(torch.full((2, 4, 4), 7.0)).item() == pytest.approx(1, abs=1e-6)
    one = torch.zeros(1, 4, 4)
    one[0, 1, 2] = 3e38
    assert entropy(one).item() == 0
    # k places of L alike: ln k / ln L.
    one[0, 0, :] = one[0, 1, 2]
    assert entropy(one).item() == pytest.approx(math.log(5) / math.log(16), rel=1e-6)
    assert entropy(torch.zeros(1, 4, 4)).item() == entropy(torch.ones(1, 1, 1)).item() == 1
    values = torch.rand(3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = np.mean([scipy_stats.entropy(one.flatten()) for one in values]) / math.log(35)
    assert entropy(values).item() == pytest.approx(expected, rel=1e-6)
    assert entropy(values - 5).item() < 1


def test_drift_is_one_less_pearson_s_correlation():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(6, 5, generator=generator), torch.rand(6, 5, generator=generator)
    expected = 1 - np.corrcoef(one.flatten(), other.flatten())[0, 1]
    assert drift(one, other).item() == pytest.approx(expected, rel=1e-5)
    assert drift(one, 3 * one + 2).item() == pytest.approx(0, abs=1e-6)
    assert drift(one, -one).item() == pytest.approx(2)
    flat = torch.ones(6, 5)
    assert (drift(flat, one).item(), drift(flat, 2 * flat).item()) == (1, 0)
    # Of another size: the picture enlarged is still the picture.
    large = F.interpolate(one[None, None], (12, 10), mode="bilinear")[0, 0]
    assert drift(one, large).item() == pytest.approx(0, abs=1e-6)


def test_the_numbers_of_a_sample_are_those_of_its_maps(network):
    seen, samples = [], []
    network[7].register_forward_hook(lambda _, __, out: seen.append(out.detach().clone()))
    network.eval()
    with watch(network, 1, samples.append, layers=["2", "7"]):
        for images, _ in batches(2):
            network(images)
    values = [fastsal.smoe_scale(out) for out in seen]
    assert samples[0].numbers["7"] == {"entropy": pytest.approx(entropy(values[0]).item())}
    assert samples[0].drift is None
    means = [fastsal.maps.normalization.gaussian(value).mean(0) for value in values]
    numbers = samples[1].numbers["7"]
    assert numbers["drift"] == pytest.approx(drift(*means).item(), abs=1e-6)
    assert numbers["entropy"] == pytest.approx(entropy(values[1]).item())


def test_a_folder_gets_pictures_and_numbers(network, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    network.eval()
    with watch(network, 1, tmp_path / "maps", images=3) as w:
        for images, _ in batches(3):
            network(images)
    lines = [json.loads(line) for line in (tmp_path / "maps/numbers.jsonl").open()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[1]["scales"] == w.latest.numbers
    with pillow.open(tmp_path / "maps" / lines[1]["picture"]) as file:
        assert file.size == (4 * 16, 3 * 16)
        shown = np.asarray(file)
    # The first row: the image, stretched to its own range.
    image = w.latest.images[0]
    image = (image - image.min()) / (image.max() - image.min())
    assert np.array_equal(shown[:16, :16], image.mul(255).round().byte().movedim(0, -1).numpy())
    expected = fastsal.heatmap(w.latest.combined[2:])[0].mul(255).round().byte().movedim(0, -1)
    assert np.array_equal(shown[32:, 48:], expected.numpy())


def test_tensorboard_gets_pictures_and_numbers(network, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    network.eval()
    with SummaryWriter(str(tmp_path)) as writer, watch(network, 2, writer) as w:
        for images, _ in batches(4):
            network(images)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["images"] == ["saliency/maps"]
    assert [event.step for event in events.Images("saliency/maps")] == [1, 2]
    drifts = events.Scalars("saliency/drift/7")
    assert [(event.step, event.value) for event in drifts] == [
        (2, pytest.approx(w.latest.numbers["7"]["drift"]))
    ]
    assert len(events.Scalars("saliency/entropy/2")) == 2


def test_grey_and_multispectral_images_are_shown(network):
    for channels in (1, 5):
        first = nn.Conv2d(channels, 3, 1)
        net = nn.Sequential(first, *network)
        with watch(net, 1, layers=["3", "8"], normalize="none") as w:
            net(torch.randn(2, channels, 16, 12))
        picture = w.latest.picture()
        assert picture.shape == (3, 2 * 16, 4 * 12)
        assert torch.equal(picture[0, :, :12], picture[2, :, :12])


def test_warnings_of_layers_come_once(network):
    with told() as messages, watch(network, 1, layers=["0", "7"]):
        for images, _ in batches(3):
            network(images)
    assert len(messages) == 1
    assert "negative activations" in messages[0]
    with told() as messages, watch(network, 1):
        for images, _ in batches(3):
            network(images)
    assert messages == []
