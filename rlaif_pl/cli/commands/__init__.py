"""What the command line runs besides fit: one module a command, each a typed function."""

from rlaif_pl.cli.commands.whole_numbers import accept_whole_numbers

accept_whole_numbers()  # before any command makes its parser
