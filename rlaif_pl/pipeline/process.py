"""Run one stage in a process of its own, its output going to the terminal and to a log.

One a stage, since a distributed strategy starts the program once a rank with the same arguments.
"""

from __future__ import annotations

import codecs
import ctypes
import errno
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from rlaif_pl.data.checksum import is_whole
from rlaif_pl.pipeline.experiment import Stage

CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
# Lightning takes this name for "no job step": a stage starts its ranks by itself, where SLURM counts
# the one process of `run`.
NO_JOB_STEP = {"SLURM_JOB_NAME": "bash"}
GRACE = ((signal.SIGINT, 20.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))  # seconds for each
CHUNK = 65536  # bytes
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def arguments(stage: Stage, folder: Path) -> list[str]:
    """Return the program and arguments of a stage; an interrupted ``fit`` goes on from a checkpoint."""
    line = [sys.executable, "-m", "rlaif_pl", *stage.command.split()]
    line += ["--config", str(folder / "config.yaml")]
    if stage.command == "fit" and (saved := last_checkpoint(folder / "checkpoints")):
        line += ["--ckpt_path", str(saved)]
    return line


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that is whole, else the newest (`fit` refuses it); None: none."""
    found = sorted(folder.glob("last*.ckpt"), key=lambda p: p.stat().st_mtime_ns, reverse=True)
    for path in found:
        if is_whole(path):
            if path != found[0]:
                sys.stderr.write(f"{found[0]} is damaged; going on from {path}, which is whole\n")
            return path
    return found[0] if found else None


def launch(stage: Stage, folder: Path) -> int:
    """Run a stage; returns its exit status (128 + number where a signal ended it)."""
    return stream(arguments(stage, folder), folder / "log.txt", sys.stdout.isatty())


def stream(line: list[str], log: Path, terminal: bool) -> int:
    """Run a program, copying its output to standard output and, without control codes, to a log.

    Whatever ends this early ends the program and its children too; with a ``terminal`` it draws bars.
    """
    reader, writer = pty.openpty() if terminal else os.pipe()
    if terminal:
        size = os.get_terminal_size(sys.stdout.fileno()) if sys.stdout.isatty() else (120, 40)
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    with log.open("a", encoding="utf-8") as file, os.fdopen(reader, "rb", buffering=0):
        tee = Tee(reader, file)
        process = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            env={**os.environ, **NO_JOB_STEP, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            close_fds=False,  # the child inherits the folder's lock, the one inheritable descriptor
            preexec_fn=_prepare_child,
        )
        os.close(writer)
        try:
            tee.copy(process)
        finally:
            _end(process, tee)
            tee.finish()
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


class Tee:
    """Copies what a program prints to standard output and, in finished lines, to a log."""

    def __init__(self, reader: int, log: TextIO) -> None:
        self.reader, self.log = reader, log
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.line = ""

    def copy(self, process: subprocess.Popen[bytes], seconds: float | None = None) -> None:
        """Copy until the program has ended and all it said is copied, or for some seconds."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while deadline is None or time.monotonic() < deadline:
            ended = process.poll() is not None  # asked first, so that its last words are not missed
            if select.select([self.reader], [], [], 0.0 if ended else 0.1)[0]:
                if not self._step():
                    break
            elif ended:
                return  # something it left behind may hold the pipe open for ever
        with suppress(subprocess.TimeoutExpired):
            process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def finish(self) -> None:
        """Write the unfinished last line, if there is one."""
        if self.line:
            self._write("\n")

    def _step(self) -> bool:
        chunk = b""
        try:
            chunk = os.read(self.reader, CHUNK)
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux says that nobody has the terminal open
                raise
        text = self.decoder.decode(chunk, final=not chunk)
        sys.stdout.write(text)
        sys.stdout.flush()
        self._write(text)
        return bool(chunk)

    def _write(self, text: str) -> None:
        """Log the finished lines; of a line drawn several times (a progress bar) the last form."""
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            drawn = [part for part in CONTROL.sub("", line).split("\r") if part.strip()]
            self.log.write((drawn[-1] if drawn else "") + "\n")
        if lines:
            self.log.flush()
        self.line = self.line[-CHUNK:]


def last_lines(log: Path, count: int) -> str:
    """Return the end of a log, "" where there is none."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return "\n".join(text.splitlines()[-count:])


def _end(process: subprocess.Popen[bytes], tee: Tee) -> None:
    """End a program that still runs, politely first, then all that is left of its group."""
    try:
        for number, seconds in GRACE:
            if process.poll() is not None:
                break
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            tee.copy(process, seconds)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _prepare_child() -> None:
    """Let a stage be interrupted, and end with a killed parent (Linux; elsewhere the lock waits)."""
    # a shell has what it starts in the background ignore SIGINT: a stage could not save in time
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
