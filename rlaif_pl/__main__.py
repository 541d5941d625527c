"""Entry point of ``python -m rlaif_pl``."""

import sys

from rlaif_pl.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
