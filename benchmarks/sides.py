"""Sides of a comparison of training steps, each a process of its own that takes a step when it is told.

So the peak memory of a side is its own; and as they take turns, other work on the machine slows all.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
from device import Place
from timing import peak_resident, resident

Message = dict[str, Any]


class Line:
    """Messages from a side to the driver, on what was standard output before anyone printed to it.

    Args:
        place: Where the steps are taken.
        gives_back: Give freed memory back after a step, as a GPU's always is, for the other sides.
    """

    def __init__(self, place: Place, gives_back: bool = False) -> None:
        self.place, self.gives_back = place, gives_back
        self.stream: TextIO = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.imports = 0
        self.room = 0  # bytes of a GPU that torch kept of the last step for the next
        self.began = self.worked = 0.0

    def imported(self) -> None:
        """Note the memory before anything is loaded; a GPU has none of it in use."""
        self.imports = 0 if self.place.is_cuda else resident()

    def say(self, **message: Any) -> None:
        """Send one message."""
        self.stream.write(json.dumps(message) + "\n")
        self.stream.flush()

    def ready(self, logprobs: Sequence[float]) -> None:
        """Say that everything is loaded."""
        self.say(logprobs=list(logprobs), imports=self.imports)

    def begin(self) -> None:
        """Wait to be told, take the memory of the last step anew, then start the clock."""
        if not sys.stdin.readline():
            sys.exit(0)
        if self.place.is_cuda:  # in one piece, which torch cuts up, so that the step asks for none
            torch.empty(self.room, dtype=torch.uint8, device=self.place.device)
            torch.cuda.reset_peak_memory_stats()
        self.place.synchronize()
        self.began, self.worked = time.perf_counter(), time.process_time()

    def end(self, **found: float) -> None:
        """Say what the step took, its peak memory (resident, or a GPU's; bytes), and what it found."""
        self.place.synchronize()
        seconds, processor = time.perf_counter() - self.began, time.process_time() - self.worked
        peak = torch.cuda.max_memory_allocated() if self.place.is_cuda else peak_resident()
        if self.place.is_cuda:  # kept by four sides, it would be more than a GPU has
            self.room = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
            torch.cuda.empty_cache()
        elif self.gives_back:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        self.say(seconds=seconds, processor=processor, peak=peak, **found)


class Worker:
    """The driver's end of a side.

    Args:
        side: Its name.
        script: Program of the sides, which takes a name and the file of what all do.
        job: That file.
        place: Where the steps are taken.
    """

    def __init__(self, side: str, script: Path, job: Path, place: Place) -> None:
        self.side, self.log = side, job.with_name(f"{side}.log")
        threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
        quiet = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": threads}
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, str(script), side, str(job)],
                env={**place.child_environment(), **quiet},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )

    def hear(self) -> Message:
        """Return the next message.

        Raises:
            RuntimeError: The process ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            end = self.log.read_text()[-2000:]
            raise RuntimeError(f"expected a message from {self.side}, it ended; it said:\n{end}")
        message: Message = json.loads(line)
        return message

    def step(self) -> Message:
        """Let it take one step and return what it measured."""
        assert self.process.stdin is not None
        if self.process.poll() is None:
            self.process.stdin.write("step\n")
            self.process.stdin.flush()
        return self.hear()

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def running(
    sides: Sequence[str], script: Path, job: Mapping[str, Any], folder: Path, place: Place
) -> Iterator[list[Worker]]:
    """Start the sides on a job, which is written to a file of the folder; end them afterwards."""
    file, workers = folder / "job.json", list[Worker]()
    file.write_text(json.dumps(job))
    try:
        for side in sides:
            workers.append(Worker(side, script, file, place))
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def answers(
    workers: Sequence[Worker],
    ask: Callable[[Worker], Message],
    ours: Collection[str],
    left_out: dict[str, str],
) -> dict[str, Message]:
    """Ask the sides in turn; a peer that ends instead is left out from then on, with its last words.

    Raises:
        RuntimeError: A side of ours ended.
    """
    found: dict[str, Message] = {}
    for worker in workers:
        if worker.side in left_out:
            continue
        try:
            message = ask(worker)
        except RuntimeError as error:
            if worker.side in ours:
                raise
            left_out[worker.side] = str(error)
            sys.stderr.write(f"{worker.side} is left out: {error}\n")
            continue
        found[worker.side] = message
        if "seconds" in message:
            sys.stderr.write(f"{worker.side}: {message['seconds']:.3f} s\n")
    return found
