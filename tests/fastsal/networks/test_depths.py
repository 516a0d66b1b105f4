"""Networks that keep one resolution of tokens: depths in place of scales."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from fastsal import FastCAM, GradCAM, MultiLayerCAM, ReciproCAM, SMOEScale, candidates, find_scales
from fastsal.networks.tokens.depths import evenly_spaced

pytestmark = pytest.mark.filterwarnings("ignore:layer.* give negative activations")


def images(side, count=2):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def small(**options):
    torch.manual_seed(0)
    given = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 8, "num_heads": 2}
    return timm.models.VisionTransformer(**given | {"num_classes": 5} | options).eval()


def mixer():
    torch.manual_seed(0)
    network = timm.models.mlp_mixer.MlpMixer(
        img_size=32, patch_size=8, num_blocks=8, embed_dim=24, num_classes=5
    )
    # Its head begins at 0.
    nn.init.normal_(network.head.weight)
    return network.eval()


def of_torchvision():
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=8, num_heads=2, hidden_dim=16, mlp_dim=32
    )
    # Its head begins at 0.
    nn.init.normal_(network.heads.head.weight)
    return network.eval()


# Of each: the names of its blocks, the tensor of a class activation map, tokens before the grid.
NETWORKS = {
    "a class token": (small, "blocks.{}", "blocks.6", 1),
    "a mean of tokens": (
        lambda: small(class_token=False, global_pool="avg"),
        "blocks.{}",
        "blocks.7",
        0,
    ),
    "registers": (lambda: small(reg_tokens=4, dynamic_img_size=True), "blocks.{}", "blocks.6", 5),
    "gated": (
        lambda: small(mlp_layer=timm.layers.SwiGLU, act_layer=nn.SiLU),
        "blocks.{}",
        "blocks.6",
        1,
    ),
    # What is pooled comes from the last norm.
    "a mixer": (mixer, "blocks.{}", "norm", 0),
    "torchvision": (
        of_torchvision,
        "encoder.layers.encoder_layer_{}",
        "encoder.layers.encoder_layer_6",
        1,
    ),
}
# The last block's output is that of the module that holds all blocks, which is named instead.
AROUND = {"blocks.7": "blocks", "encoder.layers.encoder_layer_7": "encoder.layers"}


def named(block):
    return AROUND.get(block, block)


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_at_evenly_spaced_depths_are_read(name):
    build, block, of_class, before = NETWORKS[name]
    network = build()
    scales = find_scales(network, images(32))
    assert [scale.name for scale in scales] == [
        named(block.format(depth)) for depth in (1, 3, 5, 7)
    ]
    assert {scale.strides for scale in scales} == {(8, 8)}
    assert {scale.layout.tokens[1:] for scale in scales} == {(before, 4, 4)}
    assert scales[-1].of_class.name == named(of_class)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_tokens_of_a_place_are_read_there(name):
    """The statistic of a location is that of its token, by hand from the module's output."""
    network = NETWORKS[name][0]()
    smoe = SMOEScale(network, statistic="mean", normalize="none")
    found = smoe.maps(images(32))
    for scale, of_scale in zip(found.scales, found.per_scale, strict=True):
        kept = []
        handle = scale.module.register_forward_hook(lambda _, __, out, kept=kept: kept.append(out))
        with torch.no_grad():
            network(images(32))
        handle.remove()
        tokens = kept[0][:, -16:]
        # No activation function made a stream of tokens.
        tokens = (tokens - tokens.mean(1, keepdim=True)).relu().mean(2)
        torch.testing.assert_close(of_scale, tokens.reshape(2, 4, 4), atol=1e-5, rtol=1e-5)


def test_the_default_is_four_blocks_by_name():
    network = small()
    blocks = [f"blocks.{depth}" for depth in (1, 3, 5, 7)]
    by_name = SMOEScale(network, blocks, statistic="centred_smoe_scale")
    torch.testing.assert_close(
        SMOEScale(network).attribute(images(32)), by_name.attribute(images(32))
    )


