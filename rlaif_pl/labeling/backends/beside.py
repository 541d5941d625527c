"""Run a coroutine where a loop runs already (a notebook), its reports heard in the calling thread."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

from rlaif_pl.labeling.calls import Response

Done: TypeAlias = Callable[[int, Response], None]
Report: TypeAlias = tuple[int, Response, "Future[None]"]


def run_beside(work: Callable[[Done], Coroutine[Any, Any, None]], done: Done) -> None:
    """Run ``work`` on a loop in another thread while this one waits and makes its calls of ``done``.

    ``done`` is called here because its SQLite files belong to this thread. ``work`` goes on when a call
    has returned, and gets what it raised. Raises what ``work`` raises; an interrupt of this thread
    (Ctrl-C) ends ``work`` at its next report.
    """
    reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
    interrupt: BaseException | None = None

    def report(place: int, reply: Response) -> None:
        if interrupt is not None:
            raise interrupt
        heard: Future[None] = Future()
        reports.put((place, reply, heard))
        heard.result()

    with ThreadPoolExecutor(1, "endpoint") as pool:
        ended = pool.submit(lambda: asyncio.run(work(report)))
        ended.add_done_callback(lambda _: reports.put(None))
        try:
            while (found := reports.get()) is not None:
                _hear(done, *found)
        except BaseException as error:
            interrupt = error
            while (found := reports.get()) is not None:  # what was on its way when it came
                found[2].set_exception(error)
            raise
    ended.result()


def _hear(done: Done, place: int, reply: Response, heard: Future[None]) -> None:
    try:
        done(place, reply)
    except BaseException as error:
        heard.set_exception(error)
    else:
        heard.set_result(None)
