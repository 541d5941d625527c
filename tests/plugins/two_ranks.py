"""A small fit by one process or two, and two processes as torchrun starts them (no test in here)."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import yaml

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


def small_fit(root, model, data, *callbacks, save_every=2, trainer=None, **more):
    """Write the config of an SFT of a tiny model, a row a step, that records its end and history.

    Args:
        root: Folder of the run; the file stands beside it.
        model: Folder of the model.
        data: Keys of ``data``.
        callbacks: Beside those that save and record.
        save_every: Steps between checkpoints.
        trainer: More keys of ``trainer``.
        more: Further keys of the file.
    """
    saving = {"save_last": True, "save_top_k": 0, "every_n_train_steps": save_every}
    config = {
        "trainer": {
            "default_root_dir": str(root),
            "accelerator": "cpu",
            "logger": component("rlaif_pl.training.callbacks.HistoryFile", save_dir=str(root)),
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "callbacks": [
                component("rank_record.RankRecord"),
                component("lightning.pytorch.callbacks.ModelCheckpoint", **saving),
                *callbacks,
            ],
            **(trainer or {}),
        },
        "model": component(
            "rlaif_pl.training.SFTModule",
            optimizer=component("torch.optim.AdamW", lr=0.01),
            backbone={"name": str(model), "trunk_layers": 2},
            lora={"r": 4, "alpha": 8},
        ),
        "data": {"task": "demonstrations", "batch_size": 1, **data},
        **more,
    }
    file = root.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config))
    return file


def environment(**more):
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    threads = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **threads, "PYTHONPATH": path, **more}


def finish(processes):
    """Wait for all processes; returns their exit statuses and what they said.

    Where one fails the others are ended: they would wait for it.
    """
    said = [""] * len(processes)

    def read(n):
        said[n] = processes[n].communicate()[0]
        if processes[n].returncode:
            end(processes)

    readers = [threading.Thread(target=read, args=(n,)) for n in range(len(processes))]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(PATIENCE)
    end(processes)
    return [process.wait() for process in processes], "\n".join(said)


def end(processes):
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


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
