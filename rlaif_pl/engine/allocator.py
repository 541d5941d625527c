"""What becomes of the memory of freed tensors on the CPU: kept for the next, or given back."""

import ctypes
import sys
from typing import Any

# Parameters of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT = (1 << 31) - 1  # the most that mallopt takes: never trim
# Bytes: tensors below come from the heap. Before 2.35, glibc refuses more than the second.
LARGEST = (1 << 30, 1 << 25)
PAD = 1 << 26  # bytes that the heap grows by


def glibc() -> Any | None:
    """Return this process's C library if it is glibc, else None."""
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def keep_freed_memory() -> None:
    """Let freed tensors be taken again without asking the system for pages, for the whole process.

    glibc gives pages of above 32 MiB back each time, and a forward pass makes and frees the same
    tensors layer by layer: a tenth of the time to label goes into faults. Without gradients nothing is
    kept between them, so the heap has no holes to grow by. Without glibc nothing happens.
    """
    libc = glibc()
    # Any setting ends that the threshold grows by itself, from 128 KiB: none is made without it.
    if libc is not None and any(libc.mallopt(M_MMAP_THRESHOLD, most) for most in LARGEST):
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)
        libc.mallopt(M_TOP_PAD, PAD)


def page_tensors(threshold_kb: int) -> None:
    """Give tensors of at least so many KiB pages of their own, and free pages back to the system."""
    libc = glibc()
    if libc is not None:
        libc.mallopt(M_MMAP_THRESHOLD, threshold_kb * 1024)
        libc.malloc_trim(0)
