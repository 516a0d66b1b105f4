"""What a method of the comparison is, and the registry that holds them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from comparisons.methods.blurred import WithBlurred
from comparisons.methods.work import Work
from evaluation.masking.variants import BLURRED

__all__ = [
    "GROUPS",
    "METHODS",
    "SETS",
    "Batch",
    "Explain",
    "Method",
    "Prepare",
    "expanded",
    "method",
    "resolve",
]

Group = Literal["control", "smoe", "cam", "gradient"]
GROUPS: tuple[Group, ...] = ("control", "smoe", "cam", "gradient")


@dataclass(frozen=True)
class Batch:
    """What a method may look at.

    Args:
        inputs: ``(N, 3, H, W)``, normalised as the network expects.
        target: ``(N,)``, the class to explain: the frozen model's prediction.
        index: ``(N,)``, which image of its split each is; seeds what is fixed an image.
        input_range: how far apart black and white are in `inputs`, the unit of noise.
        black: what a black pixel is in `inputs`, one value a channel.
        object_mask: ``(N, H, W)`` bool, the true object, where the data knows it.
    """

    inputs: Tensor
    target: Tensor
    index: Tensor
    input_range: float
    black: tuple[float, float, float]
    object_mask: Tensor | None = None


Explain = Callable[[Batch], Tensor]


class Prepare(Protocol):
    """A model to a function that explains batches; what is costly is done here, once."""

    def __call__(self, model: nn.Module) -> Explain:
        """The function that maps a batch to saliency ``(N, H, W)``, higher for more salient."""


@dataclass(frozen=True)
class Method:
    """A saliency method as the comparison sees it.

    Args:
        name: key of the registry, as the command takes it.
        title: how reports call it.
        group: ``control``, ``smoe``, ``cam`` or ``gradient``.
        citation: who proposed it.
        parameters: what it was run with; recorded with every number. ``reduction`` says
            what happened to sign and channels: ``abs_sum``, ``sq_sum`` or ``signed``.
        prepare: the method itself.
        passes: forward passes an image.
        gradients: of these, how many go back to the input; None for all. The gradient of what
            follows the last scale alone is a small part of a pass and does not count.
        needs_object_mask: works only where the data knows the true object.
        self_dual: keeping the top t is the same experiment as removing the top 1 - t.
        scales: for methods that have one map a spatial scale: explains a batch with
            ``(N, R, H, W)``.
        by_channel: for methods whose channels differ: explains a batch with ``(N, 3, H, W)``,
            for masks that remove each channel of a pixel by itself.
    """

    name: str
    title: str
    group: Group
    citation: str
    parameters: Mapping[str, Any]
    prepare: Prepare = field(repr=False)
    passes: int = 0
    needs_object_mask: bool = False
    self_dual: bool = False
    scales: Prepare | None = field(default=None, repr=False)
    by_channel: Prepare | None = field(default=None, repr=False)
    gradients: int | None = None

    @property
    def work(self) -> Work:
        """What the map of one image takes, its ranking included."""
        gradients = self.passes if self.gradients is None else self.gradients
        return Work(forward=self.passes - gradients, gradient=gradients, ranking=1)


METHODS: dict[str, Method] = WithBlurred()

# Rows of the paper's Table 5, in its order.
_TABLE_5 = (
    *("random", "gradient", "guided-backprop", "ig"),
    *("gradient-sgsq", "guided-backprop-sgsq", "ig-sgsq"),
    *("smoe-prior", "smoe-linear", "smoe-equal", "std-prior", "truncnormal_entropy-prior"),
)

# Words that stand for several methods, and which.
SETS: dict[str, Callable[[Method], bool]] = {
    "all": lambda _: True,
    "controls": lambda entry: entry.group == "control",
    "statistics": lambda entry: (
        entry.group == "smoe" and entry.parameters.get("weights") == "linear"
    ),
    "cams": lambda entry: entry.group == "cam",
    "gradients": lambda entry: entry.group == "gradient",
    "paper": lambda entry: entry.name in _TABLE_5,
}


def method(
    name: str,
    title: str,
    group: Group,
    citation: str,
    parameters: Mapping[str, Any],
    *,
    passes: int = 0,
    gradients: int | None = None,
    needs_object_mask: bool = False,
    self_dual: bool = False,
    scales: Prepare | None = None,
    by_channel: Prepare | None = None,
) -> Callable[[Prepare], Prepare]:
    """Register a method; the order of registration is the order in reports."""

    def register(prepare: Prepare) -> Prepare:
        METHODS[name] = Method(
            name,
            title,
            group,
            citation,
            dict(parameters),
            prepare,
            passes,
            needs_object_mask,
            self_dual,
            scales,
            by_channel,
            gradients,
        )
        return prepare

    return register


def expanded(words: Iterable[str], known: Mapping[str, Method]) -> tuple[str, ...]:
    """Names and sets as names, each once; a word that is neither stays as it is.

    A set's word may end in ``+blur`` too, for the blurred form of each.

    Args:
        words: names of methods, or of `SETS`.
        known: the methods that a set may hold.

    >>> import comparisons.methods.controls
    >>> expanded(["sobel", "controls", "lime"], METHODS)
    ('sobel', 'random', 'random-blobs', 'centre', 'oracle', 'lime')
    """
    names: dict[str, None] = {}
    for word in words:
        suffix = BLURRED if word.endswith(BLURRED) else ""
        chosen = SETS.get(word.removesuffix(BLURRED))
        if chosen is None:
            names[word] = None
        else:
            members = (name + suffix for name, entry in known.items() if chosen(entry))
            names.update(dict.fromkeys(members))
    return tuple(names)


def resolve(names: str | None, *, has_object_masks: bool) -> tuple[str, ...]:
    """The methods a comma-separated list names; None for all that the data allows.

    A word of `SETS` stands for those of its methods that the data allows.

    Raises:
        ValueError: an unknown method, or one that needs the true object where it is unknown.

    >>> import comparisons.methods.controls
    >>> resolve("random,centre", has_object_masks=False)
    ('random', 'centre')
    """
    allowed = {
        entry.name: entry
        for entry in METHODS.values()
        if has_object_masks or not entry.needs_object_mask
    }
    if names is None:
        return tuple(allowed)
    words = [name.strip() for name in names.split(",") if name.strip()]
    chosen = expanded(words, allowed)
    for name in chosen:
        if name not in METHODS:
            raise ValueError(
                f"unknown method {name!r}: expected some of {', '.join(METHODS)}, or a set of "
                f"them: {', '.join(SETS)}"
            )
        if METHODS[name].needs_object_mask and not has_object_masks:
            raise ValueError(
                f"method {name!r} needs the true object's pixels, which these images do not "
                "have: leave it out, or use --data shapes"
            )
    if not chosen:
        raise ValueError("no methods given: expected at least one name, or no --methods for all")
    return chosen
