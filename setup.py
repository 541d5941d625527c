"""Build of the compiled ops; everything else about the package is in pyproject.toml.

RLAIF_PL_BUILD chooses what is built (the reference in PyTorch works without any of it):
    auto (default)  CUDA and CPU kernels where torch has CUDA and an nvcc of its major version is
                    found, else CPU kernels, else nothing; with a warning what is missing.
    cpu             CPU kernels, or an error.
    cuda            CUDA and CPU kernels, or an error.
    none            nothing.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sysconfig
import warnings
from pathlib import Path

from setuptools import Extension, find_packages, setup

MODES = ("auto", "cpu", "cuda", "none")
# configs/ stands at the top of the checkout and inside the installed package.
PACKAGES = {
    "packages": [*find_packages(include=["rlaif_pl*"]), "rlaif_pl.configs"],
    "package_dir": {"rlaif_pl": "rlaif_pl", "rlaif_pl.configs": "configs"},
    "package_data": {
        "rlaif_pl": ["py.typed"],
        "rlaif_pl.configs": ["**/*.yaml"],
        "rlaif_pl.data": ["tiny_*/**/*.jsonl", "tiny_*/README.md"],
        "rlaif_pl.labeling": ["prompts/*.txt", "prompts/*.yaml", "prompts/README.md"],
        "rlaif_pl.evaluation.human": ["page/*"],
        "rlaif_pl.pipeline": ["estimate_known.yaml"],
        "rlaif_pl.reporting": ["templates/*"],
    },
}
CSRC = Path("csrc")
TORCH_TARGET = "0x020a000000000000"  # torch 2.10, the oldest whose stable ABI has what we use
CXX_FLAGS = ["-O3", "-g0", "-std=c++20", "-Wall", "-fvisibility=hidden"]
# What lets a loop with selections and sums become vector code; NaN and infinity keep their meaning.
CXX_FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"]
if platform.machine() in ("x86_64", "AMD64"):
    # GCC 12 moves 8 bytes through an MMX register and leaves the x87 unit unusable: long doubles of
    # the process (numpy's among them) are NaN from then on.
    CXX_FLAGS.append("-mno-mmx")
NVCC_FLAGS = ["-O3", "-std=c++20", "-lineinfo"]


def build_mode() -> str:
    """Return RLAIF_PL_BUILD after checking it."""
    mode = os.environ.get("RLAIF_PL_BUILD", "auto")
    if mode not in MODES:
        raise SystemExit(f"RLAIF_PL_BUILD must be one of {', '.join(MODES)}; got {mode!r}")
    return mode


def missing_for_cpu() -> str | None:
    """Say what a compiled build lacks and what to do, or None if it lacks nothing."""
    for module in ("torch", "pybind11"):
        if importlib.util.find_spec(module) is None:
            return (
                f"{module} is not importable while building; install it first and pass "
                "--no-build-isolation to pip"
            )
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        return f"the C++ compiler {compiler!r} is not on PATH; install one or set CXX"
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists():
        return f"Python.h is not in {headers}; install Python's headers (Debian: python3-dev)"
    return None


def missing_for_cuda() -> str | None:
    """Say what CUDA kernels lack and what to do, or None if they lack nothing."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.version.cuda is None:
        return f"torch {torch.__version__} has no CUDA; install a CUDA build of torch"
    if CUDA_HOME is None or not (Path(CUDA_HOME) / "bin" / "nvcc").exists():
        return "nvcc was not found; install the CUDA toolkit or set CUDA_HOME"
    found = nvcc_version()
    if found is not None and found.split(".")[0] != torch.version.cuda.split(".")[0]:
        return (
            f"expected nvcc {torch.version.cuda}, the CUDA of torch {torch.__version__}, got {found} "
            f"in {CUDA_HOME}; install that toolkit, set CUDA_HOME to one, or install a torch "
            f"for CUDA {found}"
        )
    return None


