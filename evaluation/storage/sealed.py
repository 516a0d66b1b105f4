"""Small files that carry the hash of their content: JSON objects and named arrays."""

from __future__ import annotations

import io
import json
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.storage.hashes import content_hash, spec_id
from fastsal.optional import one_line

__all__ = ["Unfit", "arrays_in", "opened", "read_sealed", "sealed", "sealed_arrays", "unreadable"]

# Characters of PyTorch's own words about a damaged file.
_SAID = 120
# The entry that holds the hash of all others.
_HASH = "hash"


class Unfit(ValueError):
    """Error of a stored file that is not what was stored.

    Args:
        path: the file, or the folder where a file was expected; None for a file without a name.
        why: what was expected and found, to follow its name.

    >>> str(Unfit(Path("cells/ab.json"), "is empty: expected a JSON object"))
    'cells/ab.json is empty: expected a JSON object; start the run again, which sets it aside and makes it again'
    """  # noqa: E501

    def __init__(self, path: Path | None, why: str) -> None:
        super().__init__(path, why)  # as they are, so that other processes can raise it again
        self.path, self.why = path, why

    @property
    def fault(self) -> str:
        """The file and what is wrong with it."""
        return f"{self.path or 'a temporary file'} {self.why}"

    def __str__(self) -> str:
        return f"{self.fault}; start the run again, which sets it aside and makes it again"


def unreadable(path: Path, error: Exception, expected: str) -> Unfit:
    r"""The error of a file of PyTorch's that its reader stumbles over.

    Args:
        path: the file.
        error: the reader's.
        expected: of the file, in words.

    >>> unreadable(Path("models/ab.pt"), EOFError("Ran out\n of input"), "weights").fault
    'models/ab.pt cannot be read (Ran out of input): expected weights'
    """
    return Unfit(path, f"cannot be read ({one_line(error)[:_SAID]}): expected {expected}")


def sealed(content: Mapping[str, Any], *, sort_keys: bool = False) -> str:
    """A JSON object as text, with the hash of its content as its last entry, ``hash``.

    The hash is that of the canonical form, whatever the order of the entries.

    >>> opened(sealed({"b": 1, "a": [0.5]}))
    ({'b': 1, 'a': [0.5]}, True)
    """
    plain = json.loads(json.dumps(content))  # as a reader gets it
    return json.dumps({**content, _HASH: spec_id(plain)}, indent=1, sort_keys=sort_keys)


def opened(text: str | bytes) -> tuple[dict[str, Any], bool]:
    """The content of a JSON object, and whether it carried a hash, which then fits.

    Args:
        text: of `sealed`, or an object from before there were hashes.

    Raises:
        ValueError: no JSON object, or one that has another hash; the message says what was
            expected, to follow the file's name.
    """
    if not text.strip():
        raise ValueError("is empty: expected a JSON object")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON ({error}): expected a whole JSON object") from error
    if not isinstance(content, dict):
        kind = "null" if content is None else f"a {type(content).__name__}"
        raise ValueError(f"holds {kind}: expected a JSON object")
    if _HASH not in content:
        return content, False
    said = content.pop(_HASH)
    found = spec_id(content)
    if found != said:
        raise ValueError(f"has content of hash {found}: expected that of hash {said}")
    return content, True


def read_sealed(path: Path) -> dict[str, Any]:
    """The content of a file of `sealed`, or of one from before there were hashes.

    Raises:
        FileNotFoundError: no file.
        Unfit: another content than was stored.
    """
    try:
        return opened(path.read_bytes())[0]
    except IsADirectoryError as error:
        raise Unfit(path, "is a folder: expected a file") from error
    except ValueError as error:
        raise Unfit(path, str(error)) from error


def sealed_arrays(of: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Named arrays, with one more that is their hash.

    Args:
        of: what the arrays are of, such as a cell's id: part of the hash.
        arrays: by name.
    """
    return {**arrays, _HASH: np.array(_hash_of(of, arrays))}


def arrays_in(
    file: Path | io.BytesIO, of: str = "", *, name: Path | None = None
) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` file by name, without their hash; nothing is unpickled.

    Args:
        file: the file or its bytes.
        of: as it was given to `sealed_arrays`.
        name: of the file, for messages; None for that of `file`.

    Raises:
        FileNotFoundError: no file.
        Unfit: another content than was stored.
    """
    path = name if name is not None else file if isinstance(file, Path) else None
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
    except FileNotFoundError:
        raise
    except IsADirectoryError as error:
        raise Unfit(path, "is a folder: expected a file") from error
    except _DAMAGED as error:
        raise Unfit(path, f"cannot be read ({error}): expected named arrays") from error
    if _HASH not in arrays:
        return arrays
    said, found = str(arrays.pop(_HASH)), _hash_of(of, arrays)
    if said != found:
        raise Unfit(path, f"has arrays of hash {found}: expected those of hash {said}")
    return arrays


# What NumPy and zipfile raise at a damaged file.
_DAMAGED = (
    *(ValueError, KeyError, EOFError, TypeError, SyntaxError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, AttributeError, OverflowError, tokenize.TokenError),
)


def _hash_of(of: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    return spec_id({"of": of, "arrays": {name: content_hash(arrays[name]) for name in arrays}})
