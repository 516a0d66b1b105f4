"""Maps of a vision transformer while it trains."""

import pytest
import torch

from fastsal import SMOEScale, watch
from tests.fastsal.networks.test_depths import images, named, small

pytestmark = pytest.mark.filterwarnings("ignore:layer.* give negative activations")


def test_a_training_step_of_tokens_is_watched():
    network = small().train()
    with watch(network, every=1) as watched:
        for _ in range(3):
            network(images(32)).sum().backward()
    sample = watched.latest
    assert [scale.name for scale in sample.scales] == [
        named(f"blocks.{depth}") for depth in (1, 3, 5, 7)
    ]
    # Without dropout a training pass is one of evaluation.
    expected = SMOEScale(network.eval()).maps(images(32))
    torch.testing.assert_close(sample.combined, expected.combined, atol=1e-5, rtol=0)
    assert (sample.combined.flatten(1).std(1) > 0).all()
