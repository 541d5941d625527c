"""Divide requests among servers; a dead one is dropped and what it had is asked elsewhere."""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rlaif_pl.rl.vllm.client import Client, ServerGoneError

Job = TypeVar("Job")
Result = TypeVar("Result")


class Servers:
    """Servers that answer, of those named; each is sent ``concurrency`` requests at a time."""

    def __init__(self, clients: Sequence[Client], concurrency: int) -> None:
        self.all = tuple(clients)
        self.alive = list(clients)
        self.concurrency = concurrency
        self._reasons: dict[str, str] = {}
        self._lock = threading.Lock()

    def drop(self, client: Client, error: Exception) -> None:
        """Ask a server no more, with a notice."""
        with self._lock:
            if client not in self.alive:
                return
            self.alive.remove(client)
            self._reasons[client.url] = str(error)
        left = ", ".join(each.url for each in self.alive) or "none"
        warnings.warn(
            f"{error}; its prompts are asked elsewhere, servers left: {left}", stacklevel=2
        )

    def each(self, do: Callable[[Client], object]) -> None:
        """Do something with every server that answers, one after the other, as long as one is left."""
        for client in list(self.alive):
            try:
                do(client)
            except ServerGoneError as error:
                self.drop(client, error)
        self.require()

    def require(self) -> None:
        """Refuse (ConnectionError) to go on without a server."""
        if self.alive:
            return
        said = "; ".join(self._reasons[url] for url in sorted(self._reasons))
        raise ConnectionError(
            f"expected a vLLM server to sample from, none of {len(self.all)} is left: {said}; start "
            "them again and resume the run from its last checkpoint, or leave rollout out to sample "
            "in this process"
        )

    def ask_all(self, jobs: Sequence[Job], ask: Callable[[Client, Job], Result]) -> list[Result]:
        """Ask every job of some server; each takes the next as it has room. In the jobs' order."""
        results: dict[int, Result] = {}
        while len(results) < len(jobs):
            self.require()
            self._round(deque(n for n in range(len(jobs)) if n not in results), jobs, ask, results)
        return [results[n] for n in range(len(jobs))]

    def _round(
        self,
        waiting: deque[int],
        jobs: Sequence[Job],
        ask: Callable[[Client, Job], Result],
        results: dict[int, Result],
    ) -> None:
        """Ask what is waiting once; what a dying server had is left for another round."""

        def work(client: Client) -> None:
            while client in self.alive:
                try:
                    n = waiting.popleft()
                except IndexError:
                    return
                try:
                    results[n] = ask(client, jobs[n])
                except ServerGoneError as error:
                    self.drop(client, error)
                except BaseException:
                    waiting.clear()  # the others are to stop, too
                    raise

        each = min(self.concurrency, len(waiting))
        workers = [client for client in self.alive for _ in range(each)]
        with ThreadPoolExecutor(len(workers)) as pool:
            futures = [pool.submit(work, client) for client in workers]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                waiting.clear()  # an interrupt reaches this thread alone
                raise
