"""Processes that train together: where those of one start meet, and which of them died since."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from torch import distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore

BEAT = 1.0  # seconds
GO_ON = (
    "see its log above, and whether its host ran out of memory; then give the same command again with "
    "--ckpt_path last (run and torchrun --max-restarts go on by themselves)"
)
CLOSED = ("connection closed by peer", "connection reset", "socket", "timed out")
OF_COLLECTIVES = ("gloo", "nccl", *CLOSED)
SHARED = "TORCHELASTIC_USE_AGENT_STORE"
WAIT = 0.02  # seconds between two looks at torchrun's store
_kept: list[TCPStore] = []  # rank 0's server has to live as long as the process


def meet(timeout: float = 600.0) -> bool:
    """Let the processes of this attempt meet in a new store, if torchrun's agent has one for all.

    torchrun keeps one store for all attempts, and the processes put their addresses into it under the
    same names each time (torch 2.13: ``_create_c10d_store``): those of a second attempt would connect
    to processes that are dead. Sets MASTER_PORT; does nothing in a process that torchrun did not start.
    Returns whether the attempt is a restart, alike on all ranks; RuntimeError after ``timeout``.
    """
    if os.environ.get(SHARED) != str(True):
        return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    whole = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=timeout))
    agent = PrefixStore("rlaif_pl", whole)
    if rank == 0:
        # More than one may listen at a port within a process: env:// then takes this server.
        server = TCPStore(address, 0, is_master=True, wait_for_workers=False, multi_tenant=True)
        _kept.append(server)
        # The first rank 0 that this store sees counts 1, also where agents count restarts differently.
        attempt = agent.add("attempts", 1)
        is_restart = attempt > 1 or int(os.environ["TORCHELASTIC_RESTART_COUNT"]) > 0
        said: dict[str, object] = {"port": server.port, "is_restart": is_restart}
        invite(agent, size, said, time.monotonic() + timeout)
    else:
        said = accept(agent, rank, time.monotonic() + timeout)
    os.environ.update({SHARED: str(False), "MASTER_PORT": str(said["port"])})
    return bool(said["is_restart"])


def invite(agent: Store, size: int, said: dict[str, object], deadline: float) -> None:
    """Tell all other ranks what ``said`` holds, once each has shown that it belongs to this attempt.

    What is in the store may be of dead processes. So each rank leaves a token that none ever had, and
    takes an invitation only if it names that; rank 0 repeats it until all have taken the same one.
    """
    others = [str(rank) for rank in range(1, size)]
    tokens: dict[str, str] = {}
    invitation = ""
    while True:
        found = {rank: _get(agent, f"token/{rank}") for rank in others}
        if found != tokens or not invitation:
            tokens, invitation = found, uuid.uuid4().hex
            agent.set("invitation", json.dumps({**said, "id": invitation, "tokens": tokens}))
        missing = [rank for rank in others if _get(agent, f"taken/{rank}") != invitation]
        if not missing:
            agent.set("begun", invitation)
            return
        _pause(deadline, f"rank {', '.join(missing)}")


def accept(agent: Store, rank: int, deadline: float) -> dict[str, object]:
    """Leave this rank's token and wait for the invitation that names it."""
    token, taken = uuid.uuid4().hex, ""
    agent.set(f"token/{rank}", token)
    while True:
        invitation = json.loads(_get(agent, "invitation") or "{}")
        if invitation.get("tokens", {}).get(str(rank)) == token:
            if taken != invitation["id"]:
                taken = invitation["id"]
                agent.set(f"taken/{rank}", taken)
            if _get(agent, "begun") == taken:
                return dict(invitation)
        _pause(deadline, "rank 0")


