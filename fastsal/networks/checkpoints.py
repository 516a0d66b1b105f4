"""Files of weights: state dicts, checkpoints that hold one, and safetensors."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.optional import needed, one_line

# Keys under which checkpoints hold a state dict, the first that is there counts.
KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
_SAVE = "save the state dict alone with torch.save(model.state_dict(), PATH)"
_ZIP = b"PK\x03\x04"
# Modules whose networks are called `module` and `_orig_mod`: DataParallel and DDP, torch.compile.
_WRAPPERS = frozenset(("module", "_orig_mod"))


def load_weights(network: nn.Module, name: str, path: Path | str) -> None:
    """Load a file of weights into a network.

    Names in a wrapper, such as `module.` of `DataParallel`, count as the network's, and so do names
    that all have one further prefix, such as `model.` of a Lightning module.

    Args:
        network: The network.
        name: Its name, for messages.
        path: The file, as for `read_weights`.

    Raises:
        ValueError: If the file cannot be read, or does not fit.
        ImportError: If safetensors is needed and is not installed.

    Example:
        >>> import tempfile
        >>> network = nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "net.pt"
        ...     torch.save({"model": network.state_dict(), "epoch": 3}, path)
        ...     load_weights(network, "linear", path)
    """
    state = _without_prefix(read_weights(path), network)
    try:
        load_state(network, state, name, path)
    except ValueError as error:
        classes = _classes(network, state)
        if classes is None:
            raise
        there, here = classes
        raise ValueError(
            f"weights {path}: they are of {there} classes, and {name} has {here}; give weights "
            f"of {here}, or as the model a function that builds it for {there} "
            "(path/to/file.py:function)"
        ) from error


def read_weights(path: Path | str) -> Mapping[str, Tensor]:
    """Return the state dict in a file; reading it cannot run code.

    Args:
        path: A state dict or a checkpoint with one (`KEYS`) from `torch.save`, or a file of
            safetensors.

    Raises:
        ValueError: If there is no state dict in it.
        ImportError: If safetensors is needed and is not installed.

    Example:
        >>> read_weights(Path("absent.pt"))
        Traceback (most recent call last):
        ValueError: weights absent.pt: there is no such file
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"weights {path}: this is a folder; give the file of weights in it")
    if not path.is_file():
        raise ValueError(f"weights {path}: there is no such file")
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix == ".safetensors" or (start[8:] == b"{" and start[:4] != _ZIP):
        return _safetensors(path)
    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"weights {path}: {_unread(path, error)}") from error
    return _state(content, path)


def _safetensors(path: Path) -> Mapping[str, Tensor]:
    package: Any = needed("safetensors.torch", f"weights {path}", "safetensors")
    try:
        state: Mapping[str, Tensor] = package.load_file(path)
    except Exception as error:
        raise ValueError(
            f"weights {path}: cannot be read as safetensors ({one_line(error)}); save or download "
            "the file again"
        ) from error
    return state


def _harmless() -> list[Any]:
    """Return what training scripts keep beside weights and runs no code: options and numbers."""
    found: list[Any] = [argparse.Namespace]
    try:
        # Captum brings NumPy; without it a file cannot hold its numbers.
        numpy: Any = needed("numpy", "a checkpoint with numbers of NumPy")
        scalar = numpy.float64(0).__reduce__()[0]
    except ImportError:
        return found
    kinds = ("float16", "float32", "float64", "int32", "int64", "bool")
    found += [numpy.dtype, *(type(numpy.dtype(kind)) for kind in kinds)]
    # NumPy 2 moved the function.
    return found + [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]


def _unread(path: Path, error: Exception) -> str:
    """Return in one sentence why torch could not read a file, and what to do."""
    if "TorchScript" in str(error):
        return f"this is a TorchScript archive, which holds code; {_SAVE}"
    names = _pickled_objects(path, str(error))
    if names:
        return f"it holds pickled Python objects ({names}), which may run code; {_SAVE}"
    return (
        "cannot be read as a state dict: this is neither a file of torch.save nor of safetensors, "
        f"or it is damaged; {_SAVE}"
    )


