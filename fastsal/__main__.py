"""`python -m fastsal`: the command `fastsal` as a module."""

import sys

from fastsal.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
