"""The choices of setup.py: what each RLAIF_PL_BUILD builds, and what it says when it cannot."""

import importlib
import importlib.util
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

SETUP = Path(__file__).parents[2] / "setup.py"
# What csrc/ uses of torch 2.10's headers, in every release from there on. A macro or function of a
# later one compiles here and nowhere else: look it up in the headers of 2.10 before it joins.
TORCH_MACROS = {
    "STABLE_TORCH_LIBRARY_IMPL",
    "STD_CUDA_KERNEL_LAUNCH_CHECK",
    "STD_TORCH_CHECK",
    "TORCH_BOX",
    "TORCH_ERROR_CODE_CHECK",
}
TORCH_FUNCTIONS = {
    "aoti_torch_empty_strided",
    "aoti_torch_get_current_cuda_stream",
    "aoti_torch_get_device_index",
    "aoti_torch_get_device_type",
    "aoti_torch_get_dtype",
}


@pytest.fixture
def build(monkeypatch):
    """Load setup.py without running it, from the folder that its paths start at."""
    monkeypatch.chdir(SETUP.parent)
    monkeypatch.delenv("RLAIF_PL_BUILD", raising=False)
    spec = importlib.util.spec_from_file_location("rlaif_pl_setup", SETUP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _name: None)


def test_none_builds_nothing(build, monkeypatch):
    monkeypatch.setenv("RLAIF_PL_BUILD", "none")
    assert build.wants() == (False, False)


def test_an_unknown_mode_is_refused(build, monkeypatch):
    monkeypatch.setenv("RLAIF_PL_BUILD", "gpu")
    with pytest.raises(SystemExit, match="one of auto, cpu, cuda, none; got 'gpu'"):
        build.wants()


@pytest.mark.usefixtures("no_compiler")
def test_auto_without_a_compiler_warns_and_builds_nothing(build):
    with pytest.warns(UserWarning, match="without compiled ops: the C.. compiler .* set CXX"):
        assert build.wants() == (False, False)


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("mode", ["cpu", "cuda"])
def test_a_promised_build_without_a_compiler_is_an_error(mode, build, monkeypatch):
    monkeypatch.setenv("RLAIF_PL_BUILD", mode)
    with pytest.raises(SystemExit, match=f"RLAIF_PL_BUILD={mode} cannot build.*set CXX"):
        build.wants()


@pytest.mark.skipif(torch.version.cuda is not None, reason="needs a torch without CUDA")
def test_cuda_beside_a_cpu_torch_is_an_error(build, monkeypatch):
    monkeypatch.setattr(build, "missing_for_cpu", lambda: None)
    monkeypatch.setenv("RLAIF_PL_BUILD", "cuda")
    with pytest.raises(SystemExit, match="has no CUDA; install a CUDA build of torch"):
        build.wants()


