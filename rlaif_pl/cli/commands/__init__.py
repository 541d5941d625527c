"""What the command line runs besides fit: each a typed function."""

import rlaif_pl.cli.commands.values  # noqa: F401 - before any command makes its parser
