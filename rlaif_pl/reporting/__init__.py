"""One self-contained page about a run."""

from rlaif_pl.reporting.html import write_report

__all__ = ["write_report"]
