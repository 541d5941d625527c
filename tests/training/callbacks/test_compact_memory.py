import subprocess
import sys

import pytest

from rlaif_pl.engine.allocator import glibc
from rlaif_pl.training.callbacks import CompactMemory

# Blocks of 1 MB, every second one freed: their memory must be back although the others still live.
HOLES = """
import os, sys, torch
from rlaif_pl.training.callbacks import CompactMemory
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
warm = torch.zeros(8 << 20)
del warm  # from here on glibc takes such sizes from its heap
for way in ("plain", "compact"):
    if os.fork():
        os.wait()
        continue
    if way == "compact":
        CompactMemory().setup(None, None, "fit")
    before = resident()
    kept = [torch.ones(1 << 18) for _ in range(200)]
    kept = kept[::2]
    print(way, (resident() - before) / 1e6, flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(glibc() is None, reason="needs glibc")
def test_freed_tensors_leave_no_holes():
    line = [sys.executable, "-c", HOLES]
    said = subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()
    found = dict(zip(said[::2], map(float, said[1::2]), strict=True))
    assert found["compact"] < 120  # 100 blocks of 1.05 MB
    assert found["plain"] > 180


def test_the_threshold_is_above_0():
    with pytest.raises(ValueError, match="threshold_kb above 0, got 0"):
        CompactMemory(0)
