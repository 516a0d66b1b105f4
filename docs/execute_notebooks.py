"""`python docs/execute_notebooks.py [NAME ...]`: execute notebooks anew and keep their outputs.

Without a name it takes all. A notebook runs in a temporary folder with this checkout on its path,
and is written only if every cell ran. Times and versions are left out, so that a difference in git
is a difference in what a reader sees.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"
# Of one cell; it may take so long where other work keeps the processors busy.
SECONDS = 1200


def execute(notebook: Any, folder: Path) -> None:
    """Execute a notebook in a folder, in place of its outputs.

    Args:
        notebook: From `nbformat.read`.
        folder: Where its cells write.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    settings = {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": "1",
        # tqdm warns where Jupyter's widgets are not installed.
        "PYTHONWARNINGS": "ignore:IProgress not found",
    }
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env={**os.environ, **settings})
    notebook.metadata["language_info"] = {"name": "python"}


def main(arguments: list[str]) -> None:
    """Execute notebooks by name, all without one."""
    parser = argparse.ArgumentParser(description="Execute notebooks anew and keep their outputs.")
    parser.add_argument("names", nargs="*", help="notebooks of docs/notebooks; all without any")
    names = parser.parse_args(arguments).names
    for path in [NOTEBOOKS / f"{name}.ipynb" for name in names] or sorted(
        NOTEBOOKS.glob("*.ipynb")
    ):
        notebook = nbformat.read(path, as_version=4)
        with TemporaryDirectory() as folder:
            execute(notebook, Path(folder))
        nbformat.write(notebook, path)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main(sys.argv[1:])
