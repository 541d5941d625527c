"""``report``: one HTML page about a run."""

import sys
from pathlib import Path

from rlaif_pl.reporting import write_report


def report(run_dir: str) -> int:
    """Write RUN_DIR/report.html from what the stages of a run left in their folders.

    Args:
        run_dir: Folder of the run.
    """
    sys.stdout.write(f"report: {write_report(Path(run_dir)).resolve()}\n")
    return 0
