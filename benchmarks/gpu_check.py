"""Everything that whoever has an NVIDIA GPU can check: tests marked gpu, benchmarks, a report to paste.

    make gpu-check                                              (own environment, CUDA kernels built)
    python benchmarks/gpu_check.py --out DIR                    (this environment, as it is)
    python benchmarks/gpu_check.py --out DIR --skip-benchmarks
    python benchmarks/gpu_check.py --out DIR --skip-tests --benchmarks gae,labeling

Needs no network. Where the CUDA kernels are built, they are required; else the PyTorch reference runs
in their place, and the report says so (RLAIF_PL_REQUIRE_EXT=1 makes that an error). The report is
written anew after every part, so that one that was stopped has what was done; what each part printed
lies beside it. Exits with 1 where a test or a benchmark failed; a benchmark that cannot run without a
peer that is not installed is left out. Never run on a GPU so far.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gpu_report import Benchmark, Tests, markdown, read_tests
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
# The files with tests marked gpu; a test holds that there are no others.
GPU_TESTS = (
    "tests/ops",
    "tests/engine",
    "tests/devices",
    "tests/models/test_encoding.py",
    "tests/labeling/backends/test_local_model.py",
    "tests/labeling/backends/test_local.py",
    "tests/training/test_devices.py",
)
# By name, the options of each run.
BENCHMARKS: dict[str, tuple[tuple[str, ...], ...]] = {
    "pairwise_ce": ((),),
    "gae": ((),),
    "linear_logprob": (("--vocabulary", "49152"), ("--vocabulary", "151936")),
    "labeling": ((),),
    "reward_step": ((),),
    "rl_step": ((),),
    "lora_step": ((),),
    "rl_growth": ((),),
}
# Packages of peers, by the names that they are imported by.
PEERS = {
    "trl": "trl",
    "liger_kernel": "liger-kernel",
    "torchrl": "torchrl",
    "tensordict": "tensordict",
}
UNKNOWN = "not known"


class Ended(NamedTuple):
    """How a program ended."""

    seconds: float
    problem: str | None  # None where it exited with 0
    output: str  # what it printed
    errors: str  # and what it said beside


class Runner:
    """Runs programs one after the other, with a line of progress each.

    Args:
        folder: Where what they print is kept, as ``NAME.out`` and ``NAME.err``.
        console: Where progress is shown.
        timeout: Seconds after which a program is stopped.
    """

    def __init__(self, folder: Path, console: Console, timeout: float) -> None:
        self.folder, self.console, self.timeout = folder, console, timeout

    def __call__(self, name: str, words: Sequence[str], environment: Mapping[str, str]) -> Ended:
        """Run a program to its end, or stop it and all that it started."""
        files = [self.folder / f"{name}.{kind}" for kind in ("out", "err")]
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[line]}", markup=False, table_column=Column(no_wrap=True)),
        )
        began = time.monotonic()
        with files[0].open("w") as out, files[1].open("w") as err:
            process = subprocess.Popen(
                words, cwd=ROOT, env=environment, stdout=out, stderr=err, start_new_session=True
            )
            try:
                with Progress(*columns, console=self.console, transient=True) as progress:
                    task = progress.add_task(name, total=None, line="")
                    while time.monotonic() - began < self.timeout and process.poll() is None:
                        progress.update(task, line=last_line(files))
                        time.sleep(0.2)
            finally:
                is_late = process.poll() is None
                if is_late:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        seconds = time.monotonic() - began
        problem = f"exit code {process.returncode}" if process.returncode else None
        if is_late:
            problem = f"stopped after {seconds:.0f} s"
        said = (file.read_text(errors="replace").replace(f"{ROOT}/", "") for file in files)
        return Ended(seconds, problem, *said)


def last_line(files: Sequence[Path]) -> str:
    """Return the last line of the file that was written to last."""
    newest = max(files, key=lambda file: file.stat().st_mtime_ns)
    with newest.open("rb") as stream:
        stream.seek(max(0, newest.stat().st_size - 2000))
        lines = stream.read().decode(errors="replace").split("\n")
    return next((line.rpartition("\r")[2] for line in reversed(lines) if line.strip()), "")


def machine(kernels: str) -> dict[str, str]:
    """Return what the report says of the machine; ``kernels`` is who computes the ops on CUDA."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    count = torch.cuda.device_count()
    size = f"{properties.total_memory / 2**30:.0f} GiB, sm_{properties.major}{properties.minor}"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    built = {"compiled": "compiled", "reference": "NOT BUILT: the PyTorch reference ran instead"}
    return {
        "GPU": f"{properties.name}, {size}" + (f"; one of {count}" if count > 1 else ""),
        "driver": answer_of(query),
        "CUDA of torch": str(torch.version.cuda),
        "nvcc": answer_of(["nvcc", "--version"]),
        "torch": torch.__version__,
        **{name: version_of(name) for name in ("transformers", "lightning", "peft", "triton")},
        "rlaif_pl": f"{version_of('rlaif_pl')}, commit {commit()}",
        "CUDA kernels of rlaif_pl": built[kernels],
        "peers": ", ".join(f"{name} {version_of(name)}" for name in PEERS.values()),
        "host": f"{os.cpu_count()} CPUs, Python {platform.python_version()}, {platform.system()}",
    }


