"""Maps of networks with hooks, replaced forwards and other classes: `with_map` is `SMOEScale`."""

import copy
import functools
import io
import pickle
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as nn_module

from fastsal import SMOEScale, find_scales
from fastsal.export.model import with_fast_cam, with_map

pytestmark = pytest.mark.heavy


def images(count=2, height=16, width=16, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def seq():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        )


def off(network, layers=None, inputs=None):
    """How far the map is off that of `SMOEScale`, for other images than the example."""
    inputs = images(seed=1) if inputs is None else inputs
    module = with_map(network, images(1), layers=layers)
    with torch.no_grad():
        found = module(inputs)[1]
    return (found - SMOEScale(network, layers).maps(inputs).combined).abs().max().item()


# What the user's hooks make is the layer's tensor.

WEIGHTS = torch.linspace(0, 1, 16)


def weighted(tensor):
    return tensor * WEIGHTS[: tensor.shape[-1]]


def pruned(network):
    from torch.nn.utils import prune

    prune.l1_unstructured(network[3], "weight", 0.5)


HOOKS = {
    "hook": lambda n: n[1].register_forward_hook(lambda _, __, o: weighted(o)),
    "first": lambda n: n[1].register_forward_hook(lambda _, __, o: weighted(o), prepend=True),
    "always": lambda n: n[5].register_forward_hook(lambda _, __, o: weighted(o), always_call=True),
    "keywords": lambda n: n[5].register_forward_hook(
        lambda _, __, ___, o: weighted(o), with_kwargs=True
    ),
    "two": lambda n: [n[1].register_forward_hook(lambda _, __, o: weighted(o)) for _ in "ab"],
    "in place": lambda n: n[1].register_forward_hook(lambda _, __, o: o.mul_(WEIGHTS)),
    "before": lambda n: n[1].register_forward_pre_hook(lambda _, args: (weighted(args[0]),)),
    "on the network": lambda n: n.register_forward_pre_hook(lambda _, args: (weighted(args[0]),)),
    "weight norm": lambda n: nn.utils.parametrizations.weight_norm(n[3]),
    "old weight norm": lambda n: nn.utils.weight_norm(n[3]),
    "spectral norm": lambda n: nn.utils.parametrizations.spectral_norm(n[3]),
    "pruned": pruned,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", HOOKS)
def test_hooks_of_the_user(name, training, untouched):
    network, inputs = seq().train(training), images()
    HOOKS[name](network)
    # Such weights are made at each pass.
    if name == "spectral norm":
        network.eval()
    assert off(network) < 1e-5
    if name not in ("pruned", "old weight norm"):
        with untouched(network, inputs):
            with_map(network, inputs)
    # A hook that is put on or taken off afterwards is the model's alone.
    module = with_map(network, inputs)
    with torch.no_grad():
        before = module(inputs)[1]
        network[5].register_forward_hook(lambda _, __, output: output.flip(3))
        assert torch.equal(module(inputs)[1], before)


def test_a_hook_on_all_modules():
    handle = nn_module.register_module_forward_hook(
        lambda module, _, output: weighted(output) if isinstance(module, nn.ReLU) else None
    )
    try:
        assert off(seq()) < 1e-5
    finally:
        handle.remove()


def test_a_hook_that_keeps_what_it_sees_for_later():
    class Keeping(nn.Module):
        """Multiplies the last stage by a gate that a hook kept from the first."""

        def __init__(self):
            super().__init__()
            self.net = seq()
            self.net[0].register_forward_hook(self.keep)

        def keep(self, _, __, output):
            self.kept = F.avg_pool2d(output.sigmoid(), 2).mean(1, keepdim=True)

        def forward(self, x):
            x = self.net[:3](x)
            return self.net[3:](x * self.kept)

    network = Keeping()
    module = with_map(network, images())
    network(images(seed=5))
    with torch.no_grad():
        found = module(images(seed=1))[1]
    expected = SMOEScale(network).maps(images(seed=1)).combined
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


# A replaced `forward`.


def by_closure(module):
    old = module.forward
    module.forward = lambda x: old(x) * 2 if x.dim() == 4 else old(x)


def by_method(module):
    module.forward = types.MethodType(lambda self, x: weighted(type(self).forward(self, x)), module)


def by_partial(module):
    module._old_forward = module.forward

    def new(module, *args, **kwargs):
        return module._old_forward(*args, **kwargs)

    module.forward = functools.update_wrapper(functools.partial(new, module), module._old_forward)


def by_default(module):
    def forward(x, *, own=module.forward):
        return own(x)

    module.forward = forward


class Called:
    def __init__(self, module):
        self.module, self.old = module, module.forward

    def __call__(self, x):
        assert isinstance(self.module, nn.Module)
        return self.old(x)


def by_object(module):
    module.forward = Called(module)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("replace", [by_closure, by_method, by_partial, by_default, by_object])
@pytest.mark.parametrize("where", ["the network", "a read layer", "a norm", "all"])
def test_a_forward_that_was_replaced(replace, where, training, untouched):
    network = seq().train(training)
    if replace is by_method and where in ("the network", "all"):
        pytest.skip("the output is no image")
    parts = {"the network": [network], "a read layer": [network[1]], "a norm": [network[4]]}
    for part in parts.get(where, list(network.modules())):
        replace(part)
    assert off(network) < 1e-5
    inputs = images()
    with untouched(network, inputs):
        module = with_map(network, inputs)
        with torch.no_grad():
            module(inputs)


def test_modules_in_lists_dicts_and_methods():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = seq()
            self.stages = [self.net[:3], self.net[3:6]]
            self.parts = {"head": (self.net[6:], None)}
            self.run = self.run_all

        def run_all(self, x):
            for stage in self.stages:
                x = stage(x)
            return self.parts["head"][0](x)

        def forward(self, x):
            return self.run(x)

    assert off(Listed()) < 1e-5


def test_a_network_that_a_copy_cannot_leave():
    class Reaching(nn.Module):
        """Runs its stages by a variable of the module, which leads to the model itself."""

        def __init__(self):
            super().__init__()
            self.net = seq()

        def forward(self, x):
            return REACHED[0](x)

    network = Reaching().train()
    REACHED[:] = [network.net]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"module 'net' of the model itself runs in the network's"):
        with_map(network, images())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