def test_a_bright_patch_is_bright_in_its_place():
    """Without attention to others, the token of the one patch with values differs alone."""
    network = small()
    for block in network.blocks:
        nn.init.zeros_(block.attn.proj.weight)
        nn.init.zeros_(block.attn.proj.bias)
    nn.init.zeros_(network.pos_embed)
    network.norm = nn.Identity()
    picture = torch.zeros(1, 3, 32, 32)
    picture[:, :, 8:16, 16:24] = torch.rand(1, 3, 8, 8)
    maps = SMOEScale(network, normalize="none").maps(picture)
    for of_depth in maps.per_scale:
        odd = of_depth - of_depth[0, 0, 0]
        assert odd[0, 1, 2].abs() > 0
        odd[0, 1, 2] = 0
        torch.testing.assert_close(odd, torch.zeros_like(odd), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_class_depends_on_the_tensor_of_a_class_activation_map(name):
    network = NETWORKS[name][0]()
    cam = GradCAM(network)
    maps = cam.attribute(images(32), relu_attributions=False)
    assert maps.shape == (2, 1, 4, 4)
    # By hand: autograd's gradient of the predicted class by that layer's output.
    layer = find_scales(network, images(32))[-1].of_class.module
    kept = []
    handle = layer.register_forward_hook(lambda _, __, out: kept.append(out))
    logits = network(images(32))
    handle.remove()
    (gradient,) = torch.autograd.grad(logits.amax(1).sum(), kept[0])
    grid = slice(kept[0].shape[1] - 16, None)
    weights = gradient[:, grid].mean(1, keepdim=True)
    by_hand = (weights * kept[0][:, grid]).sum(2).reshape(2, 1, 4, 4)
    torch.testing.assert_close(maps, by_hand.detach())
    assert by_hand.abs().max() > 0


@pytest.mark.filterwarnings("ignore:.* is 0 everywhere")
@pytest.mark.parametrize("make", [FastCAM, MultiLayerCAM, ReciproCAM])
def test_maps_of_a_class_have_the_places_of_tokens(make):
    network = small()
    found = make(network).attribute(images(32), 1)
    assert found.shape in ((2, 3, 32, 32), (2, 1, 4, 4))
    assert found.isfinite().all()
    assert found.flatten(1).std(1).min() > 0


def test_recipro_cam_keeps_one_token_and_those_beside_the_grid():
    network, picture = small(), images(32, 1)
    layer = network.blocks[6]
    found = ReciproCAM(network, layer).attribute(picture, 2)
    by_hand = []
    for place in range(16):
        mask = torch.zeros(17)
        mask[[0, 1 + place]] = 1
        handle = layer.register_forward_hook(lambda _, __, out, mask=mask: out * mask[:, None])
        with torch.no_grad():
            by_hand.append(network(picture).softmax(1)[0, 2])
        handle.remove()
    torch.testing.assert_close(found.flatten(), torch.stack(by_hand))


def test_late_depths_are_the_last_two():
    maps = SMOEScale(small(), "late").maps(images(32))
    assert [scale.name for scale in maps.scales] == ["blocks.5", "blocks"]


def test_the_outputs_of_all_blocks_are_candidates():
    found = [one for one in candidates(small(), images(32)) if not one.scale.layer_input]
    blocks = [one for one in found if one.scale.name.startswith("blocks")]
    assert [one.scale.name for one in blocks] == [named(f"blocks.{depth}") for depth in range(8)]
    assert [one.chosen for one in blocks] == [False, True] * 4


def test_layers_that_are_given_are_read_as_they_are():
    network = small()
    maps = SMOEScale(network, ["blocks.2", "blocks.7"]).maps(images(32))
    assert [scale.name for scale in maps.scales] == ["blocks.2", "blocks.7"]
    assert GradCAM(network, "blocks.3").attribute(images(32)).shape == (2, 1, 4, 4)


class Inverted(nn.Module):
    """A block of ConvNeXt: channels come last inside it alone."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x):
        return x + self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("block", [Inverted, lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.GELU())])
def test_a_convolutional_network_of_one_resolution_has_one_scale(block):
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 4), *(block() for _ in range(4)))
    with pytest.warns(UserWarning, match="found 1 spatial scale"):
        (scale,) = find_scales(network, images(32))
    assert scale.of_class is None


@pytest.mark.parametrize("count", range(1, 30))
def test_evenly_spaced_depths_end_with_the_last(count):
    chosen = evenly_spaced(range(1, count + 1))
    assert chosen[-1] == count
    assert len(chosen) == len(set(chosen)) == min(4, count)
    gaps = [after - before for before, after in zip([0, *chosen], chosen, strict=False)]
    assert max(gaps) - min(gaps) <= 1