def _get(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def _pause(deadline: float, awaited: str) -> None:
    if time.monotonic() > deadline:
        raise RuntimeError(
            f"expected all processes of this start by torchrun to come, {awaited} did not; look at its "
            "log and at its host, then start again: a fit goes on from its last checkpoint"
        )
    time.sleep(WAIT)


class Peers:
    """Shows the others that this process lives, and ends it where one of them does not answer.

    A collective knows an address at most, and waits for half an hour (while labels are made: for ever).
    Here each process shows every second that it lives, in a store that nothing else uses, and looks at
    the others. After ``patience`` seconds a rank is given up, with 0 never.
    """

    def __init__(self, store: TCPStore, rank: int, size: int, patience: float) -> None:
        self.store, self.rank, self.patience = store, rank, patience
        self.others = [other for other in range(size) if other != rank]
        self.names = {0: "rank 0"}
        self._seen = {other: (b"", time.monotonic()) for other in self.others}
        self._facts: dict[int, dict[str, object]] = {}
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._beats = 0
        self._rounds = 0  # how often the store answered all that was asked

    def start(self) -> None:
        """Say who this process is, learn who the others are, and begin to watch."""
        own = {"host": socket.gethostname(), "pid": os.getpid(), "parent": os.getppid()}
        self.store.set(f"who/{self.rank}", json.dumps(own))
        for other in self.others:
            self._facts[other] = json.loads(self.store.get(f"who/{other}"))
            host, pid = self._facts[other]["host"], self._facts[other]["pid"]
            self.names[other] = f"rank {other} on {host} (process {pid})"
        for name, work in (("peers", self._watch), ("store", self._watch_store)):
            threading.Thread(target=work, name=name, daemon=True).start()

    def stop(self, message: str = "") -> None:
        """Tell the others that this process is at its end, and why if it failed."""
        self._ended.set()
        with suppress(RuntimeError, OSError), self._turn():  # who keeps the store may have ended
            self.store.set(f"beat/{self.rank}", f"ended {message}")

    def diagnosis(self, seconds: float = 3 * BEAT) -> str:
        """Name the ranks that died or failed; empty where all live."""
        began = time.monotonic()
        while True:
            told = [text for other in self.others if (text := self._state(other, began, seconds))]
            if told or time.monotonic() > began + seconds:
                return "; ".join(told)
            time.sleep(0.1)

    def _state(self, other: int, began: float, seconds: float) -> str:
        if self._is_dead_here(other):
            return f"{self.names[other]} died"
        try:
            beat, since = self._look(other)
        except (RuntimeError, OSError):
            return f"{self.names[0]} died or cannot be reached"
        if beat.startswith(b"ended "):
            why = beat[len(b"ended ") :].decode()
            return f"{self.names[other]} ended" + (f" with: {why}" if why else "")
        still = time.monotonic() - max(since, began)
        return f"{self.names[other]} shows no sign of life" if still > seconds - 0.2 else ""

    def _is_dead_here(self, other: int) -> bool:
        facts = self._facts.get(other)
        if facts is None or facts["host"] != socket.gethostname():
            return False
        try:
            with open(f"/proc/{facts['pid']}/stat", encoding="utf-8") as file:
                return file.read().rpartition(")")[2].split()[0] in "ZX"
        except FileNotFoundError:
            return os.path.isdir("/proc/self")
        except OSError:
            return False

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Use the store alone; TimeoutError where the other thread is stuck in it (a cut cable)."""
        if not self._lock.acquire(timeout=3 * BEAT):
            raise TimeoutError("the store does not answer")
        try:
            yield
        finally:
            self._lock.release()

    def _look(self, other: int) -> tuple[bytes, float]:
        """Return a rank's last sign of life and when it was first seen."""
        with self._turn():
            key = f"beat/{other}"
            beat = self.store.get(key) if self.store.check([key]) else b""
        if beat != self._seen[other][0]:
            self._seen[other] = (beat, time.monotonic())
        return self._seen[other]

    def _watch(self) -> None:
        while not self._ended.wait(BEAT):
            with suppress(RuntimeError, OSError):
                self._beats += 1
                with self._turn():
                    if not self._ended.is_set():
                        self.store.set(f"beat/{self.rank}", str(self._beats))
                for other in self.others:
                    beat, since = self._look(other)
                    is_silent = not beat.startswith(b"ended ")
                    if self.patience and is_silent and time.monotonic() - since > self.patience:
                        self._give_up(self.names[other])
                self._rounds += 1

    def _watch_store(self) -> None:
        """Give rank 0 up, which keeps the store, where that fails or does not answer at all."""
        known, waited = self._rounds, 0.0  # counted in beats: time that this process slept is none
        while not self._ended.wait(BEAT):
            known, waited = self._rounds, 0.0 if known != self._rounds else waited + BEAT
            if self.patience and waited > self.patience:
                self._give_up(self.names[0])

    def _give_up(self, name: str) -> None:
        """End this process, whatever its other threads wait for."""
        with suppress(OSError):  # the terminal may be gone; this process has to end all the same
            sys.stderr.write(
                f"error: rank {self.rank} expected a sign of life from all processes, {name} has not "
                f"answered for {self.patience:g} s (--peer_timeout); {GO_ON}\n"
            )
            sys.stderr.flush()
        here = (socket.gethostname(), os.getpid())
        # A rank that this one started, and that is stopped, would outlive it.
        for facts in self._facts.values():
            if (facts["host"], facts.get("parent")) == here:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(int(str(facts["pid"])), signal.SIGKILL)
        os._exit(1)


def join(patience: float) -> Peers | None:
    """Watch the other ranks of the process group; None where there are none."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    rank, size = dist.get_rank(), dist.get_world_size()
    address = os.environ["MASTER_ADDR"]
    wait = timedelta(seconds=max(patience, 10 * BEAT))
    server = None
    if rank == 0:
        server = TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=wait)
    said = [server.port if server else 0]
    dist.broadcast_object_list(said, src=0)
    store = server or TCPStore(address, said[0], is_master=False, timeout=wait)
    peers = Peers(store, rank, size, patience)
    peers.start()
    return peers


def is_of_collectives(error: BaseException) -> bool:
    """Tell whether an error is what a collective says of a rank that is gone."""
    said = f"{type(error).__name__} {error}".lower()
    return isinstance(error, RuntimeError) and any(word in said for word in OF_COLLECTIVES)


def explained(error: BaseException, peers: Peers) -> str:
    """Return the message of a failed collective: who is gone, and what to do."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    alive = "no process is known to be dead: the network between hosts may be cut"
    cause = peers.diagnosis() or alive
    return f"rank {peers.rank} expected all processes to go on, {cause}; {GO_ON} ({lines[0]})"
