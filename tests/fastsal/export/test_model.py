"""A model with its map as one module, against the attribution classes and through the tracers."""

import copy
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastsal import FastCAM, SMOEScale, Statistic, find_scales
from fastsal.cam.linear_head import HeadError
from fastsal.export import graph_forms
from fastsal.export.model import with_fast_cam, with_map
from fastsal.images.colour import lovi
from fastsal.networks.by_name import build_network
from fastsal.networks.scales import ScalesError
from fastsal.statistics.registry import STATISTICS

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:layer.* give negative activations"),
]


def images(count=2, height=24, width=32, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """One in-place ReLU for three places, a sum that the next block writes into."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 10, 3, stride=2, padding=1)
        self.head = nn.Linear(10, 5)

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = self.relu(self.body(x) + x)
        y = self.relu(self.down(x))
        return self.head(y.mean((2, 3)))


class Functions(nn.Module):
    """Functional ReLUs, one convolution used twice at two sizes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.shared(F.relu(self.stem(x))))
        x = F.max_pool2d(x, 2)
        x = F.relu(self.norm(self.shared(x)), inplace=True)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class WritesAfterwards(nn.Module):
    """Writes into each scale's tensor once it has been made."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(6, 9, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(9, 5)

    def forward(self, x):
        x = self.one(x)
        x[:, :2] = 0
        x.mul_(3).sub_(0.5)
        x = self.two(F.max_pool2d(x, 2))
        pooled = x.mean((2, 3))
        x.zero_()
        return self.head(pooled)


class ChannelsLast(nn.Module):
    """Tensors as (N, H, W, C), activations with negative values, read at a module's input too."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.GELU())
        self.wide = nn.Linear(32, 12)
        self.act = nn.GELU()
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.block(self.stem(x).permute(0, 2, 3, 1))
        n, h, w, c = x.shape
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(2, 3)
        x = self.act(self.wide(x.reshape(n, h // 2, w // 2, 4 * c)))
        return self.head(x.mean((1, 2)))


NETWORKS = [Residual, Functions, WritesAfterwards, ChannelsLast]


@pytest.fixture(params=NETWORKS, ids=lambda network: network.__name__)
def network(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return request.param().eval()


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def traced(module, example):
    return torch.jit.trace(module, example, check_trace=False)


def exported(module, example):
    axes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    return torch.export.export(module, (example,), dynamic_shapes=((axes,),)).module()


def compiled(module, example):
    torch._dynamo.reset()
    return torch.compile(module, fullgraph=True, dynamic=True, backend="eager")


WAYS = {
    "as it is": lambda module, _: module,
    "jit": traced,
    "export": exported,
    "compile": compiled,
}


# Compilers take seconds: the others of their cases are among the longer tests.
FAST = {("Functions", "export"), ("Residual", "compile")}


@pytest.mark.parametrize(
    ("make", "way"),
    [
        pytest.param(
            make,
            way,
            id=f"{make.__name__} {way}",
            marks=()
            if way in ("as it is", "jit") or (make.__name__, way) in FAST
            else pytest.mark.slow,
        )
        for make in NETWORKS
        for way in WAYS
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_the_map_is_smoe_scales(make, way):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make().eval()
    example, inputs = images(2, 16, 24), images(3, 24, 32, seed=1)
    with torch.no_grad():
        module = WAYS[way](with_map(network, example, weights="equal"), example)
        output, combined, per_scale = module(inputs)
    expected = SMOEScale(network, weights="equal").maps(inputs)
    torch.testing.assert_close(output, expected.logits, rtol=1e-5, atol=1e-6)
    assert_same(combined, expected.combined)
    assert len(per_scale) == len(expected.per_scale) == 2
    for found, wanted in zip(per_scale, expected.per_scale, strict=True):
        assert_same(found, wanted)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large"])
def test_networks_that_are_used(name):
    network = calibrated(name)
    inputs = images(2, 64, 96, seed=1)
    with torch.no_grad():
        output, combined, _ = with_map(network, images(1, 64, 64))(inputs)
    expected = SMOEScale(network).maps(inputs)
    torch.testing.assert_close(output, expected.logits, rtol=0, atol=0)
    assert_same(combined, expected.combined)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["resnet50", "densenet121", "efficientnet_b0", "vgg16_bn", "timm:tf_efficientnet_lite0"],
)
def test_more_networks_that_are_used(name):
    test_networks_that_are_used(name)


def calibrated(name):
    """A network with random weights, whose BatchNorm keeps activations from vanishing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(name)
        for part in network.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.momentum = 1.0
        with torch.no_grad():
            network.train()(images(4, 64, 64))
    return network.eval()


def test_the_model_is_left_and_its_parameters_are_shared(network, untouched):
    inputs = images()
    network.train()
    with untouched(network, inputs):
        module = with_map(network, inputs)
        with torch.no_grad():
            module(inputs)
    own = dict(network.named_parameters()) | dict(network.named_buffers())
    shared = dict(module.model.named_parameters()) | dict(module.model.named_buffers())
    assert own.keys() == shared.keys()
    assert all(own[name] is shared[name] for name in own)
    assert not any(part.training for part in module.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


def test_what_is_trained_in_the_model_is_so_in_the_module():
    network = Functions().eval()
    module = with_map(network, images())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
            )
        found = module(images(seed=3))[1]
    assert_same(found, SMOEScale(network).maps(images(seed=3)).combined)


def test_layers_given_in_each_form():
    network, inputs = Residual().eval(), images()
    scale = find_scales(network, inputs)[1]
    for layers in (["body", "down"], [network.body, scale], "stem"):
        found = with_map(network, inputs, layers=layers)(inputs)[1]
        assert_same(found, SMOEScale(network, layers).maps(inputs).combined)


def test_the_input_of_a_layer_and_its_output():
    network, inputs = Residual().eval(), images()
    first, _ = find_scales(network, inputs)
    at_input = type(first)(
        "down", network.down, 0, first.shape, first.stride, False, False, layer_input=True
    )
    found = with_map(network, inputs, layers=[at_input, network.down])(inputs)
    expected = SMOEScale(network, [at_input, network.down]).maps(inputs)
    for ours, theirs in zip(found[2], expected.per_scale, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("name", [n for n, s in STATISTICS.items() if s.domain == "post_relu"])
def test_every_statistic_after_the_relu(name, small_network):
    network, inputs = small_network(), images(2, 16, 24, seed=4)
    with torch.no_grad():
        found = with_map(network, inputs[:1], statistic=name)(inputs)[1]
    assert_same(found, SMOEScale(network, statistic=name).maps(inputs).combined)


# Small scales have four blocks of channels, large ones eight or sixteen if these divide them.
@pytest.mark.parametrize("side", [6, 64, 96])
@pytest.mark.parametrize("channels", [1, 3, 4, 6, 8, 16, 18, 24, 40, 64])
def test_the_graph_s_smoe_scale_of_any_number_of_channels(channels, side):
    generator = torch.Generator().manual_seed(channels)
    # Columns with many zeros, tiny and large values: products of 16 would leave float32's range.
    values = 10 ** (8 * torch.rand(2, channels, side, side, generator=generator) - 4)
    values = values * (torch.rand(values.shape, generator=generator) > 0.4)
    shifted = values.double() + 1e-6
    mean = shifted.mean(1)
    expected = mean * (mean.log() - shifted.log().mean(1))
    found = graph_forms.smoe_of_sums(graph_forms.smoe_sums(values)).double()
    found = found.reshape(expected.shape)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.amax().item())


def test_a_statistic_of_ones_own():
    network, inputs = Functions().eval(), images()

    def largest(activations):
        return activations.amax(1)

    own = Statistic("mean", "of the same name as a registered one", "post_relu", largest)
    found = with_map(network, inputs, statistic=own)(inputs)[1]
    assert_same(found, SMOEScale(network, statistic=largest).maps(inputs).combined)


def test_lovi_is_the_picture_of_the_maps(network):
    inputs = images()
    with torch.no_grad():
        *_, picture = with_map(network, inputs, lovi=True)(inputs)
    torch.testing.assert_close(
        picture, lovi(SMOEScale(network).maps(inputs).stacked), atol=1e-4, rtol=0
    )


def test_a_constant_image_gives_one_half():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), nn.ReLU()
    )
    module = with_map(network, images())
    assert (module(torch.full((1, 3, 8, 8), 0.3))[1] == 0.5).all()
    # The second scale is one location.
    assert (module(torch.full((1, 3, 2, 2), 0.3))[2][1] == 0.5).all()


def test_values_that_are_not_finite_are_seen():
    network, inputs = Functions().eval(), images()
    inputs[0, 0, 3, 3] = torch.inf
    assert with_map(network, images())(inputs)[1][0].isnan().any()


def test_the_scales_are_found_in_one_pass():
    class Counting(Functions):
        ran = 0

        def forward(self, x):
            Counting.ran += 1
            return super().forward(x)

    with_map(Counting().eval(), images())
    # One pass is traced, and the module's first one shows that it reaches every layer.
    assert Counting.ran == 2


def test_several_inputs_and_a_dict_output():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Functions()
            self.numbers = nn.Linear(4, 5)

        def forward(self, image, numbers):
            return {"scores": self.inner(image) + self.numbers(numbers)}

    network, inputs = Two().eval(), (images(), torch.rand(2, 4))
    output, combined, _ = with_map(network, inputs)(*inputs)
    expected = SMOEScale(network).maps(inputs)
    torch.testing.assert_close(output["scores"], expected.logits["scores"])
    assert_same(combined, expected.combined)


def test_threads_do_not_disturb_each_other():
    network = Functions().eval()
    module = with_map(network, images())
    batches = [images(1, 64, 64 + 8 * k, seed=k) for k in range(4)]
    with torch.no_grad():
        alone = [module(batch)[1] for batch in batches]
    found = {}

    def run(index):
        with torch.no_grad():
            found[index] = [module(batches[index])[1] for _ in range(10)]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, expected in enumerate(alone):
        assert all(torch.equal(one, expected) for one in found[index])


def test_a_deep_copy_goes_its_own_way():
    network = Functions().eval()
    module = with_map(network, images())
    other = copy.deepcopy(module)
    with torch.no_grad():
        other.model.stem.weight.neg_()
        assert_same(module(images())[1], SMOEScale(network).maps(images()).combined)
        assert (other(images())[1] - module(images())[1]).abs().max() > 0.01


@pytest.mark.parametrize("target", [None, 0, 4])
@pytest.mark.parametrize("make", [Residual, Functions, WritesAfterwards])
def test_fast_cam_is_the_one_with_gradients(make, target):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = make().eval()
        # Every class rises with some location, so that no class activation map is 0.
        nn.init.normal_(network.head.weight, 0.1, 0.05)
    module, inputs = with_fast_cam(network, images(), target=target), images(4, 32, 24, seed=5)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = module(inputs)[1]
        expected = FastCAM(network).attribute(inputs, target)[:, 0]
    assert_same(found, expected)
    assert found.amax() > 0.1


def test_fast_cam_of_a_network_that_is_used():
    network, inputs = calibrated("resnet18"), images(2, 64, 96, seed=1)
    with torch.no_grad():
        found = with_fast_cam(network, images(1, 64, 64))(inputs)[1]
    assert_same(found, FastCAM(network).attribute(inputs)[:, 0])
    assert found.amax() > 0.1


def head(*layers):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), *layers,
    ).eval()  # fmt: skip


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 5, 1), nn.Flatten()], "ends in .*conv2d, flatten"),
        (
            [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)],
            "more on the way: .*linear, relu, linear",
        ),
        ([nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 5)], "adaptive_max_pool2d, flatten"),
        ([nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)], "one and the same gradient"),
        (
            [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5), nn.Softmax(1)],
            "linear, softmax",
        ),
        ([], r"an output \(N, classes\), got \(2, 8, 12, 16\)"),
    ],
)
def test_other_heads_are_told_why(layers, message):
    with pytest.raises(HeadError, match=message):
        with_fast_cam(head(*layers), images())


def test_a_head_of_zeros_is_refused_where_its_map_would_be_0():
    """The gradient at every location equals the weights there, which says nothing: both are 0."""
    network = head(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    nn.init.zeros_(network[-1].weight)
    with pytest.raises(HeadError, match=r"linear layer '7' are 0.* load trained"):
        with_fast_cam(network, images())
    nn.init.ones_(network[-1].weight[:, :1])
    assert with_fast_cam(network, images())(images())[1].amax() > 0


def test_the_target_has_to_be_a_class():
    with pytest.raises(ValueError, match="target 5 is no class of the network, which has 5"):
        with_fast_cam(Functions().eval(), images(), target=5)


def test_what_cannot_be_given_a_map():
    network = Functions().eval()
    with pytest.raises(ValueError, match=r"'truncnormal_mean' is defined before the ReLU"):
        with_map(network, images(), statistic="truncnormal_mean")
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, got <function relu"):
        with_map(F.relu, images())
    with pytest.raises(ScalesError, match=r"torch\.jit module"):
        with_map(torch.jit.trace(network, images()), images())
    with pytest.raises(ValueError, match="expected 2 weights"):
        with_map(network, images(), weights=[1, 2, 3])
    with pytest.raises(ValueError, match=r"expected an image batch .* shape \[\(3, 8, 8\)\]"):
        with_map(network, images())(torch.rand(3, 8, 8))
