"""nvcc compiles every .cu file for each supported GPU, even beside a CPU-only torch.

Warnings are errors and no kernel may spill registers. It takes minutes, so it waits to be asked for:
``make nvcc`` sets RLAIF_PL_REQUIRE_NVCC=1.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

CUDA = Path(__file__).parents[2] / "csrc" / "cuda"
ARCHS = ("80", "90", "100")
NUM_DTYPES = {"scalar_t": 4, "acc_t": 2}  # by the last type that a kernel is a template of
MOST_REGISTERS = 64  # leaves at least half of an SM's thread slots to blocks of 128 or 256
SHARED = {"warp.cuh", "packs.cuh"}  # no kernel of its own
INCLUDE = Path(torch.__file__).parent / "include"


def command(nvcc: str, source: Path, out: Path) -> list[str]:
    """Return the compile command; torch's headers are system headers, so only ours may warn."""
    archs = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ARCHS]
    flags = ["-std=c++20", "-Werror", "all-warnings", "-Xcompiler", "-Wall", "-Xptxas", "-v"]
    macros = ["-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    return [
        nvcc,
        "-c",
        *flags,
        *macros,
        *archs,
        "-isystem",
        str(INCLUDE),
        str(source),
        "-o",
        str(out / f"{source.stem}.o"),
    ]


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, tuple[int, str]]:
    """Compile all sources side by side; maps file name to exit status and what nvcc said."""
    if os.environ.get("RLAIF_PL_REQUIRE_NVCC") != "1":
        pytest.skip("make nvcc runs it")
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.fail("RLAIF_PL_REQUIRE_NVCC=1 but nvcc is not on PATH")
    out = tmp_path_factory.mktemp("cuda")
    running = {
        source.name: subprocess.Popen(
            command(nvcc, source, out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for source in sorted(CUDA.glob("*.cu"))
    }
    return {
        name: (process.wait(), text)
        for name, process in running.items()
        for text in [process.communicate(timeout=900)[0]]
    }


def test_there_is_a_launcher_for_every_kernel_header():
    headers = {path.name.removesuffix("_kernel.cuh") for path in CUDA.glob("*.cuh")}
    headers -= SHARED
    assert headers == {path.name.removesuffix("_cuda.cu") for path in CUDA.glob("*.cu")}
    assert len(headers) >= 2


@pytest.mark.slow
def test_every_source_compiles_for_every_arch_without_spills(reports):
    for name, (status, text) in reports.items():
        assert status == 0, f"{name}: {text}"
        header = (CUDA / name.replace("_cuda.cu", "_kernel.cuh")).read_text()
        kernels = sum(
            NUM_DTYPES[last] for last in re.findall(r"typename (\w+)>\s*__global__", header)
        )
        assert header.count("__global__") == len(re.findall(r">\s*__global__", header))
        entries = re.findall(r"Compiling entry function '\w+' for 'sm_(\d+)'", text)
        assert {arch: entries.count(arch) for arch in ARCHS} == dict.fromkeys(ARCHS, kernels)
        registers = [int(count) for count in re.findall(r"Used (\d+) registers", text)]
        assert len(registers) == kernels * len(ARCHS)
        assert max(registers) <= MOST_REGISTERS, f"{name}: {text}"
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", text)
        assert spills == [("0", "0")] * (kernels * len(ARCHS)), f"{name}: {text}"


@pytest.mark.parametrize("path", sorted(CUDA.glob("*.cuh")), ids=lambda path: path.name)
def test_kernel_headers_name_no_torch_header(path):
    assert not re.search(r"#include\s*<(torch|ATen|c10)", path.read_text())
