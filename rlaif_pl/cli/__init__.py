"""The command line: ``python -m rlaif_pl COMMAND``."""
