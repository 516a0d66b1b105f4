"""The command ``python -m comparisons``: runs of every kind, their cost, and the methods."""

from __future__ import annotations

import typer

from comparisons.architectures.command import architectures
from comparisons.cli.archive import archive
from comparisons.cli.costs import profile
from comparisons.cli.growth import growth
from comparisons.cli.layers import layers
from comparisons.cli.methods import methods
from comparisons.cli.plan import plan
from comparisons.cli.run import run
from comparisons.deployment.command import deployment

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Compare saliency methods under identical ROAR and KAR.",
)
for _command in (run, layers, profile, plan, growth, archive, architectures, deployment, methods):
    app.command()(_command)


if __name__ == "__main__":
    app(prog_name="python -m comparisons")
