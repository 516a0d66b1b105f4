"""What is asked of the maps of one generated network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from fastsal import FastCAM, SMOEScale
from fastsal.maps.result import Maps
from tests.generated.networks import Case, objects
from tests.generated.reference import Walk, centres, place_of, top, walk

# Of maps in [0, 1]: rounding of float32 statistics, or of activations that a batch computes in
# another order than a single image.
ROUNDING = 2e-3
OF_BATCHES = {"float64": 2e-3, "float32": 2e-3, "bfloat16": 0.15, "float16": 0.03}


@dataclass(frozen=True)
class Read:
    """What a call gave, the images after it, and the network's state before and after."""

    smoe: SMOEScale
    maps: Maps
    images: Tensor
    before: dict[str, object]
    after: dict[str, object]


@dataclass
class Trial:
    """A case with its images and the walk through it by hand."""

    case: Case
    centres: list[tuple[float, float]]
    images: Tensor
    walk: Walk

    @classmethod
    def of(cls, case: Case) -> Trial:
        places = centres(case)
        images = objects(case, places)
        return cls(case, places, images, walk(case, images))

    @cached_property
    def read(self) -> Read:
        """The maps, from one call on a network whose parameters have gradients or are frozen."""
        net, _ = self.case.network()
        first = next(net.parameters())
        first.grad = torch.ones_like(first)
        for number, parameter in enumerate(net.parameters()):
            parameter.requires_grad_(number % 3 != 1)
        before, images, smoe = _state(net), self.images.clone(), self.smoe(net)
        return Read(smoe, smoe.maps(images), images, before, _state(net))

    @cached_property
    def expected(self) -> list[np.ndarray]:
        return [last.map(self.case.statistic) for last in self.walk.lasts]

    def shows(self) -> bool:
        """True if by hand, too, every scale is clear, and clearly highest at the object."""
        if not self.walk.deep:
            return False
        for last, maps in zip(self.walk.lasts, self.expected, strict=True):
            if min(maps.shape[1:]) < 2 or not last.clear:
                return False
            for number, values in enumerate(maps):
                image, view = divmod(number, len(last.grids))
                if np.ptp(values) < 0.3:
                    return False
                for zoom in (1, 2, 4):
                    found = place_of(last, values, view, zoom)
                    if not _near(found, self.centres[image], last.steps, locations=0.5, pixels=2.0):
                        return False
        return True

    def smoe(self, net: nn.Module, **options) -> SMOEScale:
        return SMOEScale(net, statistic=self.case.statistic, **options)


def _near(found, expected, steps, locations: float, pixels: float) -> bool:
    return all(
        abs(one - other) <= locations * step + pixels
        for one, other, step in zip(found, expected, steps, strict=True)
    )


def tensors_are_right(trial: Trial) -> None:
    maps = trial.read.maps
    shapes = [tuple(one.shape) for one in maps.per_scale]
    expected = trial.expected
    names = [scale.name for scale in maps.scales]
    right = [one.shape for one in expected]
    assert shapes == right, f"scales {names} with maps {shapes}, expected {right}"
    for scale, found, values in zip(maps.scales, maps.per_scale, expected, strict=True):
        off = np.abs(found.numpy() - values).max()
        assert off < ROUNDING, f"{scale.name} {scale.shape}: {off:.3f} off the last tensor's map"


def maps_lie_on_the_object(trial: Trial) -> None:
    maps = trial.read.maps
    _on_objects("combined", maps.combined, trial)
    stacked = maps.stacked
    if stacked.shape[1] == len(trial.walk.lasts):
        for number, last in enumerate(trial.walk.lasts):
            _on_objects(maps.scales[number].name, stacked[:, number], trial, last.steps)
    if not trial.walk.gaps:
        outside = torch.ones(trial.case.size, dtype=torch.bool)
        for (first, end), (left, right) in trial.walk.seen:
            outside[round(first) : round(end), round(left) : round(right)] = False
        stray = maps.combined[:, outside].abs()
        most = float(stray.max()) if stray.numel() else 0.0
        assert most == 0, f"salience {most:.3f} at pixels that the network never saw"