@pytest.fixture
def toolkit(build, monkeypatch, tmp_path):
    """Stand in for a torch of CUDA 13.0 and for an nvcc that says which release it is."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(build, "missing_for_cpu", lambda: None)
    cpp_extension = importlib.import_module("torch.utils.cpp_extension")
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path))

    def install(release):
        program = tmp_path / "bin" / "nvcc"
        program.parent.mkdir()
        program.write_text(
            "#!/bin/sh\necho 'nvcc: NVIDIA (R) Cuda compiler driver'\n"
            f"echo 'Cuda compilation tools, release {release}, V{release}.88'\n"
        )
        program.chmod(0o755)

    return install


@pytest.mark.parametrize("release", ["13.0", "13.2"])
def test_an_nvcc_of_torchs_major_version_compiles(release, build, toolkit):
    toolkit(release)
    assert build.wants() == (True, True)


def test_auto_builds_cpu_kernels_beside_an_nvcc_of_another_major_version(build, toolkit):
    toolkit("12.8")
    message = r"without CUDA kernels.*: expected nvcc 13.0, .* got 12.8 in .*; install that toolkit"
    with pytest.warns(UserWarning, match=message):
        assert build.wants() == (True, False)


def test_a_promised_cuda_build_with_another_major_version_is_an_error(build, toolkit, monkeypatch):
    toolkit("12.8")
    monkeypatch.setenv("RLAIF_PL_BUILD", "cuda")
    with pytest.raises(
        SystemExit, match="BUILD=cuda cannot build.*expected nvcc 13.0, .* got 12.8"
    ):
        build.wants()


def test_auto_says_that_a_torch_with_cuda_goes_without_kernels(build, toolkit):
    with pytest.warns(UserWarning, match="without CUDA kernels.*: nvcc was not found"):
        assert build.wants() == (True, False)


def test_auto_without_pythons_headers_builds_nothing(build, monkeypatch, tmp_path):
    monkeypatch.setattr(build.sysconfig, "get_path", lambda _name: str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    with pytest.warns(UserWarning, match="Python.h is not in .*; install Python's headers"):
        assert build.wants() == (False, False)


@pytest.mark.parametrize(
    ("mode", "cuda_problem", "with_cuda"),
    [
        ("auto", None, True),
        ("auto", "no nvcc", False),
        ("cpu", None, False),
        ("cuda", None, True),
    ],
)
def test_cuda_is_linked_where_it_can_be(mode, cuda_problem, with_cuda, build, monkeypatch):
    monkeypatch.setattr(build, "missing_for_cpu", lambda: None)
    monkeypatch.setattr(build, "missing_for_cuda", lambda: cuda_problem)
    monkeypatch.setenv("RLAIF_PL_BUILD", mode)
    assert build.wants() == (True, with_cuda)


def test_every_source_is_built_and_every_header_watched(build):
    built = build.extension(with_cuda=False)
    assert {Path(name).name for name in built.sources} == {
        "gae_cpu.cpp",
        "module.cpp",
        "ops.cpp",
        "pairwise_ce_cpu.cpp",
        "softmax_cpu.cpp",
    }
    assert {"csrc/checks.h", "csrc/math/gae.h"} <= set(built.depends)
    assert "torch_python" not in built.libraries


def test_every_promised_torch_has_the_macros_and_functions_that_are_used():
    code = "\n".join(
        path.read_text() for path in SETUP.with_name("csrc").rglob("*") if path.is_file()
    )
    macros = r"\b(?:STABLE|STD|TORCH|C10|AT|CUDA|AOTI)_[A-Z0-9_]+(?=\()"
    assert set(re.findall(macros, code)) == TORCH_MACROS
    assert set(re.findall(r"\b(?:aoti_)?torch_\w+(?=\()", code)) == TORCH_FUNCTIONS


def test_a_cuda_build_adds_the_launchers_and_names_its_architectures(build, monkeypatch):
    cpp_extension = importlib.import_module("torch.utils.cpp_extension")
    monkeypatch.setattr(cpp_extension, "CUDAExtension", cpp_extension.CppExtension)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(build, "toolkit_libraries", lambda: ["/opt/cuda/lib"])
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0;10.0+PTX")
    built = build.extension(with_cuda=True)
    assert {"gae_cuda.cu", "pairwise_ce_cuda.cu"} <= {Path(name).name for name in built.sources}
    assert ("RLAIF_PL_WITH_CUDA", "1") in built.define_macros
    assert "/opt/cuda/lib" in built.library_dirs
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "9.0;10.0+PTX"
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    build.extension(with_cuda=True)
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "8.0;9.0;10.0+PTX"


def test_the_toolkit_is_found_behind_a_wrapper_of_nvcc(build, monkeypatch, tmp_path):
    # What nvcc 13.0 prints for --dryrun, shortened; a wrapper or link on PATH says nothing of it.
    wrapper = tmp_path / "bin" / "nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text(
        "#!/bin/sh\ncat >&2 <<'END'\n#$ TOP=/opt/cuda/bin/..\n"
        '#$ LIBRARIES=  "-L/opt/cuda/bin/../targets/x/lib/stubs" "-L/opt/cuda/bin/../targets/x/lib"\n'
        "END\n"
    )
    wrapper.chmod(0o755)
    monkeypatch.setattr(build, "nvcc", lambda: wrapper)
    assert build.toolkit_libraries() == [
        "/opt/cuda/targets/x/lib/stubs",
        "/opt/cuda/targets/x/lib",
    ]
