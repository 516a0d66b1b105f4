"""Settings, methods and levels that differ between two runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reports.formatting import estimated_percent, share
from reports.records.run import Run
from reports.verdicts import title_of

__all__ = ["set_up"]

# Options whose difference can change a score; images and network are named by the records.
_OPTIONS = (
    *("weights", "train_images", "test_images", "image_size", "data_seed", "seeds", "fractions"),
    *("fill", "unit", "measure_images", "measure_steps", "recipe"),
)


def set_up(run: Run, earlier: Run) -> Iterator[str]:
    """Sentences on the settings, methods and unmasked accuracies of two runs.

    Args:
        run: the later one.
        earlier: the one that it is held against.
    """
    changed = [*_subjects(run, earlier), *_settings(run.options, earlier.options)]
    if changed:
        yield f"Changed: {'; '.join(changed)}."
    else:
        yield "The same settings."
    yield from _methods(run, earlier)
    if run.unmasked is not None and earlier.unmasked is not None:
        levels = [estimated_percent(each) for each in (run.unmasked, earlier.unmasked)]
        yield f"Unmasked accuracy {levels[0]}, earlier {levels[1]}."
    if run.networks_trained or earlier.networks_trained:
        yield f"Networks trained: {run.networks_trained}, earlier {earlier.networks_trained}."


def _subjects(run: Run, earlier: Run) -> Iterator[str]:
    pairs = (("images", run.dataset, earlier.dataset), ("network", run.model, earlier.model))
    for what, now, then in pairs:
        if now != then:
            yield f"{what} {_said(now)} (earlier {_said(then)})"


def _settings(now: Mapping[str, Any], then: Mapping[str, Any]) -> Iterator[str]:
    """Options that both plans have and that differ: an option that one lacks came later."""
    later, earlier = dict(_flat(now)), dict(_flat(then))
    for name in later:
        if name in earlier and later[name] != earlier[name]:
            yield f"{name} {later[name]} (earlier {earlier[name]})"


def _flat(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The options that count, a recipe's parts among them, by their names in words."""
    for name in (name for name in _OPTIONS if name in options):
        value, words = options[name], name.replace("_", " ")
        if isinstance(value, Mapping):
            for part, own in value.items():
                yield f"{words}'s {part.replace('_', ' ')}", _said(own)
        elif name == "fractions":
            yield words, ", ".join(share(fraction) for fraction in value)
        else:
            yield words, _said(value)


def _said(value: object) -> str:
    """A setting in words.

    >>> _said(50_000), _said([0, 1]), _said(None), _said(True), _said(0.1)
    ('50,000', '0, 1', 'not set', 'yes', '0.1')
    """
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_said(each) for each in value)
    return str(value)


def _methods(run: Run, earlier: Run) -> Iterator[str]:
    for said, own, other in (("New", run, earlier), ("Left out", earlier, run)):
        names = [name for name in own.methods if name not in other.methods]
        if names:
            yield f"{said}: {', '.join(title_of(own.methods[name]) for name in names)}."