def wants() -> tuple[bool, bool]:
    """Return whether to build anything, and whether to build CUDA kernels."""
    mode = build_mode()
    if mode == "none":
        return False, False
    problem = missing_for_cpu()
    if problem is None:
        cuda_problem = missing_for_cuda() if mode in ("auto", "cuda") else "not asked for"
        if mode != "cuda" or cuda_problem is None:
            if mode == "auto" and cuda_problem is not None and torch_has_cuda():
                warnings.warn(
                    f"rlaif_pl is installed without CUDA kernels, on a GPU it takes the slower "
                    f"PyTorch reference: {cuda_problem}",
                    stacklevel=2,
                )
            return True, cuda_problem is None
        problem = cuda_problem
    if mode == "auto":
        warnings.warn(f"rlaif_pl is installed without compiled ops: {problem}", stacklevel=2)
        return False, False
    raise SystemExit(f"RLAIF_PL_BUILD={mode} cannot build the compiled ops: {problem}")


def choose_cuda_archs() -> None:
    """Set TORCH_CUDA_ARCH_LIST unless it is: data-centre GPUs and a PTX for what follows.

    Torch's own default is the GPU at hand, which is none where an image is built.
    """
    import torch

    newest = tuple(int(part) for part in torch.version.cuda.split(".")[:2])
    default = "8.0;9.0;10.0+PTX" if newest >= (12, 8) else "8.0;9.0+PTX"
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", default)


def torch_has_cuda() -> bool:
    """Return whether torch was built with CUDA."""
    import torch

    return torch.version.cuda is not None


def nvcc_version() -> str | None:
    """Return the release that nvcc says it is, as ``13.0``; torch refuses one of another major."""
    said = subprocess.run([nvcc(), "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release (\d+\.\d+)", said)
    return release[1] if release else None


def nvcc() -> Path:
    """Return the compiler that torch will call."""
    from torch.utils.cpp_extension import CUDA_HOME

    return Path(CUDA_HOME) / "bin" / "nvcc"


def toolkit_libraries() -> list[str]:
    """Return the folders of libcudart by nvcc's own account.

    Torch takes the folder above nvcc's for the toolkit. Where PATH leads to a link or a wrapper,
    as in /usr/local/bin/nvcc, that is not it, and the linker would find no libcudart.
    """
    command = [nvcc(), "--dryrun", "-x", "cu", "-"]  # prints what it would do, to stderr
    plan = subprocess.run(command, input="", capture_output=True, text=True, check=True).stderr
    return [os.path.normpath(folder) for folder in re.findall(r'"-L([^"]+)"', plan)]


def extension(with_cuda: bool) -> Extension:
    """Describe ``rlaif_pl._C``."""
    import pybind11
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    sources = [*CSRC.glob("*.cpp"), *(CSRC / "cpu").glob("*.cpp")]
    macros = [("TORCH_TARGET_VERSION", TORCH_TARGET)]
    if with_cuda:
        sources += (CSRC / "cuda").glob("*.cu")
        macros += [("RLAIF_PL_WITH_CUDA", "1"), ("USE_CUDA", "1")]
        choose_cuda_archs()
    built = (CUDAExtension if with_cuda else CppExtension)(
        "rlaif_pl._C",
        sorted(str(path) for path in sources),
        depends=sorted(str(path) for path in CSRC.rglob("*") if path.suffix in (".h", ".cuh")),
        include_dirs=[pybind11.get_include()],
        define_macros=macros,
        extra_compile_args={"cxx": CXX_FLAGS, "nvcc": NVCC_FLAGS},
    )
    if with_cuda:
        built.library_dirs += toolkit_libraries()
    # Tensors never cross into Python here, so nothing unstable of torch's is linked.
    built.libraries = [name for name in built.libraries if name != "torch_python"]
    return built


def main() -> None:
    """Hand the chosen extension to setuptools."""
    has_extension, with_cuda = wants()
    if not has_extension:
        setup(**PACKAGES)
        return
    from torch.utils.cpp_extension import BuildExtension

    setup(
        ext_modules=[extension(with_cuda)],
        cmdclass={"build_ext": BuildExtension},
        **PACKAGES,
    )


if __name__ == "__main__":
    main()
