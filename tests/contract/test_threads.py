"""Threads with one model and one attributor: every result equals that of a single thread."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import pytest
import torch
from torch import nn

from fastsal import SMOEScale
from fastsal.networks.state import evaluating, evaluation_pass

THREADS = 4


# Not in the module, whose attributes are after a pass what they were before.
MET = set()


class Meeting(nn.Module):
    """A module in which all threads wait for each other, once a barrier is set.

    Where their calls run the network more or less often, they meet in the first pass alone.
    """

    barrier = None
    first_pass_only = False

    def forward(self, x):
        here = self, threading.get_ident()
        if self.barrier is not None and not (self.first_pass_only and here in MET):
            MET.add(here)
            self.barrier.wait(timeout=30)
        return x


def meeting_network(small_network):
    """A network in which threads meet before a layer, and between one and the next."""
    layers = list(small_network())
    for place in (7, 5, 2):
        layers.insert(place, Meeting())
    return nn.Sequential(*layers)


def meet(model, parties, first_pass_only=False):
    for module in model:
        if isinstance(module, Meeting):
            module.barrier = threading.Barrier(parties)
            module.first_pass_only = first_pass_only
    MET.clear()


def batches(images):
    return [images.roll(index, 0) * (1 - index / 10) for index in range(THREADS)]


def together(*calls):
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


@pytest.mark.parametrize("found", [False, True], ids=["finding scales", "scales found"])
def test_one_attributor(small_network, small_images, untouched, maker, found):
    model = meeting_network(small_network)
    expected = [maker(model).attribute(batch, 1) for batch in batches(small_images)]
    attributor = maker(model)
    if found:
        attributor.attribute(small_images, 1)
    # A pass in a model that is restored too early would change the buffers.
    model.train()
    meet(model, THREADS)
    with untouched(model, small_images):
        results = together(
            *[partial(attributor.attribute, batch, 1) for batch in batches(small_images)]
        )
    for result, wanted in zip(results, expected, strict=True):
        assert torch.equal(result, wanted)


def test_beside_the_models_other_users(small_network, small_images, untouched, method):
    """Two attributors, a prediction and a gradient at one time."""
    model = meeting_network(small_network)
    attributor, smoe = method(model), SMOEScale(model)

    def gradient():
        return torch.autograd.grad(model(small_images)[:, 2].sum(), model[0].weight)[0]

    calls = [
        partial(attributor.attribute, small_images, 1),
        partial(smoe.attribute, small_images),
        partial(model, small_images),
        gradient,
    ]
    expected = [call() for call in calls]
    meet(model, len(calls), first_pass_only=True)
    with untouched(model, small_images):
        results = together(*calls)
    for result, wanted in zip(results, expected, strict=True):
        assert torch.equal(result, wanted)


def test_an_error_in_one_thread_stays_there(small_network, small_images, untouched, method):
    model = meeting_network(small_network).train()
    attributor = method(model)
    expected = attributor.attribute(small_images, 1)
    meet(model, 2, first_pass_only=True)
    with untouched(model, small_images), ThreadPoolExecutor(2) as pool:
        wrong = pool.submit(attributor.attribute, small_images.flip(3), 99)
        right = pool.submit(attributor.attribute, small_images, 1)
        assert torch.equal(right.result(), expected)
        with pytest.raises(ValueError, match="target 99 does not fit"):
            wrong.result()


def test_the_last_to_leave_puts_the_modes_back(small_network):
    model = small_network().train()
    model[2].eval()
    first, second, part = ExitStack(), ExitStack(), ExitStack()
    first.enter_context(evaluating(model))
    part.enter_context(evaluating(model[1]))
    second.enter_context(evaluating(model))
    first.close()
    assert not any(module.training for module in model.modules())
    second.close()
    assert [module.training for module in model[:4]] == [True, False, False, True]
    part.close()
    assert [module.training for module in model[:4]] == [True, True, False, True]


def test_the_last_to_leave_puts_the_compiler_back(small_network):
    model = torch.compile(small_network(), backend="eager")
    root = nn.Sequential(model)
    before = torch._dynamo.eval_frame._stance
    first, second = ExitStack(), ExitStack()
    first.enter_context(evaluation_pass(root))
    second.enter_context(evaluation_pass(root))
    first.close()
    assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    second.close()
    assert torch._dynamo.eval_frame._stance == before


def test_an_attribution_inside_anothers_pass(small_network, small_images, untouched, method):
    """As where a user's hook asks for a map."""
    model = small_network()
    attributor = method(model)
    expected = attributor.attribute(small_images, 1)
    inner = []

    def ask(module, args, output):
        if not inner:
            inner.append(attributor)
            inner.append(method(model).attribute(small_images, 1))

    handle = model[4].register_forward_hook(ask)
    with untouched(model, small_images):
        assert torch.equal(attributor.attribute(small_images, 1), expected)
    handle.remove()
    assert torch.equal(inner[1], expected)


class Copied(nn.DataParallel):
    """`DataParallel` with one copy, which runs in a thread of its own, as on several devices."""

    def forward(self, *inputs):
        copies = {}
        for module in self.module.modules():
            copies[module] = module._replicate_for_data_parallel()
            copies[module]._parameters = module._parameters
        for module, copy in copies.items():
            copy._modules = {name: copies[child] for name, child in module._modules.items()}
        gradients, outputs = torch.is_grad_enabled(), []

        def run():
            with torch.set_grad_enabled(gradients):
                outputs.append(copies[self.module](*inputs))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return outputs[0]


def test_the_copies_of_data_parallel_are_read_in_their_threads(
    small_network, small_images, untouched, method
):
    model = small_network()
    expected = method(model, model[6]).attribute(small_images, 1)
    parallel = Copied(model)
    layer = parallel.module[6]
    with untouched(parallel, small_images):
        assert torch.equal(method(parallel, layer).attribute(small_images, 1), expected)


def test_what_came_before_a_relu_is_seen_in_the_copies_threads(
    small_network, small_images, untouched
):
    model = small_network(inplace=True)
    layers = [model[2], model[6]]
    options = {"statistic": "truncnormal_mean", "normalize": "none"}
    expected = SMOEScale(model, layers, **options).attribute(small_images)
    parallel = Copied(model)
    with untouched(parallel, small_images), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(SMOEScale(parallel, layers, **options).attribute(small_images), expected)
