"""One experiment on several nodes: node 0 runs it, the others join the stages that span nodes.

Nodes speak through files of the run folder, which all of them see: node 0 shows that it lives and says
which stage begins where (``0.json``), each other node whom it follows and which part failed. Only node
0 decides, starts and records stages, so none is started twice. The processes of a stage meet each other
at the address and port that node 0 names.
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
from rlaif_pl.pipeline.yaml_files import at

FOLDER = ".nodes"
BEAT = 1.0  # seconds between two signs of life of node 0
PATIENCE = 60.0  # seconds without one after which node 0 is given up
ARRIVAL = 1800.0  # seconds to wait for the other nodes, as torch does
GRACE = 20.0  # seconds for a stage to end by itself once another node's part has failed
LOOK = 0.2  # seconds between two looks at files


def num_nodes(experiment: Experiment, stage: Stage) -> int:
    """Return how many nodes a stage spans: its ``trainer.num_nodes``."""
    number = at(experiment.placed(stage), "trainer.num_nodes")
    return number if isinstance(number, int) and stage.command in TRAINER_COMMANDS else 1


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
        self.experiment, self.address, self.launch_here = experiment, address, launch
        self.folder = experiment.out / FOLDER
        self.others = {rank: self.folder / f"{rank}.json" for rank in range(1, nodes)}
        self.run = uuid.uuid4().hex  # which no other run ever had
        self.state: dict[str, Any] = {"run": self.run, "beat": 0, "number": 0}
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="nodes", daemon=True)
        self._failed_since: float | None = None
        self._is_running = False
        self.code = 1  # how the run ended, for the other nodes

    def __enter__(self) -> MainNode:
        self._tell()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._tell(ended=self.code)

    def launch(self, stage: Stage, folder: Path) -> int:
        """Run a stage, with all nodes if it spans them; returns this node's exit status."""
        if num_nodes(self.experiment, stage) == 1:
            return self.launch_here(stage, folder)
        with socket.socket() as probe:
            probe.bind(("", 0))  # a port that nothing listens at now
            port = probe.getsockname()[1]
        words = arguments(stage, folder)[1:]
        order = {"stage": stage.name, "address": self.address, "port": port, "words": words}
        self._tell(order=order, number=self.state["number"] + 1)
        self._failed_since, self._is_running = None, True
        try:
            with _meeting(order, 0):
                return self.launch_here(stage, folder)
        finally:
            self._is_running = False

    def gather(self) -> None:
        """Wait until all other nodes follow this run: one that came after its end would wait."""
        deadline, is_said = time.monotonic() + ARRIVAL, False
        others = self.others.items()
        while missing := [str(n) for n, path in others if _read(path).get("run") != self.run]:
            names, nodes = ", ".join(missing), len(others) + 1
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"expected {nodes} nodes, node {names} did not come in {ARRIVAL:g} s; give the "
                    "same command there with its --node_rank, and look whether it sees "
                    f"{self.experiment.out}"
                )
            if not is_said:
                sys.stderr.write(f"waiting for node {names} of {nodes}\n")
                is_said = True
            time.sleep(LOOK)

    def _tell(self, **news: Any) -> None:
        with self._lock:
            self.state.update(news)
            write_json(self.folder / "0.json", self.state)

    def _beat(self) -> None:
        """Show that this node lives; end a stage whose part on another node has failed."""
        while not self._ended.wait(BEAT):
            self._tell(beat=self.state["beat"] + 1)
            order = f"{self.run}/{self.state['number']}"
            others = self.others.items()
            failed = [rank for rank, path in others if _read(path).get("failed") == order]
            if not (self._is_running and failed):
                continue
            self._failed_since = self._failed_since or time.monotonic()
            if time.monotonic() - self._failed_since > GRACE:
                stage = self.state["order"]["stage"]
                log = self.experiment.out / stage / f"log-node{failed[0]}.txt"
                sys.stderr.write(
                    f"node {failed[0]} failed in the stage {stage}; its log is {log}\n"
                )
                self._is_running = False
                os.kill(os.getpid(), signal.SIGTERM)


def follow(
    experiment: Experiment, rank: int, launch: Callable[[list[str], Path, bool], int] = stream
) -> int:
    """Join the stages that span nodes, until node 0 says that the run has ended, and how."""
    folder = experiment.out / FOLDER
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
        log = experiment.out / order["stage"] / f"log-node{rank}.txt"
        with _meeting(order, rank):
            code = launch([sys.executable, *order["words"]], log, sys.stdout.isatty())
        if code:
            own["failed"] = f"{news['run']}/{number}"
            write_json(folder / f"{rank}.json", own)
    raise AssertionError


def _news(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what node 0 says whenever it changes; what it said before this node came is of old."""
    known, since, patience = _read(path), time.monotonic(), ARRIVAL
    while True:
        news = _read(path)
        if news and news != known:
            yield news
            known, since, patience = news, time.monotonic(), PATIENCE
        if time.monotonic() - since > patience:
            raise RuntimeError(
                f"expected a sign of life of node 0 in {path}, there was none for {patience:g} s; see "
                "what it says, then give the same command on each node: finished stages are skipped"
            )
        time.sleep(LOOK)


@contextmanager
def _meeting(order: dict[str, Any], rank: int) -> Iterator[None]:
    """Set the variables by which a stage's processes meet, for programs that are started meanwhile."""
    place = {"MASTER_ADDR": order["address"], "MASTER_PORT": str(order["port"])}
    place["NODE_RANK"] = str(rank)
    before = {name: os.environ.pop(name) for name in place if name in os.environ}
    os.environ.update(place)
    try:
        yield
    finally:
        for name in place:
            del os.environ[name]
        os.environ.update(before)


def _read(path: Path) -> dict[str, Any]:
    """Read a small file that another node replaces; empty where it is not there (yet)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
