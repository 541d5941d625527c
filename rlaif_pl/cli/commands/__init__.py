"""What the command line runs besides fit: one module a command, each a typed function."""

from rlaif_pl.cli.commands.plain_texts import accept_plain_texts

accept_plain_texts()  # before any command makes its parser
