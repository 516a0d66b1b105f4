"""Pretrained weights: published ones by name, those that a function's network has, or a file.

A network with such weights gets images in its own normalisation, which the metadata of published
weights hold. A file has no metadata: it is taken to expect the normalisation of the network's
published weights, if there are any; that of the training images, or a given one, on request.
A network that a function returns may carry its normalisation, as timm's do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from evaluation.networks.build import build_network, state_hash
from fastsal.files import short_hash
from fastsal.networks.by_name import build_network as built_network
from fastsal.networks.checkpoints import load_state, load_weights
from fastsal.networks.preprocessing import published_normalisation
from fastsal.optional import needed, one_line

__all__ = ["AS_BUILT", "EXPECTED", "OWN_CLASSES", "Normalisation", "Weights", "empty_network"]

# The weights that the network of a function has when it is returned.
AS_BUILT = "as-built"
# In a specification: the network's outputs are its own, not the classes of the images.
OWN_CLASSES = "own"

# Channel mean and standard deviation, in [0, 1].
Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]

_PUBLISHERS = ("torchvision", "timm")
# The normalisation that weights expect: that of the network's published weights, or of the data.
EXPECTED = ("published", "data")

_FORMS = (
    "torchvision:NAME such as torchvision:IMAGENET1K_V2, timm:TAG such as timm:a1_in1k, "
    f"{AS_BUILT} for a network that a function returns with its weights, or the path of a file "
    "with a state dict"
)


@dataclass(frozen=True)
class Weights:
    """Pretrained weights of a network, read on demand.

    Args:
        model: name of the network, as for `evaluation.networks.build.build_network`.
        source: ``torchvision:NAME`` (an entry of the model's weights enum, or ``DEFAULT``),
            ``timm:TAG`` (a pretrained tag, or nothing for the model's first), ``as-built`` for
            those that a function's network has when it is returned, or a path.
        expect: the expected normalisation: ``"published"``, that of the model's published weights
            if there are any, or ``"data"``, that of the training images.
        given: the normalisation that the weights of a file or of a function's network expect, in
            place of `expect`; None where it is not given.

    Raises:
        ValueError: weights that the model does not have, a missing file, another `expect`, or a
            normalisation that is none or is given for published weights.

    >>> Weights("resnet50", "torchvision:IMAGENET1K_V2").normalisation[0]
    (0.485, 0.456, 0.406)
    """

    model: str
    source: str
    expect: str = "published"
    given: Normalisation | None = None

    def __post_init__(self) -> None:
        """Refuse weights that cannot be found, before anything is trained."""
        if self.expect not in EXPECTED:
            raise ValueError(
                f"weights expect the normalisation {self.expect!r}: expected one of "
                f"{', '.join(EXPECTED)}"
            )
        if self.given is not None:
            _check_normalisation(self.given)
            if self._published is not None or self.expect != "published":
                raise ValueError(
                    f"weights {self.source!r} have a normalisation of their own: leave out "
                    "--weights-mean and --weights-std, or give a file without --weights-expect"
                )
        if self.source == AS_BUILT:
            self._check_as_built()
        elif self._published is None and not Path(self.source).is_file():
            raise ValueError(f"weights {self.source!r}: there is no such file; expected {_FORMS}")

    def _check_as_built(self) -> None:
        if self.model.startswith("timm:") or ":" not in self.model:
            raise ValueError(
                f"weights {AS_BUILT!r} of model {self.model!r} are random: expected as the model a "
                f"function that returns a network with its weights, or {_FORMS}"
            )
        if self.given is None and self.expect != "data" and self.normalisation is None:
            raise ValueError(
                f"the network of {self.model} does not say which normalisation its weights expect: "
                "give --weights-mean and --weights-std, or --weights-expect data for that of the "
                "training images"
            )

    @property
    def is_file(self) -> bool:
        """True if the weights come from a file, which fits any network of their shapes."""
        return self.source != AS_BUILT and self.source.partition(":")[0] not in _PUBLISHERS

    @property
    def _published(self) -> _Published | None:
        """The metadata of published weights; None for a file."""
        where, colon, tag = self.source.partition(":")
        if colon and where in _PUBLISHERS:
            of = "timm" if self.model.startswith("timm:") else "torchvision"
            if where != of:
                raise ValueError(
                    f"weights {self.source!r} are not those of model {self.model!r}: expected "
                    f"{_FORMS}"
                )
            return (_of_timm if where == "timm" else _of_torchvision)(self.model, tag)
        return None

    @property
    def normalisation(self) -> Normalisation | None:
        """The normalisation that the network expects; None for that of the training images."""
        published = self._published
        if self.given is not None:
            return self.given
        if self.expect == "data":
            return None
        if self.source == AS_BUILT:
            own = published_normalisation(_as_built(self.model))
            return None if own is None else (_three(own[0]), _three(own[1]))
        if published is None:
            try:
                default = "timm:" if self.model.startswith("timm:") else "torchvision:DEFAULT"
                published = Weights(self.model, default)._published
            except ValueError:
                return None
        return None if published is None else published.normalisation

    def in_spec(self) -> dict[str, Any]:
        """The entries of a specification: source, hash of a file, and normalisation."""
        spec: dict[str, Any] = {"weights": self.source}
        if self.source == AS_BUILT:
            spec["weights_hash"] = state_hash(_as_built(self.model))
        elif self._published is None:
            spec["weights_hash"] = short_hash(Path(self.source).read_bytes())
        if self.normalisation is not None:
            spec["normalisation"] = [list(values) for values in self.normalisation]
        return spec

    def check_classes(self, classes: int) -> None:
        """Refuse published weights for another number of classes.

        Raises:
            ValueError: names both numbers.
        """
        published = self._published
        if published is not None and published.classes != classes:
            raise ValueError(
                f"weights {self.source!r} are for {published.classes} classes, the images have "
                f"{classes}: take images of the same classes in the same order, or train here "
                "(without --weights)"
            )

    def network(self, classes: int | None, size: tuple[int, ...], channels: int = 3) -> nn.Module:
        """The network with these weights.

        Args:
            classes: number of classes; None for as many as published weights, or the network of a
                function, have.
            size: height and width of the images; of volumes three sides, of signals one.
            channels: of the images.

        Raises:
            ValueError: weights of another number of classes, that do not fit, or that cannot be
                read or fetched; says which.
        """
        published = self._published
        if classes is not None:
            self.check_classes(classes)
        elif published is not None:
            classes = published.classes
        network = empty_network(self.source, self.model, classes, size, channels)
        if self.source == AS_BUILT:
            return network
        if published is None:
            load_weights(network, self.model, self.source)
        else:
            load_state(network, self._fetched(published), self.model, self.source)
        return network

    def _fetched(self, published: _Published) -> Mapping[str, Tensor]:
        try:
            return published.fetch()
        except Exception as error:
            raise ValueError(
                f"weights {self.source!r} of {self.model} cannot be fetched ({one_line(error)}): "
                "fetch them where there is a network, and give the file's path as --weights"
            ) from error


@lru_cache(maxsize=1)
def _as_built(model: str) -> nn.Module:
    """The network that a function returns, built once to be looked at."""
    return built_network(model)


def empty_network(
    source: str, model: str, classes: int | None, size: tuple[int, ...], channels: int = 3
) -> nn.Module:
    """The network that weights of a source fit, with the weights it is built with.

    Args:
        source: as `Weights` takes it.
        model: name of the network.
        classes: number of classes; None for as many as the network has by itself.
        size: height and width of the images; of volumes three sides, of signals one.
        channels: of the images.

    >>> empty_network("weights.pt", "resnet9", 8, (32, 32)).head.out_features
    8
    """
    network = build_network(model, classes, 0, size=size, channels=channels)
    if source.startswith("torchvision:") and hasattr(network, "transform_input"):
        # GoogLeNet and Inception were trained on another normalisation and convert to it.
        setattr(network, "transform_input", True)  # noqa: B010
    return network


@dataclass(frozen=True)
class _Published:
    classes: int
    normalisation: Normalisation
    fetch: Callable[[], Mapping[str, Tensor]]


def _of_torchvision(model: str, tag: str) -> _Published:
    from torchvision import models

    try:
        entries = models.get_model_weights(model)
        entry = entries["DEFAULT" if tag == "" else tag]
    except KeyError:
        known = ", ".join(f"torchvision:{each.name}" for each in entries) or "none"
        raise ValueError(
            f"model {model!r} has no weights {tag!r} in torchvision: there are {known}"
        ) from None
    except ValueError:
        raise ValueError(f"model {model!r} is none of torchvision's: expected {_FORMS}") from None
    preset = entry.transforms()
    return _Published(
        len(entry.meta["categories"]),
        (_three(preset.mean), _three(preset.std)),
        partial(entry.get_state_dict, check_hash=True),
    )


def _of_timm(model: str, tag: str) -> _Published:
    timm: Any = needed("timm", f"the network {model}")
    name = model.removeprefix("timm:")
    full = f"{name}.{tag}" if tag else name
    config = timm.get_pretrained_cfg(full, allow_unregistered=False) if _known(full) else None
    if config is None:
        known = ", ".join(f"timm:{each.partition('.')[2]}" for each in _tags(name)) or "none"
        raise ValueError(f"model {model!r} has no weights {tag!r} in timm: there are {known}")

    def fetch() -> Mapping[str, Tensor]:
        network: nn.Module = timm.create_model(full, pretrained=True)
        return network.state_dict()

    return _Published(config.num_classes, (_three(config.mean), _three(config.std)), fetch)


def _tags(name: str) -> list[str]:
    timm: Any = needed("timm", "a list of weights")
    architecture = name.partition(".")[0]
    found: list[str] = timm.list_pretrained(f"{architecture}.*")
    return found


def _known(full: str) -> bool:
    tags = _tags(full)
    return full in tags if "." in full else bool(tags)


def _check_normalisation(given: Normalisation) -> None:
    mean, std = given
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, (*mean, *std))):
        raise ValueError(f"normalisation {given}: expected a mean and a deviation of R, G and B")
    if min(std) <= 0:
        raise ValueError(f"--weights-std {std}: expected three numbers above 0")


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