def answer_of(words: Sequence[str]) -> str:
    """Return the line of a program's answer that says its version; else that it is not known."""
    if shutil.which(words[0]) is None:
        return f"{UNKNOWN}: no {words[0]}"
    found = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    lines = [line for line in found.stdout.splitlines() if line.strip()]
    if found.returncode or not lines:
        return f"{UNKNOWN}: {words[0]} failed"
    return next((line for line in lines if "release" in line), lines[0])


def version_of(package: str) -> str:
    """Return the version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """Return the commit of this checkout, and whether files were changed since."""
    found = answer_of(["git", "rev-parse", "HEAD"])
    if found.startswith(UNKNOWN):
        return found
    changed = not answer_of(["git", "status", "--porcelain", "-uno"]).startswith(UNKNOWN)
    return f"{found} with changes" if changed else found


def environment(kernels: str) -> dict[str, str]:
    """Return the variables that tests and benchmarks run with; what is built is required."""
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    plain = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "110", "PYTHONUNBUFFERED": "1"}
    plain |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    required = os.environ.get("RLAIF_PL_REQUIRE_EXT") or str(int(kernels == "compiled"))
    promised = {"RLAIF_PL_REQUIRE_CUDA": "1", "RLAIF_PL_REQUIRE_EXT": required}
    return {**os.environ, **plain, **promised, "PYTHONPATH": path}


def run_tests(run: Runner, variables: Mapping[str, str]) -> Tests:
    """Run the tests marked gpu; one file that cannot be imported does not end the others."""
    file = run.folder / "tests.xml"
    file.unlink(missing_ok=True)
    options = ["-m", "gpu", "-p", "no:xdist", "-p", "no:cacheprovider", f"--junitxml={file}"]
    options += ["--continue-on-collection-errors", "-v", "--tb=short"]
    words = [sys.executable, "-m", "pytest", *GPU_TESTS, *options]
    ended = run("tests", words, variables)
    is_whole = ended.problem in (None, "exit code 1") and file.is_file()  # 1: some failed
    tail = (ended.output + ended.errors).strip().splitlines()[-1:]
    problem = None if is_whole else ": ".join([str(ended.problem), *tail])
    return read_tests(file, ended.output, ended.seconds, problem)


def run_benchmark(
    run: Runner, name: str, words: Sequence[str], variables: Mapping[str, str]
) -> Benchmark:
    """Run a benchmark on the GPU."""
    told = (*words, "--device", "cuda")
    program = [sys.executable, str(FOLDER / f"{name}.py"), *told]
    ended = run("-".join([name, *words[1::2]]), program, variables)
    found = Benchmark(name, told, ended.output, ended.seconds)
    if ended.problem is None:
        return found if found.result else replace(found, problem="its last line is no JSON object")
    missing = [peer for peer in PEERS if f"No module named '{peer}" in ended.errors]
    if missing:
        return replace(found, output=ended.errors, left_out=PEERS[missing[0]])
    return replace(found, output=ended.output + ended.errors, problem=ended.problem)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-check", metavar="DIR")
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--skip-benchmarks", action="store_true")
    parser.add_argument("--benchmarks", default=",".join(BENCHMARKS), help="some of them: a,b")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds of a part (3600)")
    given = parser.parse_args(words)
    given.benchmarks = [] if given.skip_benchmarks else given.benchmarks.split(",")
    unknown = sorted(set(given.benchmarks) - BENCHMARKS.keys())
    if unknown:
        parser.error(
            f"expected benchmarks out of {', '.join(BENCHMARKS)}, got {', '.join(unknown)}"
        )
    return given


def kernels_on_gpu() -> str:
    """Say who computes the ops on CUDA: ``compiled`` or ``reference``; exits without a GPU."""
    try:
        import torch
    except ImportError as error:
        sys.exit(
            f"gpu_check.py: expected PyTorch with CUDA, got none ({error}); run make gpu-check"
        )
    if not torch.cuda.is_available():
        sys.exit(
            f"gpu_check.py: expected an NVIDIA GPU, but torch {torch.__version__} sees none; take a "
            "machine with one, its driver and a CUDA build of torch (make gpu-check installs that)"
        )
    sys.path.insert(0, str(ROOT))
    try:
        from rlaif_pl.ops import backend_of
    except ImportError as error:
        sys.exit(f"gpu_check.py: rlaif_pl cannot be imported: {error}")
    return str(backend_of("gae", "cuda"))


def main(words: Sequence[str] | None = None) -> int:
    """Run tests and benchmarks and write the report; 1 where something failed."""
    given = arguments(words)
    kernels = kernels_on_gpu()
    given.out.mkdir(parents=True, exist_ok=True)
    console, report = Console(), given.out / "report.md"
    run = Runner(given.out.resolve(), console, given.timeout)
    facts, variables = machine(kernels), environment(kernels)
    for name, value in facts.items():
        console.print(f"{name:26s}{value}", markup=False, highlight=False)
    tests, done = None, list[Benchmark]()
    if not given.skip_tests:
        tests = run_tests(run, variables)
        console.print(f"tests: {tests}", markup=False)
    report.write_text(markdown(facts, tests, done), encoding="utf-8")
    for name in given.benchmarks:
        for options in BENCHMARKS[name]:
            done.append(run_benchmark(run, name, options, variables))
            console.print(f"{name}: {done[-1]}", markup=False)
            report.write_text(markdown(facts, tests, done), encoding="utf-8")
    console.print(f"report: {report}", markup=False, soft_wrap=True)
    is_good = (tests is None or tests.is_good) and all(each.is_good for each in done)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