def _on_objects(name: str, maps: Tensor, trial: Trial, steps=None) -> None:
    coarsest = trial.walk.lasts[-1].steps
    for values, centre in zip(maps.double().numpy(), trial.centres, strict=True):
        row, column = top(values)
        found = row + 0.5, column + 0.5
        assert _near(found, centre, steps or coarsest, locations=1.0, pixels=3.0), (
            f"{name}: the map's peak is at row {found[0]:.1f}, column {found[1]:.1f}, "
            f"the object at row {centre[0]:.1f}, column {centre[1]:.1f}"
        )


def a_batch_is_its_loop(trial: Trial) -> None:
    together = trial.read.maps.combined
    other = trial.smoe(trial.case.network()[0])
    for number, expected in enumerate(together):
        # One image after the batch, or as the first of an attributor's calls.
        for smoe in (trial.read.smoe, other) if number == len(together) - 1 else (trial.read.smoe,):
            alone = smoe.attribute(trial.images[number : number + 1].clone())[0, 0]
            off = float((alone - expected).abs().max())
            assert off < OF_BATCHES[trial.case.dtype], f"image {number}: {off:.3f} off its batch"


def _state(net: nn.Module) -> dict[str, object]:
    tensors = net.state_dict(keep_vars=True)
    return {
        "tensors": {name: id(tensor) for name, tensor in tensors.items()},
        "values": {name: tensor.detach().clone() for name, tensor in tensors.items()},
        "training flags": [module.training for module in net.modules()],
        "hooks": [
            list(value.items())
            for module in net.modules()
            for key, value in vars(module).items()
            if "hooks" in key
        ],
        "requires_grad": [parameter.requires_grad for parameter in net.parameters()],
        "gradients": [parameter.grad for parameter in net.parameters()],
        "random state": torch.get_rng_state(),
        "attributes": [sorted(vars(module)) for module in net.modules()],
    }


def _alike(before: object, after: object) -> bool:
    if isinstance(before, Tensor):
        return isinstance(after, Tensor) and torch.equal(before, after)
    if isinstance(before, dict):
        keys = isinstance(after, dict) and list(before) == list(after)
        return keys and all(_alike(value, after[key]) for key, value in before.items())
    if isinstance(before, list) and any(isinstance(one, Tensor) for one in before):
        return all(_alike(one, other) for one, other in zip(before, after, strict=True))
    return before == after


def the_model_is_as_it_was(trial: Trial) -> None:
    read = trial.read
    for key, value in read.after.items():
        assert _alike(read.before[key], value), f"{key} changed"
    once = trial.images.clone()
    with torch.no_grad():
        logits = trial.case.network()[0].eval()(once)
    assert torch.equal(read.images, once), "the images are not as one forward pass leaves them"
    torch.testing.assert_close(read.maps.logits, logits)


def class_activation_maps_are_captums(trial: Trial) -> None:
    last = trial.walk.lasts[-1]
    net, layers = trial.case.network()
    layer = layers[last.number]
    if not last.plain or not isinstance(layer, nn.Module) or trial.case.parts[-1].maps:
        return
    captums = LayerGradCam(net.eval(), layer)
    expected = captums.attribute(trial.images.clone(), 0, relu_attributions=True)
    net, _ = trial.case.network()
    fast = FastCAM(net)
    found = fast.class_activation_map(trial.images.clone(), 0).double()
    expected = expected.detach().double()[:, 0]
    if last.grids[0].transposed:
        expected = expected.transpose(1, 2)
    assert found.shape == expected.shape, f"CAM of {tuple(found.shape)}, {tuple(expected.shape)}"
    off = float((found - expected).abs().max() / expected.max())
    assert off < OF_BATCHES[trial.case.dtype], f"{off:.3f} off Captum's LayerGradCam"
    maps = fast.attribute(trial.images.clone(), 0, expand_channels=False)[:, 0]
    _on_objects("Fast-CAM", maps, trial)


CHECKS: tuple[Callable[[Trial], None], ...] = (
    tensors_are_right,
    maps_lie_on_the_object,
    a_batch_is_its_loop,
    the_model_is_as_it_was,
    class_activation_maps_are_captums,
)


def problems(trial: Trial) -> dict[str, str]:
    """What is wrong with a network's maps, by check; an error is wrong, too."""
    found = {}
    for check in CHECKS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                check(trial)
            except Exception as error:
                found[check.__name__] = f"{type(error).__name__}: {error}"
    return found
