"""Passes that fail, repeat or nest: what `watch` counts, reads and leaves."""

import contextlib
import copy
import io
import pickle
import subprocess
import sys
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from fastsal import SMOEScale, watch

pytestmark = pytest.mark.training


def branch(classes=5):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, classes),
    )


@pytest.fixture
def network():
    torch.manual_seed(0)
    return branch()


def views(count=2, images=3, size=16):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(images, 3, size, size, generator=generator) for _ in range(count)]


def registered(model):
    return [
        len(getattr(part, kind))
        for part in model.modules()
        for kind in vars(part)
        if "hook" in kind and isinstance(getattr(part, kind), dict)
    ]


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    assert torch._C._len_torch_function_stack() == 0


def expected(network, image):
    return SMOEScale(network, ["1", "4"]).maps(image).combined


# The user's own errors.

NAMED = {"found": {}, "given": {"layers": ["1", "4"]}, "the whole": {"layers": ["1", ""]}}


class OutOfMemoryError(RuntimeError):
    """Stands for a GPU's."""


@pytest.mark.parametrize("options", NAMED.values(), ids=NAMED)
@pytest.mark.parametrize("where", ["first", "last", "hook", "hook of the model", "pre-hook"])
def test_an_error_of_the_first_pass_comes_as_it_is(network, options, where):
    network = network[:5]
    large, image = views(1, 8)[0], views(1)[0]

    def fails(*given):
        if len(given[-1] if torch.is_tensor(given[-1]) else given[1][0]) > 4:
            raise OutOfMemoryError("tried to allocate")

    if where == "hook of the model":
        network.register_forward_hook(fails)
    elif where == "pre-hook":
        network.register_forward_pre_hook(fails)
    else:
        network[{"first": 0, "last": 4, "hook": 1}[where]].register_forward_hook(fails)
    before, wanted, errors = registered(network), network(image), []
    with watch(network, 3, **options) as w:
        for batch in (large, large, image, image):
            try:
                output = network(batch)
            except OutOfMemoryError as error:
                errors.append((str(error), error.__context__))
                # The retry is within the handler, as such loops are.
                assert torch.equal(network(image), wanted)
        assert torch.equal(output, wanted)
        assert errors == [("tried to allocate", None)] * 2
        # Two passes failed, two made up for them, two more came; of what fails in a hook before
        # its own, `watch` does not know.
        assert w.passes == (4 if where == "pre-hook" else 6)
        assert w.latest is not None
    assert registered(network) == before


def test_a_pass_that_is_due_and_fails_is_made_up_for(network):
    image, wrong = views(1)[0], torch.rand(2, 4, 16, 16)
    samples = []
    with watch(network, 4, samples.append, layers=["1", "4"]):
        for batch in [image, image, image, image, wrong, image, image, image, image]:
            with contextlib.suppress(RuntimeError):
                network(batch)
    assert [sample.step for sample in samples] == [0, 5, 8]


@pytest.mark.parametrize("options", NAMED.values(), ids=NAMED)
def test_gradients_of_each_image_by_vmap(network, options):
    torch.manual_seed(0)
    network = nn.Sequential(*branch()[:5], nn.AdaptiveAvgPool2d(1))
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    image = views(1)[0]

    def loss(parameters, one):
        return torch.func.functional_call(network, parameters, (one[None],)).square().sum()

    of_each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))
    wanted = of_each(parameters, image)
    with warnings.catch_warnings(record=True) as caught, watch(network, 1, **options) as w:
        warnings.simplefilter("always")
        for _ in range(2):
            for name, found in of_each(parameters, image).items():
                assert torch.equal(found, wanted[name])
        assert w.latest is None
        # The parameters are others, and values are there: such a pass is read.
        for _ in range(2):
            torch.func.functional_call(network, parameters, (image,))
        assert w.passes == 4
        assert w.latest.step == 3
    assert [str(one.message)[:44] for one in caught] == [
        "fastsal.watch: passes inside a transform of "
    ]


def test_an_error_inside_vmap_comes_as_it_is():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    image = views(1)[0]
    with warnings.catch_warnings(), watch(network, 1):
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError, match="running_mean or running_var"):
            torch.func.vmap(lambda one: network(one[None]))(image)


def test_an_interrupt_that_is_caught_ends_its_pass_alone(network):
    image = views(1)[0]
    stops = iter([True, False, False, False])

    def stop(*_):
        if next(stops):
            raise KeyboardInterrupt

    network[3].register_forward_hook(stop)
    with watch(network, 1) as w:
        with pytest.raises(KeyboardInterrupt):
            network(image)
        network(image)
        network(image)
        assert w.latest.step == 2
        assert torch._C._len_torch_function_stack() == 0
    assert sum(registered(network)) == 1