def _pickled_objects(path: Path, message: str) -> str:
    """Return the names of the first classes in a file that are not torch's weights, or ""."""
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:
        # Files from before torch 1.6 are no archives; the message names the first of them.
        _, found, rest = message.partition("GLOBAL ")
        names = rest.split()[:1] if found else []
    own = [name for name in names if not name.startswith(("argparse.Namespace", "numpy."))]
    return ", ".join(own[:2]) + (f" and {len(own) - 2} more" if len(own) > 2 else "")


def _state(content: object, path: Path) -> Mapping[str, Tensor]:
    """Return the state dict that a checkpoint is, or holds."""
    held = content
    while isinstance(held, Mapping) and not _is_state(held):
        inner = [held[key] for key in KEYS if isinstance(held.get(key), Mapping)]
        # Under another key it is a state dict if it is the only one.
        inner = inner or [one for one in held.values() if _is_state(one)][:2]
        if not inner or (len(inner) > 1 and not any(key in held for key in KEYS)):
            break
        held = inner[0]
    if _is_state(held):
        return held  # type: ignore[return-value]
    holds = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        holds = ", ".join(map(repr, list(content)[:5])) or "nothing"
    raise ValueError(
        f"weights {path}: cannot be read as a state dict, it holds {holds}; expected tensors by "
        f"name, or those under {KEYS[0]!r} or {KEYS[2]!r}: {_SAVE}"
    )


def _is_state(held: object) -> bool:
    return (
        isinstance(held, Mapping)
        and len(held) > 0
        and all(isinstance(value, Tensor) for value in held.values())
    )


def _without_prefix(state: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    """Return a state dict without the prefix of all its names, if the network's have none."""
    own = network.state_dict().keys()
    prefix = next(iter(state)).partition(".")[0] + "."
    if own & state.keys() or not all(key.startswith(prefix) for key in state):
        return state
    plain = {key.removeprefix(prefix): value for key, value in state.items()}
    return plain if _unwrapped(plain).keys() & own else state


def _classes(network: nn.Module, state: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Return the numbers of classes there and here, if the weights differ in nothing else."""
    own = network.state_dict()
    here, there = _unwrapped(own), _unwrapped(state)
    if here.keys() != there.keys():
        return None
    pairs = [(state[there[plain]].shape, own[key].shape) for plain, key in here.items()]
    pairs = [(theirs, ours) for theirs, ours in pairs if theirs != ours]
    if any(theirs[1:] != ours[1:] or not theirs for theirs, ours in pairs):
        return None
    found = {(theirs[0], ours[0]) for theirs, ours in pairs}
    return found.pop() if len(found) == 1 else None


def load_state(
    network: nn.Module, state: Mapping[str, Tensor], name: str, source: Path | str
) -> None:
    """Load a state dict whose names are the network's.

    The names of a network in a wrapper count as its own: `module.` of `DataParallel`,
    `DistributedDataParallel` and averaged models, `_orig_mod.` of `torch.compile`. BatchNorm's
    `num_batches_tracked`, which older files lack, stays as it is.

    Args:
        network: The network.
        state: The state dict.
        name: The network's name, for messages.
        source: Where the state dict is from, for messages.

    Raises:
        ValueError: If it does not fit; the message names up to three differences.

    >>> network = nn.Linear(2, 1)
    >>> saved = {f"module.{name}": weight for name, weight in network.state_dict().items()}
    >>> load_state(network, saved, "linear", "linear.pt")
    """
    own = network.state_dict()
    here, there = _unwrapped(own), _unwrapped(state)
    shapes, missing = [], []
    for plain, key in here.items():
        if plain in there:
            shape = state[there[plain]].shape
            if shape != own[key].shape:
                shapes.append(f"{plain} is {tuple(shape)} there and {tuple(own[key].shape)} here")
            own[key] = state[there[plain]]
        elif plain.rpartition(".")[2] != "num_batches_tracked":
            missing.append(f"{plain} is missing")
    unexpected = [f"{plain} is not of this network" for plain in there if plain not in here]
    wrong = shapes + missing + unexpected
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"weights {source} do not fit model {name!r}: {'; '.join(wrong[:3])}{more}"
        )
    network.load_state_dict(own)


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the keys of a state dict by their names outside of wrappers."""
    names = {
        ".".join(part for part in key.split(".") if part not in _WRAPPERS): key
        for key in state
        # An averaged model counts its steps beside the network.
        if key != "n_averaged"
    }
    averaged = "n_averaged" in state
    return names if len(names) == len(state) - averaged else {key: key for key in state}
