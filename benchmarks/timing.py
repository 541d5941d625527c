"""Interleaved timing and peak memory for the kernel benchmarks."""

from __future__ import annotations

import ctypes
import json
import statistics
import threading
import time
from collections.abc import Callable, Mapping

Function = Callable[[], object]


def timings(
    functions: Mapping[str, Function],
    repeats: int,
    inner: int = 1,
    before: Function | None = None,
    of: Callable[[list[float]], float] = statistics.median,
) -> dict[str, float]:
    """Time functions in turn, so that what else the machine does falls on all of them.

    Args:
        functions: Name to call.
        repeats: Rounds; one more, not counted, warms up. Each measurement follows as many calls
            that are not timed, so that every function finds its own data in the caches, not its
            neighbor's.
        inner: Calls a measurement.
        before: Called ahead of each measurement, for example to empty the caches.
        of: What the measurements of a function are summed up by; ``min`` where neighbors on the
            machine take a share of what is measured, as STREAM does for bandwidths.

    Returns:
        Seconds of a call.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(repeats + 1):
        for name, function in functions.items():
            for _ in range(inner):
                function()
            if before is not None:
                before()
            begin = time.perf_counter()
            for _ in range(inner):
                function()
            if round_ > 0:
                seconds[name].append((time.perf_counter() - begin) / inner)
    return {name: of(values) for name, values in seconds.items()}


def keep_memory() -> None:
    """Let malloc (glibc) keep what is freed, so that outputs land in memory that is already mapped.

    Else the kernel clears every page of a large output anew, which costs more than most ops here and
    depends on what ran before. Not for measurements of memory.
    """
    libc = ctypes.CDLL("libc.so.6")
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD in malloc.h
    libc.mallopt(mmap_threshold, 32 << 20)  # the most that glibc takes
    libc.mallopt(trim_threshold, 1 << 30)


def resident() -> int:
    """Return the bytes of this process that are in memory (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def peak_growth(function: Function) -> int:
    """Return by how many bytes memory grew at most while a function ran, sampled each 2 ms.

    What the allocator keeps from earlier work is given back first, so that reuse does not hide use.
    """
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before, peak, stop = resident(), [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            peak[0] = max(peak[0], resident() - before)
            stop.wait(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        function()
    finally:
        stop.set()
        watcher.join()
    return peak[0]


def report(name: str, seconds: Mapping[str, float], ratios: Mapping[str, float]) -> None:
    """Print a table, then one line of JSON; only called once the outputs were found equal."""
    for what, value in seconds.items():
        print(f"{what:48s} {1e3 * value:12.4f} ms")
    for what, value in ratios.items():
        print(f"{what:48s} {value:12.3f} x")
    rounded = {key: round(value, 4) for key, value in ratios.items()}
    print(json.dumps({"name": name, "ratios": rounded, "equal": True}))
