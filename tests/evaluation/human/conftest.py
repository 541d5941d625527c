"""Samples whose policies have names found nowhere else, and the command in a process of its own."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlaif_pl.cli import main as cli
from rlaif_pl.evaluation.human.tasks import Item, RatingTask

POLICIES = ("zebra", "yacht", "xenon")
PATIENCE = 60.0  # seconds until a server has started


@pytest.fixture
def samples(tmp_path) -> Path:
    """Write twelve prompts with two responses of each of three policies, as ``evaluate matrix``."""
    rows = [
        {
            "prompt": f"prompt {n}",
            "group": f"g{n}",
            "reference": f"reference {n}",
            "zebra": [f"one {n}..", f"one more {n}"],
            "yacht": [f"two {n}", f"two more {n}"],
            "xenon": [f"three {n}", f"three more {n}"],
        }
        for n in range(12)
    ]
    path = tmp_path / "samples" / "samples.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def tasks() -> dict[str, RatingTask]:
    """Return two prompts with responses of 4, 2 and 6 characters."""
    items = tuple(Item(t, (p,)) for t, p in zip(("aaaa", "bb", "cccccc"), "abc", strict=True))
    return {
        name: RatingTask(name, f"prompt {name}", f"group {name}", items) for name in ("t1", "t2")
    }


class Server:
    """The command ``rate`` at work in a forked process, as torch is slow to import anew."""

    def __init__(self, words: tuple[str, ...], log: Path) -> None:
        self.process = multiprocessing.get_context("fork").Process(
            target=serve, args=(words, log), daemon=True
        )
        self.process.start()
        end = time.monotonic() + PATIENCE
        while not (found := re.search(r"rate at (\S+)", log.read_text() if log.exists() else "")):
            assert self.process.is_alive(), log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        self.link = found[1]

    def post(self, path: str, **body) -> dict:
        request = urllib.request.Request(
            f"{self.link}api/{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def stop(self, how: int = signal.SIGKILL) -> int | None:
        if self.process.is_alive():
            os.kill(self.process.pid, how)
        self.process.join(30)
        return self.process.exitcode


def serve(words: tuple[str, ...], log: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("w", buffering=1) as file, contextlib.redirect_stdout(file):
        sys.exit(cli.main(["rate", *words, "--page.port", "0"]))


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Server]]:
    """Return a starter of servers, which are killed at the end."""
    servers: list[Server] = []

    def run(*words: str) -> Server:
        servers.append(Server(words, tmp_path / f"server{len(servers)}.log"))
        return servers[-1]

    yield run
    for server in servers:
        server.stop()
