"""One self-contained page about a run."""

from rlaif_pl.reporting.html import write_report as write_report
