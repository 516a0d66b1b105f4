"""The registry of methods, sets of them, and lists that a command line names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from comparisons.methods.base import Group, Method, Prepare, check_axes
from comparisons.methods.blurred import blurred
from evaluation.masking.variants import BLURRED
from fastsal.registry import Registry

__all__ = ["METHODS", "SETS", "expanded", "get_method", "is_method", "method", "resolve"]

METHODS: Registry[Method] = Registry("method")

# Rows of the paper's Table 5, in its order.
_TABLE_5 = (
    *("random", "gradient", "guided-backprop", "ig"),
    *("gradient-sgsq", "guided-backprop-sgsq", "ig-sgsq"),
    *("smoe-prior", "smoe-linear", "smoe-equal", "std-prior", "truncnormal_entropy-prior"),
)

# Words that stand for several methods.
SETS: dict[str, Callable[[Method], bool]] = {
    "all": lambda _: True,
    "controls": lambda entry: entry.group == "control",
    "statistics": lambda entry: (
        entry.group == "smoe"
        and entry.parameters.get("weights") == "linear"
        and "layers" not in entry.parameters
    ),
    "activations": lambda entry: entry.group == "activation",
    "cams": lambda entry: entry.group == "cam",
    # One forward pass, and no gradient to the input.
    "cheap": lambda entry: entry.work.forward == 1 and not entry.work.gradient,
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
    axes: tuple[int, ...] = (1, 2, 3),
    needs_object_mask: bool = False,
    self_dual: bool = False,
    scales: Prepare | None = None,
    by_channel: Prepare | None = None,
) -> Callable[[Prepare], Prepare]:
    """Register the decorated function as a method; reports keep the order of registration."""

    def register(prepare: Prepare) -> Prepare:
        entry = Method(
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
            axes,
        )
        METHODS.register(name, entry)
        return prepare

    return register


def is_method(name: str) -> bool:
    """Return True if a name is that of a registered method or of its blurred form.

    >>> is_method("gradient+blur"), is_method("lime+blur")
    (True, False)
    """
    return name.removesuffix(BLURRED) in METHODS


def get_method(name: str) -> Method:
    """Return a registered method, or its blurred form for ``NAME+blur``.

    Raises:
        fastsal.registry.UnknownNameError: `name` is neither.

    >>> get_method("gradient+blur").title
    'Gradient, blurred'
    """
    if name in METHODS or not is_method(name):
        return METHODS[name]
    return blurred(METHODS[name.removesuffix(BLURRED)])


def expanded(words: Iterable[str], known: Mapping[str, Method]) -> tuple[str, ...]:
    """Replace words that stand for sets by the names of their methods; each name comes once.

    A set's word may end in ``+blur``, for the blurred form of each; other words stay as they are.

    Args:
        words: names of methods, or of `SETS`.
        known: the methods that a set may hold.

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


def resolve(names: str | None, *, has_object_masks: bool, axes: int = 2) -> tuple[str, ...]:
    """Return the methods of a comma-separated list; of None, all that the data allows.

    A word of `SETS` stands for those of its methods that the data allows.

    Args:
        names: as typed; None for all.
        has_object_masks: True if the data has object masks.
        axes: of the data: 2 of images, 3 of volumes, 1 of signals.

    Raises:
        ValueError: an unknown method, or one that needs object masks, which the data lacks, or that
            is for images alone.

    >>> resolve("random,centre", has_object_masks=False)
    ('random', 'centre')
    """
    allowed = {
        entry.name: entry
        for entry in METHODS.values()
        if axes in entry.axes and (has_object_masks or not entry.needs_object_mask)
    }
    if names is None:
        return tuple(allowed)
    words = [name.strip() for name in names.split(",") if name.strip()]
    chosen = expanded(words, allowed)
    for name in chosen:
        if not is_method(name):
            raise ValueError(
                f"unknown method {name!r}: expected some of {', '.join(METHODS)}, or a set of "
                f"them: {', '.join(SETS)}"
            )
        if get_method(name).needs_object_mask and not has_object_masks:
            raise ValueError(
                f"method {name!r} needs the true object's pixels, which these images do not "
                "have: leave it out, or use --data shapes"
            )
        check_axes(f"method {name!r}", get_method(name).axes, axes)
    if not chosen:
        raise ValueError("no methods given: expected at least one name, or no --methods for all")
    return chosen
