"""Interleaved timing, peak memory and measured rates, on a CPU or a GPU."""

from __future__ import annotations

import ctypes
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from device import Place
from torch import Tensor

Function = Callable[[], object]
F = TypeVar("F", bound=Callable[..., Any])
CPU = Place(torch.device("cpu"), torch.float32)
FIRST_WAIT, LONGEST_WAIT = 1 << 22, 1 << 28  # cycles of a GPU: some 2 and 150 ms
# What a peer may raise that is not made for this machine, version or type, or differs from ours; the
# last two where torch.compile finds no compiler.
UNFIT = (
    AssertionError,
    AttributeError,
    ImportError,
    RuntimeError,
    TypeError,
    ValueError,
    OSError,
    subprocess.SubprocessError,
)


def timings(
    functions: Mapping[str, Function],
    repeats: int,
    inner: int = 1,
    before: Function | None = None,
    of: Callable[[list[float]], float] = statistics.median,
    place: Place = CPU,
    queued: bool = False,
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
        place: Where the functions compute. A GPU is timed by its own events, from the moment at which
            it has nothing left to do, so that launches count as they do in a loop of one's own.
        queued: Leave out of a GPU's time what the host takes for launches; see ``queued_seconds``.

    Returns:
        Seconds of a call.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(repeats + 1):
        for name, function in functions.items():
            for _ in range(inner):
                function()
            if place.is_cuda and queued:
                taken = queued_seconds(function, inner, before)
            elif place.is_cuda:
                taken = event_seconds(function, inner, before)
            else:
                taken = clock_seconds(function, inner, before)
            if round_ > 0:
                seconds[name].append(taken / inner)
    return {name: of(values) for name, values in seconds.items()}


def clock_seconds(function: Function, inner: int, before: Function | None) -> float:
    """Seconds of some calls by the host's clock."""
    if before is not None:
        before()
    begin = time.perf_counter()
    for _ in range(inner):
        function()
    return time.perf_counter() - begin


def event_seconds(function: Function, inner: int, before: Function | None) -> float:
    """Seconds of some calls by a GPU's events, launches included."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    if before is not None:
        before()
    torch.cuda.synchronize()
    begin.record()
    for _ in range(inner):
        function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def queued_seconds(function: Function, inner: int, before: Function | None) -> float:
    """Seconds of some calls on a GPU that does not wait for the host.

    The GPU is told to idle first, so that all launches are queued when the first kernel begins. Where
    the host was not done by then it idles longer, up to ``LONGEST_WAIT`` cycles: a function that itself
    waits for the GPU is then timed with its waits.
    """
    cycles = FIRST_WAIT
    while True:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        if before is not None:
            before()
        torch.cuda.synchronize()
        torch.cuda._sleep(cycles)
        begin.record()
        for _ in range(inner):
            function()
        end.record()
        was_ahead = not begin.query()
        end.synchronize()
        if was_ahead or cycles >= LONGEST_WAIT:
            return begin.elapsed_time(end) / 1e3
        cycles *= 4


def fitting(
    peers: Mapping[str, F], check: Callable[[str, F], None]
) -> tuple[dict[str, F], dict[str, str]]:
    """Return the peers that run here and give what is wanted, and why others are left out.

    Args:
        peers: By name.
        check: Runs one, and raises where its result differs.
    """
    found: dict[str, F] = {}
    left_out: dict[str, str] = {}
    for name, peer in peers.items():
        try:
            check(name, peer)
        except UNFIT as error:
            why = " ".join(str(error).split())[:300]
            left_out[name] = f"{type(error).__name__}: {why}"
            sys.stderr.write(f"{name} is left out: {left_out[name]}\n")
        else:
            found[name] = peer
    return found, left_out


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


def peak_resident() -> int:
    """Return the greatest resident memory of this process since ``forget_peak``, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def forget_peak() -> None:
    """Give freed memory back and count the greatest anew."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def check_gap(name: str, found: Tensor, wanted: Tensor, most: float) -> None:
    """Compare a result with what is wanted, by norm.

    Raises:
        AssertionError: They differ.
    """
    gap = float((found.double() - wanted).norm() / wanted.norm())
    if not gap < most:
        raise AssertionError(f"expected {name} within {most} of float64's, got {gap}")


def peak_growth(function: Function, place: Place = CPU) -> int:
    """Return by how many bytes memory grew at most while a function ran.

    On a CPU it is sampled each 2 ms, and what the allocator keeps from earlier work is given back
    first, so that reuse does not hide use. On a GPU torch's allocator counts what is alive; the
    function runs once before, so that workspaces of libraries are no part of it.
    """
    if place.is_cuda:
        function()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - held
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


def gemm_rate(
    place: Place = CPU, size: int | None = None, repeats: int = 3, seconds: float = 0.0
) -> float:
    """Operations a second of a large matrix product in the place's type, the best of a few.

    Args:
        place: Where, and in which type.
        size: Rows and columns; None for 2,048 on a CPU and 8,192 on a GPU.
        repeats: Products at least.
        seconds: For how long at least.
    """
    size = place.pick(2048, 8192, size)
    a, b = (torch.randn(size, size, device=place.device).to(place.dtype) for _ in range(2))
    best = best_seconds(lambda: torch.mm(a, b), place, repeats, seconds)
    return 2 * size**3 / best


def reading_rate(place: Place = CPU, repeats: int = 3) -> float:
    """Bytes a second at which memory is read, the best of a few.

    A matrix-vector product reads 256 MB of float32. On a GPU, where such a product may leave
    bandwidth unused, the better of it (0.5 to 1 GiB) and of a copy, which reads and writes.
    """
    size = place.pick(1 << 13, 1 << 14)
    matrix = torch.ones(size, size, device=place.device, dtype=place.dtype)
    vector, moved = matrix[0].clone(), matrix.numel() * matrix.element_size()
    rate = moved / best_seconds(lambda: torch.mv(matrix, vector), place, repeats)
    if place.is_cuda:
        sink = torch.empty_like(matrix)
        rate = max(rate, 2 * moved / best_seconds(lambda: sink.copy_(matrix), place, repeats))
    return rate


def best_seconds(function: Function, place: Place, repeats: int, seconds: float = 0.0) -> float:
    """Least seconds of a call; on a GPU after one that warms up."""
    if place.is_cuda:
        function()
    measure = event_seconds if place.is_cuda else clock_seconds
    best, count, ends = float("inf"), 0, time.perf_counter() + seconds
    while count < repeats or time.perf_counter() < ends:
        best = min(best, measure(function, 1, None))
        count += 1
    return best


def report(
    name: str,
    seconds: Mapping[str, float],
    ratios: Mapping[str, float],
    place: Place = CPU,
    **more: Any,
) -> None:
    """Print a table, then one line of JSON; only called once the outputs were found equal.

    Args:
        name: Of the benchmark.
        seconds: By what took them.
        ratios: By what they are of.
        place: Where it ran.
        more: Further entries of the JSON.
    """
    for what, value in seconds.items():
        print(f"{what:48s} {1e3 * value:12.4f} ms")
    for what, value in ratios.items():
        print(f"{what:48s} {value:12.3f} x")
    rounded = {key: round(value, 4) for key, value in ratios.items()}
    result = {"name": name, "ratios": rounded, "equal": True, **place.facts(), **more}
    print(json.dumps(result))
