"""``python -m fastsal``: the command ``fastsal``."""

import sys

from fastsal.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