REACHED = []


# Other classes of modules.


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda net: torch.fx.symbolic_trace(net),
        lambda net: torch.export.unflatten(torch.export.export(net, (images(),))),
        lambda net: nn.Sequential(torch.fx.symbolic_trace(net[:6]), net[6:]),
        lambda net: nn.Sequential(torch.compile(net[:6], backend="eager"), net[6:]),
        lambda net: nn.DataParallel(net),
    ],
    ids=["fx", "unflattened export", "fx in a network", "compiled part", "DataParallel"],
)
def test_modules_that_were_traced_or_wrapped(make):
    network = seq().eval()
    expected = SMOEScale(network).maps(images(2)).combined
    with torch.no_grad():
        found = with_map(make(network), images(2))(images(2))[1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_an_exported_program_is_refused_in_one_sentence():
    program = torch.export.export(seq().eval(), (images(),)).module()
    with pytest.raises(
        ValueError,
        match=r"^the last tensor of stride 1 is made by functions after layer '_guards_fn', [^;]*; "
        r"put them into a module, such as torch\.nn\.Identity around their result, give layers, "
        r"or, of a program of torch\.export, give what torch\.export\.unflatten makes of it$",
    ):
        with_map(program, images())


class Summing(nn.Module):
    """A sum whose ReLU is a function, perhaps with a module around its result."""

    def __init__(self, around):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.side = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.down, self.relu = nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()
        self.around = around

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = self.around(F.relu(x + self.side(x)))
        return self.relu(self.down(F.max_pool2d(x, 1))).mean((2, 3))


def as_it_is(x):
    return x


def test_a_tensor_that_functions_make_is_refused_and_read_from_a_module_around_it():
    bare, inside = Summing(as_it_is).eval(), Summing(nn.Identity()).eval()
    inputs = images(seed=1)
    expected = SMOEScale(bare).maps(inputs).combined
    with pytest.raises(ValueError, match="made by functions after layer 'side', which an exported"):
        with_map(bare, images())
    with torch.no_grad():
        found = with_map(inside, images())(inputs)[1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert off(bare, ["relu", "down"]) < 1e-5


def test_a_distributed_network_trains_on(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    try:
        network = nn.parallel.DistributedDataParallel(seq())
        alone = seq()
        for model in (network, alone):
            torch.manual_seed(0)
            model(images()).square().sum().backward()
            if model is network:
                module = with_map(model, images())
                with torch.no_grad():
                    module(images())
            model(images(seed=3)).square().sum().backward()
        for ours, theirs in zip(network.parameters(), alone.parameters(), strict=True):
            assert torch.equal(ours.grad, theirs.grad)
    finally:
        torch.distributed.destroy_process_group()


def test_a_scripted_layer_is_told():
    network = seq().eval()
    network[1] = torch.jit.script(network[1])
    with pytest.raises(
        ValueError, match="ReLU is a scripted or traced module, which calls no hooks"
    ):
        with_map(network, images(), layers=["1", "5"])


# Copies and files of the module itself.

COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": lambda module: torch.load(saved(module), weights_only=False),
}


def saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return file


def hooked(network):
    network[1].register_forward_hook(doubled)
    return network


def doubled(_, __, output):
    return output * 2


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize(
    "network",
    [seq, lambda: hooked(seq()), lambda: torch.fx.symbolic_trace(seq())],
    ids=["plain", "hooked", "fx"],
)
@pytest.mark.parametrize("options", [{}, {"statistic": "mean"}, {"lovi": True}], ids=str)
def test_the_module_is_copied_and_saved(make, network, options):
    model = network().eval()
    for module in (with_map(model, images(), **options), with_fast_cam(model, images())):
        other = make(module)
        with torch.no_grad():
            for ours, theirs in zip(module(images(seed=2)), other(images(seed=2)), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
            # The copy goes its own way.
            next(other.model.parameters()).neg_()
            assert (other(images())[1] - module(images())[1]).abs().max() > 0.01


# How often a layer runs, and for which image.


class Halving(nn.Module):
    """A block that runs as often as the image's size says."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem, self.block = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.relu(self.stem(x))
        while x.shape[-1] > 4:
            x = self.relu(self.block(x))
        return x.mean((2, 3))


def test_a_layer_that_runs_as_often_as_the_size_says():
    network = Halving().eval()
    module = with_map(network, images())
    with pytest.raises(
        ValueError, match=r"'relu' ran 4 time\(s\) on this input and 3 time\(s\) on"
    ):
        module(images(1, 32, 32))
    # The last call is the last, however many there are.
    large = images(1, 32, 32)
    assert off(network, ["stem", "relu"], large) < 1e-5


def test_an_early_exit_is_told():
    class Leaving(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = seq()

        def forward(self, x):
            x = self.net[:3](x)
            return x.mean((2, 3)) if x.shape[-1] < 4 else self.net[3:](x)

    module = with_map(Leaving().eval(), images())
    with pytest.raises(
        ValueError, match=r"'net.5' ran 0 time\(s\) on this input and 1 time\(s\) on"
    ):
        module(images(1, 4, 4))


def test_a_layer_whose_forward_is_called_is_told():
    class Direct(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = seq()

        def forward(self, x):
            for layer in self.net:
                x = layer.forward(x)
            return x

    with pytest.raises(ValueError, match=r"'net\.1' did not run as a module .* by `layer\.forward"):
        with_map(Direct(), images(), layers=["net.1", "net.5"])


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.other = seq(), seq()

    def forward(self, one, other, third=None):
        code = self.encoder(one) - self.encoder(other)
        return code if third is None else code + self.other(third)


@pytest.mark.parametrize("sizes", [(16, 16), (16, 24), (24, 16)])
def test_a_siamese_network_has_the_map_of_its_first_image(sizes):
    network = Siamese().eval()
    pair = tuple(images(2, size, size, seed=size) for size in sizes)
    module = with_map(network, pair, layers=["encoder.1", "encoder.5"])
    given = tuple(image.flip(3) for image in pair)
    with torch.no_grad():
        found = module(*given)[1]
    expected = SMOEScale(network.encoder, ["1", "5"]).maps(given[0]).combined
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_layer_of_another_image_is_told():
    network, three = Siamese().eval(), tuple(images(seed=seed) for seed in range(3))
    with pytest.raises(ValueError, match=r"layer 'other\.1' does not see the first image"):
        with_map(network, three, layers=["encoder.1", "other.1"])
    scale = find_scales(network.encoder, three[0])[0]
    second = type(scale)(**{**vars(scale), "call": 1})
    with pytest.raises(ValueError, match="layer '1' does not see the first image"):
        with_map(network, three, layers=[second])


class PreparesInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = seq()

    def forward(self, x):
        return self.net(x.sub_(0.5).div_(0.25))


@pytest.mark.parametrize("layers", [None, ["net.1", "net.5"]])
def test_the_example_is_not_written_to(layers):
    network, example = PreparesInPlace().eval(), images()
    before = example.clone()
    module = with_map(network, example, layers=layers)
    with_fast_cam(network, example, layers=layers)
    assert torch.equal(example, before)
    with torch.no_grad():
        found = module(example)[1]
    expected = SMOEScale(network.net).maps((before - 0.5) / 0.25).combined
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
