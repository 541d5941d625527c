"""Settings of glibc's allocator, which older ones refuse in part."""

import pytest

from rlaif_pl.engine import allocator
from rlaif_pl.engine.allocator import M_MMAP_THRESHOLD, M_TOP_PAD, M_TRIM_THRESHOLD


class Libc:
    """Takes a threshold of at most so many bytes, as mallopt does."""

    def __init__(self, most):
        self.most = most
        self.taken = {}

    def mallopt(self, parameter, value):
        if parameter == M_MMAP_THRESHOLD and value > self.most:
            return 0
        self.taken[parameter] = value
        return 1


@pytest.mark.parametrize(("most", "threshold"), [(1 << 31, 1 << 30), (1 << 25, 1 << 25)])
def test_the_largest_threshold_that_is_taken_is_set(monkeypatch, most, threshold):
    libc = Libc(most)
    monkeypatch.setattr(allocator, "glibc", lambda: libc)
    allocator.keep_freed_memory()
    assert libc.taken[M_MMAP_THRESHOLD] == threshold
    assert {M_TRIM_THRESHOLD, M_TOP_PAD} < libc.taken.keys()


def test_without_a_threshold_nothing_is_set_that_would_freeze_it_small(monkeypatch):
    libc = Libc(0)
    monkeypatch.setattr(allocator, "glibc", lambda: libc)
    allocator.keep_freed_memory()
    assert not libc.taken