def test_a_call_within_a_pass_that_fails_early_does_not_end_the_pass(network):
    class Trying(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network

        def forward(self, x):
            if x.shape[1] == 3:
                with contextlib.suppress(ValueError):
                    self(x[:, :2])
            return self.net(x)

    def refuse(_, args):
        if args[0].shape[1] != 3:
            raise ValueError("three channels")

    model, image = Trying(), views(1)[0]
    model.register_forward_pre_hook(refuse)
    with watch(model, 1, layers=["net.1", "net.4"]) as w:
        model(image)
    assert torch.equal(w.latest.combined, expected(network, image))


# Two who watch, sinks, copies.


@pytest.mark.parametrize("options", [({}, {}), ({}, NAMED["given"]), (NAMED["given"],) * 2])
def test_two_watches_count_and_read_alike(network, options):
    image = views(1)[0]
    first, second = options
    wanted = expected(network, image)
    with watch(network, 1, **first) as one, watch(network, 2, **second) as other:
        for _ in range(4):
            network(image)
            assert torch._C._len_torch_function_stack() == 0
        assert one.passes == other.passes == 4
        assert (one.latest.step, other.latest.step) == (3, 2)
        for w in (one, other):
            assert torch.equal(w.latest.combined, wanted)
    assert sum(registered(network)) == 0


def test_watches_that_end_in_any_order(network):
    image = views(1)[0]
    one, other = (watch(network, 1, layers=["1", "4"]) for _ in range(2))
    one.begin(), other.begin(), network(image), one.pause(), network(image)
    one.begin(), other.pause(), network(image), one.pause(), network(image)
    assert (one.passes, other.passes) == (2, 2)
    assert sum(registered(network)) == 0


def test_a_network_is_watched_and_so_is_its_backbone():
    torch.manual_seed(0)
    whole = nn.Sequential(branch()[:5], nn.Flatten(), nn.Linear(16 * 64, 5))
    image = views(1)[0]
    wanted = expected(whole[0], image)
    with watch(whole, 1) as outer, watch(whole[0], 1) as inner:
        for _ in range(3):
            whole(image)
    assert (outer.passes, inner.passes) == (3, 3)
    for w in (outer, inner):
        assert torch.equal(w.latest.combined, wanted)


def test_a_wrapper_and_the_module_in_it(network):
    image = views(1)[0]
    wrapped = nn.DataParallel(network)
    with watch(wrapped, 1) as outer, watch(network, 1) as inner:
        for _ in range(2):
            wrapped(image)
    assert (outer.passes, inner.passes) == (2, 2)
    assert torch.equal(outer.latest.combined, inner.latest.combined)


def test_a_sink_that_calls_the_model(network):
    image = views(1)[0]
    samples = []

    def validates(sample):
        # Both as itself, and as fastsal reads it.
        network(sample.images)
        samples.append((sample, SMOEScale(network).attribute(sample.images)))

    with watch(network, 1, validates) as w, watch(network, 1) as other:
        for _ in range(4):
            network(image)
        assert w.passes == other.passes == 4
    assert [sample.step for sample, _ in samples] == [1, 2, 3]
    assert torch.equal(samples[0][0].combined, samples[0][1][:, 0])
    assert torch.equal(other.latest.combined, w.latest.combined)


def test_a_setting_that_is_wrong_for_one_is_read_by_the_other(network):
    def fails(_):
        raise ValueError("a wrong statistic")

    image = views(1)[0]
    with watch(network, 1, layers=["1"], statistic=fails), watch(network, 1, layers=["4"]) as w:
        with pytest.raises(ValueError, match="a wrong statistic"):
            network(image)
        assert w.latest.step == 0
    assert sum(registered(network)) == 0


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": lambda model: torch.load(io.BytesIO(saved(model)), weights_only=False),
}


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    return file.getvalue()


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("when", ["between passes", "in a hook", "in a sink"])
def test_a_copy_that_is_made_while_its_model_is_watched(network, make, when):
    image, copies = views(1)[0], []

    def take(*_):
        # Without the hook that takes it.
        handle.remove()
        copies.append(make(network))

    handle = network[3].register_forward_hook(take if when == "in a hook" else lambda *_: None)
    with watch(network, 1, take if when == "in a sink" else None, layers=["1", "4"]) as w:
        network(image)
        if when == "between passes":
            take()
        assert w.passes == 1
        (other,) = copies
        assert torch.equal(other(image), network(image))
        assert w.passes == 2
        with watch(other, 1, layers=["1", "4"]) as again:
            other(image)
        assert (w.passes, again.passes) == (2, 1)
        assert torch.equal(again.latest.combined, w.latest.combined)


