"""Restarts by torchrun: a meeting place of each attempt's own, and whether there was one before.

torchrun keeps one store for all attempts, and the processes put their addresses into it under
the same names each time (torch 2.13: ``_create_c10d_store``, TORCHELASTIC_USE_AGENT_STORE). Those of
a second attempt would read addresses of the first and connect to processes that are dead.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from datetime import timedelta

from torch.distributed import Store, TCPStore

SHARED = "TORCHELASTIC_USE_AGENT_STORE"
WAIT = 0.02  # seconds between two looks at the store
PREFIX = "rlaif_pl"
_kept: list[TCPStore] = []  # rank 0's server has to live as long as the process


def meet(timeout: float = 600.0) -> bool:
    """Let the processes of this attempt meet in a new store, if torchrun's agent has one for all.

    Sets MASTER_ADDR and MASTER_PORT; does nothing in a process that torchrun did not start. Returns
    whether the attempt is a restart, alike on all ranks; RuntimeError after ``timeout`` seconds.
    """
    if os.environ.get(SHARED) != str(True):
        return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    agent = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=timeout))
    if rank == 0:
        # More than one may listen at a port within a process: env:// then takes this server.
        server = TCPStore(address, 0, is_master=True, wait_for_workers=False, multi_tenant=True)
        _kept.append(server)
        # The first rank 0 that this store sees counts 1, also where agents count restarts differently.
        attempt = agent.add(f"{PREFIX}/attempts", 1)
        is_restart = attempt > 1 or int(os.environ["TORCHELASTIC_RESTART_COUNT"]) > 0
        said: dict[str, object] = {"port": server.port, "is_restart": is_restart}
        invite(agent, size, said, time.monotonic() + timeout)
    else:
        said = accept(agent, rank, time.monotonic() + timeout)
    os.environ.update({SHARED: str(False), "MASTER_PORT": str(said["port"])})
    return bool(said["is_restart"])


def invite(agent: Store, size: int, said: dict[str, object], deadline: float) -> None:
    """Tell all other ranks what ``said`` holds, once each has shown that it belongs to this attempt.

    What is in the store may be of processes that are dead. So each rank leaves a token that no other
    process ever had, and takes an invitation only if it names that token; rank 0 repeats it until all
    have taken the same one.
    """
    others = [str(rank) for rank in range(1, size)]
    tokens: dict[str, str] = {}
    invitation = ""
    while True:
        found = {rank: _get(agent, f"token/{rank}") for rank in others}
        if found != tokens or not invitation:
            tokens, invitation = found, uuid.uuid4().hex
            _set(agent, "invitation", json.dumps({**said, "id": invitation, "tokens": tokens}))
        if all(_get(agent, f"taken/{rank}") == invitation for rank in others):
            _set(agent, "begun", invitation)
            return
        missing = [rank for rank in others if _get(agent, f"taken/{rank}") != invitation]
        _pause(deadline, f"rank {', '.join(missing)}")


def accept(agent: Store, rank: int, deadline: float) -> dict[str, object]:
    """Leave this rank's token and wait for the invitation that names it."""
    token, taken = uuid.uuid4().hex, ""
    _set(agent, f"token/{rank}", token)
    while True:
        invitation = json.loads(_get(agent, "invitation") or "{}")
        if invitation.get("tokens", {}).get(str(rank)) == token:
            if taken != invitation["id"]:
                taken = invitation["id"]
                _set(agent, f"taken/{rank}", taken)
            if _get(agent, "begun") == taken:
                return dict(invitation)
        _pause(deadline, "rank 0")


def _get(store: Store, name: str) -> str:
    key = f"{PREFIX}/{name}"
    return store.get(key).decode() if store.check([key]) else ""


def _set(store: Store, name: str, value: str) -> None:
    store.set(f"{PREFIX}/{name}", value)


def _pause(deadline: float, awaited: str) -> None:
    if time.monotonic() > deadline:
        raise RuntimeError(
            f"expected all processes of this start by torchrun to come, {awaited} did not; look at its "
            "log and at its host, then start again: a fit goes on from its last checkpoint"
        )
    time.sleep(WAIT)
