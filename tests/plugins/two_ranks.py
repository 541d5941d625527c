"""Start commands in two processes, as torchrun starts them, and wait for both (no test in here)."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[1] / "training"  # where rank_record lies
PATIENCE = 600  # seconds, for machines that are busy with something else
FITS = """
import sys
from rlaif_pl.cli.main import main
for word in sys.argv[1:]:
    command, file = word.split("=", 1)
    code = main([command, "--config", file])
    if code:
        sys.exit(code)
"""


def component(path, **options):
    return {"class_path": path, "init_args": options}


def environment(**more):
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    threads = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **threads, "PYTHONPATH": path, **more}


def finish(processes):
    """Wait for all processes; returns their exit statuses and what the first one said."""
    try:
        said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return [process.returncode for process in processes], "\n".join(said)


def start(line, environment, folder):
    return subprocess.Popen(
        line,
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run_in_two_processes(files, folder):
    """Run ``(command, config)`` one after the other, in each of two processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
    }
    line = [sys.executable, "-c", FITS, *(f"{command}={file}" for command, file in files)]
    ranks = [environment(**shared, RANK=str(n), LOCAL_RANK=str(n)) for n in range(2)]
    codes, said = finish([start(line, rank, folder) for rank in ranks])
    assert codes == [0, 0], said
