"""A job of SLURM: whether this is one that was queued again, and asking for that."""

from __future__ import annotations

import os
import re
import subprocess
import sys

SIGNAL_HELP = "#SBATCH --requeue and --signal=SIGUSR1@120"


def job_id() -> str | None:
    """Return the job's name as ``scontrol`` takes it; None outside of a job."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "")
    return name if re.fullmatch(r"[0-9]+(_[0-9]+)?", name) else None


def is_requeued() -> bool:
    """Tell whether SLURM has started this job before."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")


def requeue() -> bool:
    """Have this job queued again; returns whether it is, and says on standard error why not."""
    job = job_id()
    if job is None:
        return False
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        code, reason = done.returncode, done.stderr.strip() or f"exit status {done.returncode}"
    except OSError as error:
        code, reason = 1, str(error)
    told = "is queued again"
    if code:
        told = (
            f"could not be queued again ({reason}); submit it once more, it goes on from its last "
            f"checkpoint (it needs {SIGNAL_HELP})"
        )
    sys.stderr.write(f"job {job} {told}\n")
    return not code
