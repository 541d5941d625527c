"""The scan of a row by every width of vector, under sanitizers: the library picks only one.

A width that this processor lacks is compiled and left there.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

DRIVER = Path(__file__).parent / "cpu_widths" / "driver.cpp"
COMPILER = os.environ.get("CXX", "c++")
IS_X86 = platform.machine() in ("x86_64", "AMD64")
WIDTHS = {"4": ["x86-64", "sse2"], "8": ["x86-64-v3", "avx2"], "16": ["x86-64-v4", "avx512f"]}


def has(flag: str) -> bool:
    """Whether this processor has an extension by the name that Linux gives it."""
    info = Path("/proc/cpuinfo")
    return info.exists() and flag in info.read_text().split()


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no C++ compiler {COMPILER}")
@pytest.mark.parametrize("lanes", WIDTHS if IS_X86 else ["native"])
def test_every_width_is_the_recurrence(lanes, tmp_path):
    architecture, extension = WIDTHS.get(lanes, ["native", ""])
    flags = ["-std=c++20", "-O3", "-Wall", "-Werror", f"-march={architecture}"]
    flags += ["-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"]  # as setup.py has them
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    program = tmp_path / "driver"
    command = [COMPILER, *flags, str(DRIVER), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stderr
    if IS_X86 and not has(extension):
        return
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
