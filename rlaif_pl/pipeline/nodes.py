"""One experiment on several nodes: node 0 runs it, the others join the stages that span nodes.

Nodes speak through files of the run folder, which all of them see: node 0 shows that it lives and
says which stage begins where, each other node shows whom it follows. Only node 0 decides, starts and
records stages, so none is started twice. The processes of a stage
meet each other at the address and port that node 0 names.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlaif_pl.data.metric_files import write_json
from rlaif_pl.pipeline.experiment import TRAINER_COMMANDS, Experiment, Stage
from rlaif_pl.pipeline.process import arguments, stream

FOLDER = ".nodes"
BEAT = 1.0  # seconds between two signs of life of node 0
PATIENCE = 60.0  # seconds without one after which node 0 is given up
ARRIVAL = 1800.0  # seconds to wait for the other nodes, as torch does
GRACE = 20.0  # seconds for a stage to end by itself once another node's part has failed
LOOK = 0.2  # seconds between two looks at files


def num_nodes(experiment: Experiment, stage: Stage) -> int:
    """Return how many nodes a stage spans: its ``trainer.num_nodes``."""
    trainer = experiment.placed(stage).get("trainer")
    if stage.command not in TRAINER_COMMANDS or not isinstance(trainer, dict):
        return 1
    number = trainer.get("num_nodes", 1)
    return number if isinstance(number, int) else 1


def check_nodes(experiment: Experiment, stages: Sequence[Stage], nodes: int) -> None:
    """Refuse stages that span another number of nodes than one or all."""
    for stage in stages:
        count = num_nodes(experiment, stage)
        if count not in (1, nodes):
            raise ValueError(
                f"{experiment.file}, stage {stage.name!r}: expected trainer.num_nodes of 1 or "
                f"{nodes}, the nodes of this run, got {count}; give the same command on each of "
                f"{count} nodes, with --nodes {count} and the --node_rank of each (0 to {count - 1})"
            )


class MainNode:
    """Node 0: launches stages, those that span nodes once all nodes are there."""

    def __init__(
        self, experiment: Experiment, nodes: int, address: str, launch: Callable[[Stage, Path], int]
    ) -> None:
        self.experiment, self.nodes, self.address = experiment, nodes, address
        self.launch_here = launch
        self.folder = experiment.out / FOLDER
        self.state: dict[str, Any] = {"run": uuid.uuid4().hex, "beat": 0, "number": 0}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="nodes", daemon=True)
        self._failed_since: float | None = None
        self._is_running = False

    def __enter__(self) -> MainNode:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._tell()
        self._thread.start()
        try:
            self._gather()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._tell(ended=self.state.get("ended", 1))

    def launch(self, stage: Stage, folder: Path) -> int:
        """Run a stage, with all nodes if it spans them; returns this node's exit status."""
        if num_nodes(self.experiment, stage) == 1:
            return self.launch_here(stage, folder)
        words = arguments(stage, folder)[1:]
        order = {"stage": stage.name, "address": self.address, "port": free_port(), "words": words}
        self._tell(order=order, number=self.state["number"] + 1)
        self._failed_since, self._is_running = None, True
        try:
            with environment(meeting(order, 0)):
                return self.launch_here(stage, folder)
        finally:
            self._is_running = False

    def finish(self, code: int) -> None:
        """Note how the run ended, for the other nodes."""
        self.state["ended"] = code

    def _gather(self) -> None:
        """Wait until all other nodes follow this run: one that came after its end would wait."""
        deadline, is_said = time.monotonic() + ARRIVAL, False
        while missing := [n for n in range(1, self.nodes) if self._of(n).get("run") != self.run]:
            names = ", ".join(map(str, missing))
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"expected {self.nodes} nodes, node {names} did not come in {ARRIVAL:g} s; give "
                    "the same command there with its --node_rank, and look whether it sees "
                    f"{self.experiment.out}"
                )
            if not is_said:
                sys.stderr.write(f"waiting for node {names} of {self.nodes}\n")
                is_said = True
            time.sleep(LOOK)

    @property
    def run(self) -> str:
        """Name of this run, which no other ever had."""
        return str(self.state["run"])

    def _of(self, rank: int) -> dict[str, Any]:
        return read(self.folder / f"{rank}.json")

    def _tell(self, **news: Any) -> None:
        with self._lock:
            self.state.update(news)
            write_json(self.folder / "0.json", self.state)

    def _beat(self) -> None:
        """Show that this node lives; end a stage whose part on another node has failed."""
        while not self._ended.wait(BEAT):
            self._tell(beat=self.state["beat"] + 1)
            failed = [n for n in range(1, self.nodes) if self._of(n).get("failed") == self._order]
            if not (self._is_running and failed):
                continue
            self._failed_since = self._failed_since or time.monotonic()
            if time.monotonic() - self._failed_since > GRACE:
                stage = self.state["order"]["stage"]
                sys.stderr.write(
                    f"node {failed[0]} failed in the stage {stage}; its log is "
                    f"{self.experiment.out / stage / log_name(failed[0])}\n"
                )
                self._is_running = False
                os.kill(os.getpid(), signal.SIGTERM)

    @property
    def _order(self) -> str:
        return f"{self.run}/{self.state['number']}"


def follow(
    experiment: Experiment, rank: int, launch: Callable[[list[str], Path, bool], int] = stream
) -> int:
    """Join the stages that span nodes, until node 0 says that the run has ended, and how."""
    folder = experiment.out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    own, number = {"run": ""}, 0
    for news in _news(folder / "0.json"):
        if news["run"] != own["run"]:
            own, number = {"run": news["run"]}, news["number"]  # earlier orders are not for it
            write_json(folder / f"{rank}.json", own)
        if news.get("ended") is not None:
            return int(news["ended"])
        if news["number"] <= number:
            continue
        number, order = news["number"], news["order"]
        sys.stdout.write(f"stage {order['stage']}: joined by node {rank}\n")
        log = experiment.out / order["stage"] / log_name(rank)
        with environment(meeting(order, rank)):
            code = launch([sys.executable, *order["words"]], log, sys.stdout.isatty())
        if code:
            own["failed"] = f"{news['run']}/{number}"
            write_json(folder / f"{rank}.json", own)
    raise AssertionError


def _news(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what node 0 says whenever it changes; what it said before this node came is of old."""
    known, since, patience = read(path), time.monotonic(), ARRIVAL
    while True:
        news = read(path)
        if news and news != known:
            yield news
            known, since, patience = news, time.monotonic(), PATIENCE
        if time.monotonic() - since > patience:
            raise RuntimeError(
                f"expected a sign of life of node 0 in {path}, there was none for {patience:g} s; see "
                "what it says, then give the same command on each node: finished stages are skipped"
            )
        time.sleep(LOOK)


def meeting(order: dict[str, Any], rank: int) -> dict[str, str]:
    """Return the environment of a stage's processes, by which they meet."""
    return {
        "MASTER_ADDR": str(order["address"]),
        "MASTER_PORT": str(order["port"]),
        "NODE_RANK": str(rank),
    }


@contextmanager
def environment(more: dict[str, str]) -> Iterator[None]:
    """Set variables for the programs that are started meanwhile."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def log_name(rank: int) -> str:
    """Return the name of a node's log in a stage's folder."""
    return f"log-node{rank}.txt"


def free_port() -> int:
    """Return a port that nothing listens at now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def read(path: Path) -> dict[str, Any]:
    """Read a small file that another node replaces; empty where it is not there (yet)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
