"""A small fit by one process or two, and two processes as torchrun has them (no test in here)."""

import multiprocessing
import os
import socket
import sys
import time
import traceback
from pathlib import Path

import torch
import yaml

import rlaif_pl.cli.commands.train  # noqa: F401
import rlaif_pl.training.callbacks  # noqa: F401 - here once, not in every forked process
from rlaif_pl.cli import main as cli

HERE = Path(__file__).parents[1] / "training"  # where rank_record lies
PATIENCE = 600  # seconds, for machines that are busy with something else
FORK = multiprocessing.get_context("fork")


def component(path, **options):
    return {"class_path": path, "init_args": options}


def bare_trainer(root, ranks, *callbacks, **more):
    """Return keys of ``trainer`` for a fit by so many processes that records its end, and no more."""
    return {
        "default_root_dir": str(root),
        "accelerator": "cpu",
        "devices": ranks,
        "strategy": "ddp" if ranks > 1 else "auto",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "callbacks": [component("rank_record.RankRecord"), *callbacks],
        **more,
    }


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


def run_in_two_processes(files, folder):
    """Run ``(command, config)`` one after the other, in each of two processes.

    They are forked with the variables of torchrun: importing anew takes longer than the fits.
    """
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
    ranks = [environment(**shared, RANK=str(n), LOCAL_RANK=str(n)) for n in range(2)]
    logs = [folder / f"log{n}.txt" for n in range(2)]
    processes = [
        FORK.Process(target=work, args=(files, folder, rank, log))
        for rank, log in zip(ranks, logs, strict=True)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + PATIENCE
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
        if any(process.exitcode for process in processes):
            break  # the other would wait for it
    for process in processes:
        process.kill()
        process.join()
    said = "\n".join(log.read_text() for log in logs)
    ends = [process.exitcode for process in processes]
    assert ends == [0, 0], f"{ends}\n{said}"


def work(files, folder, variables, log):
    """Be one of two processes: run the commands and end."""
    os.environ.update(variables)
    os.chdir(folder)
    sys.path.insert(0, str(HERE))
    torch.set_num_threads(1)  # OpenMP's own threads are not there in a forked process
    with log.open("w", buffering=1) as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
        sys.stdout = sys.stderr = stream
        try:
            for command, file in files:
                code = cli.main([command, "--config", str(file)])
                if code:
                    sys.exit(code)
        except Exception:
            traceback.print_exc()  # while there is a stream to say it on
            raise
