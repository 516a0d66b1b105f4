"""The command `fastsal`: its subcommands, exit codes and errors of one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fastsal._version import __version__
from fastsal.cli.export import add_export_command
from fastsal.cli.layers import add_layers_command
from fastsal.cli.maps import add_maps_command
from fastsal.cli.options import CommandError, Parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The command line's arguments; None takes the process's own.

    Returns:
        0; or 1 after an error, which is one line on stderr, also if it is one file's among many;
        or 130 after Ctrl-C.

    Raises:
        SystemExit: With 2, after options that cannot be.
    """
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except CommandError as error:
        print(f"fastsal: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fastsal: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="fastsal", description="SMOE Scale saliency maps from one forward pass.")
    parser.add_argument("--version", action="version", version=f"fastsal {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    add_layers_command(commands)
    add_maps_command(commands)
    add_export_command(commands)
    return parser
