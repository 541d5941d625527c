"""The scan of a row by every width of vector, under sanitizers: the library picks only one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

DRIVER = Path(__file__).parent / "cpu_widths" / "driver.cpp"
COMPILER = os.environ.get("CXX", "c++")


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no C++ compiler {COMPILER}")
def test_every_width_is_the_recurrence(tmp_path):
    flags = ["-std=c++20", "-O1", "-Wall", "-Werror", "-Wno-psabi", "-Wno-unknown-pragmas"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    program = tmp_path / "driver"
    command = [COMPILER, *flags, str(DRIVER), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "4"
