"""Options of a plan: declared once, they are those of every command that asks for them."""

from __future__ import annotations

import pytest
import typer
import typer.testing

from comparisons.plan_options import PlanOptions, with_plan_options


@pytest.fixture
def typed():
    """What a command with one option of its own gets for what was typed."""
    seen: list[tuple[PlanOptions, int]] = []
    app = typer.Typer()

    @app.command()
    @with_plan_options
    def sketch(options: PlanOptions, width: int = 3) -> None:
        """Sketch a plan."""
        seen.append((options, width))

    def call(*arguments: str) -> tuple[PlanOptions, int]:
        result = typer.testing.CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return seen[-1]

    return call


def test_what_was_typed_is_told_from_defaults(typed):
    options, width = typed(
        "--preset", "quick", "--mask-only", "none", "--width", "5", "--recursive"
    )
    # A default that is typed counts as typed; the command's own option does not.
    assert options.stated == ("--mask-only", "--recursive", "--preset")
    assert width == 5
    assert typed()[0].stated == ()
    assert options.plan("cpu").mask_only == ()