def test_a_checkpoint_loads_where_fastsal_is_not_installed(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU())
    with watch(network):
        network(torch.ones(1, 3, 8, 8))
        torch.save(network, tmp_path / "model.pt")
    script = (
        "import sys; sys.modules['fastsal'] = None\n"
        "import torch\n"
        f"model = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        "print(model(torch.ones(1, 3, 8, 8)).sum().item())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == network(torch.ones(1, 3, 8, 8)).sum().item()


# Passes that PyTorch repeats, traces or runs elsewhere.


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("options", [NAMED["found"], NAMED["given"]], ids=["found", "given"])
@pytest.mark.parametrize("whole", [True, False])
def test_gradient_checkpointing_repeats_no_pass(network, reentrant, options, whole):
    class Saving(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network

        def forward(self, x):
            return checkpoint(self.net, x, use_reentrant=reentrant)

    image = views(1)[0].requires_grad_()
    alone = copy.deepcopy(network)
    samples = []
    model = network if whole else Saving()
    with watch(model, 1, samples.append, **(options if whole else {})) as w:
        for _ in range(3):
            output = checkpoint(model, image, use_reentrant=reentrant) if whole else model(image)
            output.sum().backward()
            alone(image).sum().backward()
    assert w.passes == 3
    assert [sample.step for sample in samples] == ([0, 1, 2] if options and whole else [1, 2])
    for ours, theirs in zip(network.parameters(), alone.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    assert torch.equal(samples[0].combined, expected(network, image.detach()))


def test_a_tracer_s_passes_are_not_those_of_a_training(network):
    image = views(1)[0]
    network.eval()
    with watch(network, 1, layers=["1", "4"]) as w:
        program = torch.export.export(network, (image,), strict=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(network, image, check_trace=False)
        assert w.passes == 0
        network(image)
        assert w.passes == 1
    assert torch.allclose(program.module()(image), traced(image))
    assert not [node for node in traced.graph.nodes() if "log" in node.kind()]


def test_a_network_that_calls_itself():
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = branch()

        def forward(self, x):
            small = self(F.avg_pool2d(x, 2)) if x.shape[-1] > 8 else 0
            return self.body(x) + small

    torch.manual_seed(0)
    model, image = Pyramid(), views(1, size=32)[0]
    layers = ["body.1", "body.4"]
    with watch(model, 1, layers=layers) as w:
        model(image)
    # As without: the last call of a layer is that of the largest image.
    assert torch.equal(w.latest.images, image)
    assert torch.equal(w.latest.combined, SMOEScale(model, layers).maps(image).combined)


def test_threads_end_their_own_passes(network):
    image, other = views(2)
    started, going = threading.Event(), threading.Event()

    def waits(_, given, __):
        if torch.equal(given[0], image):
            started.set()
            going.wait(10)

    network[0].register_forward_hook(waits)
    going.set()
    wanted = expected(network, image)
    going.clear(), started.clear()
    with watch(network, 1, layers=["1", "4"]) as w:
        thread = threading.Thread(target=network, args=(image,))
        thread.start()
        started.wait(10)
        # Another request comes and goes while the first is read.
        network(other)
        assert w.latest is None
        going.set()
        thread.join()
        assert w.passes == 2
    assert torch.equal(w.latest.images, image)
    assert torch.equal(w.latest.combined, wanted)


def test_an_early_exit_is_told_as_what_it_is(network):
    class Leaving(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network

        def forward(self, x):
            if x.mean() > 1:
                return self.net[:3](x)
            return self.net[3].forward(self.net[:3](x)) if x.mean() < 0 else self.net(x)

    model, image = Leaving(), views(1)[0]
    layers = ["net.1", "net.4"]
    message = r"'net\.4' did not run as a module in this pass"
    for other in (image + 2, image - 2):
        with watch(model, 1, layers=layers), pytest.raises(ValueError, match=message):
            model(other)
    with watch(model, 1, layers=layers) as w:
        model(image)
        with pytest.warns(UserWarning, match="early exit"):
            model(image + 2)
        model(image)
    assert w.latest.step == 2
