"""Optional packages, and errors of other packages in one line."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["needed", "one_line"]

LONGEST_LINE = 300


def needed(package: str, purpose: str, install: str | None = None) -> ModuleType:
    """Import an optional package, or a module of one.

    Args:
        package: The module to import.
        purpose: The thing that needs it, as the error's message begins.
        install: The package's name for `pip install`, where that differs.

    Raises:
        ImportError: If the package is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = install or package
        raise ImportError(f"{purpose} needs {name}: pip install {name}") from error


def one_line(error: BaseException) -> str:
    r"""The message of an error in one line of at most 300 characters, or the name of its type.

    >>> one_line(ValueError("two\n  lines")), one_line(KeyError())
    ('two lines', 'KeyError')
    """
    return " ".join(str(error).split())[:LONGEST_LINE] or type(error).__name__
