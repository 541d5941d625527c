"""Run a coroutine where a loop runs already (a notebook), while the calling thread waits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any


def run_beside(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` on a loop in another thread and raise what it raises.

    An interrupt of the waiting thread (Ctrl-C) cancels it.
    """
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()

    async def whole() -> None:
        task = asyncio.ensure_future(work)
        begun.set_result((asyncio.get_running_loop(), task))
        await task

    with ThreadPoolExecutor(1, "endpoint") as pool:
        ended = pool.submit(asyncio.run, whole())
        try:
            ended.result()
        except BaseException:
            loop, task = begun.result()
            with suppress(RuntimeError):  # the loop is closed: `work` itself raised
                loop.call_soon_threadsafe(task.cancel)
            raise
