"""Memory: nothing is kept from one call to the next, and 1,000 images take no more than one."""

import gc
import weakref

import psutil
import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastsal import SMOEScale, SmoothGradCAMPlusPlus

pytestmark = pytest.mark.heavy


class Storages(TorchDispatchMode):
    """Notes the memory of every tensor that is made, autograd's own too."""

    def __init__(self):
        super().__init__()
        self.noted = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        # A view of a tensor that existed before, such as a weight, is not new memory.
        given = {storage.cdata for storage in self.storages((args, kwargs))}
        for storage in self.storages(result):
            if storage.cdata not in given:
                self.noted[storage.cdata] = storage
        return result

    @staticmethod
    def storages(tree):
        tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
        return [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]

    def alive(self):
        self.noted = {key: storage for key, storage in self.noted.items() if not storage.expired()}
        return len(self.noted)


@pytest.fixture
def without_collector():
    """Memory is freed with the last reference: no cycles that wait for the collector."""
    with Storages():
        # The first use of such a mode loads a part of torch, and leaves cycles.
        torch.ones(1).add(1)
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_of_a_call_its_result_alone_remains(small_network, small_images, maker, without_collector):
    model = small_network()
    attributor = maker(model)
    # Of the network's buffers copies are kept, by which a pass that writes to them is undone.
    copies = len(list(model.buffers()))
    with Storages() as storages:
        result = attributor.attribute(small_images, 1)
        assert len(storages.noted) > 10
        assert storages.alive() == 1 + copies
        result = attributor.attribute(small_images, 1)
        assert storages.alive() == 1 + copies
        assert result.untyped_storage()._cdata in storages.noted
        del result
        assert storages.alive() == copies
        with pytest.raises(ValueError, match="does not fit"):
            attributor.attribute(small_images, 99)
        assert storages.alive() == copies


def test_activations_are_gone_with_the_call(small_network, small_images, maker):
    model = small_network()
    references = []
    for module in model:
        module.register_forward_hook(lambda _, __, out: references.append(weakref.ref(out)))
    attributor = maker(model)
    attributor.attribute(small_images, 1)
    assert len(references) >= 2 * len(model)
    assert not any(reference() is not None for reference in references)


def test_a_scales_activations_are_gone_before_the_next_ones(small_network, small_images):
    model = small_network()
    shallow, alive = [], []
    model[2].register_forward_hook(lambda _, __, out: shallow.append(weakref.ref(out)))
    model[6].register_forward_hook(lambda *_: alive.append(shallow[-1]() is not None))
    SMOEScale(model, [model[2], model[6]]).attribute(small_images)
    assert alive == [False]


def tensors():
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def tiny_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 8, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 5),
        )
        nn.init.normal_(net[6].weight, 0.1, 0.05)
    return net


def test_a_thousand_images(maker):
    """No more tensors, Python objects or process memory; a batch equals the loop."""
    # In double precision, since rounding in single precision differs with the batch size.
    images = torch.rand(1000, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    targets = torch.arange(1000) % 5
    options = {"samples": 2} if maker is SmoothGradCAMPlusPlus else {}
    attributor = maker(tiny_network().double(), **options)
    batch = attributor.attribute(images, targets)
    loop = torch.zeros_like(batch)
    counts = {}
    for index in range(1000):
        image, target = images[index : index + 1], targets[index : index + 1]
        loop[index : index + 1].copy_(attributor.attribute(image, target))
        if index in (199, 999):
            gc.collect()
            counts[index] = tensors(), len(gc.get_objects()), psutil.Process().memory_info().rss
    torch.testing.assert_close(loop, batch, rtol=1e-9, atol=1e-12)
    assert counts[999][0] == counts[199][0]
    # The interpreter itself makes and frees a few objects.
    assert counts[999][1] - counts[199][1] < 80
    # A map kept of each would be 1.2 MiB, its activations 4 MiB.
    assert counts[999][2] - counts[199][2] < 2**19
