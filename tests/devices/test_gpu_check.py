"""``benchmarks/gpu_check.py``: what it says without a GPU, of what failed, and in its report."""

import ast
import importlib
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
GOOD = 'print("a table")\nprint(\'{"name": "good", "ratios": {"x": 2.0}, "equal": true}\')\n'
# What a benchmark does, and what the report says of it.
BENCHMARKS = {
    "good": GOOD,
    "wrong": "import sys\nprint('begun')\nsys.exit('expected equal labels, got gaps')\n",
    "unfinished": "print('a table')\n",
    "peerless": "import no_such_peer.trainer\n",
}
TESTS = """
import pytest

@pytest.mark.gpu
def test_right(): pass

@pytest.mark.gpu
@pytest.mark.parametrize("n", [1, 2])
def test_wrong(n): assert n == 1, "two is not one"

@pytest.mark.gpu
def test_left_out(): pytest.skip("needs two GPUs")

def test_elsewhere(): assert False
"""
XML = """<testsuites><testsuite>
<testcase classname="tests.a" name="test_one[cuda]" />
<testcase classname="tests.a" name="test_two"><failure message="short">E   lines
E   of a failure</failure></testcase>
<testcase classname="" name="tests.b"><error message="x">E   no module</error></testcase>
<testcase classname="tests.c" name="test_three"><skipped message="needs two GPUs">x</skipped></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def check(monkeypatch, tmp_path):
    """The program, on a claimed machine, with benchmarks and tests of this file's own."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("gpu_check")
    monkeypatch.setattr(module, "kernels_on_gpu", lambda: "reference")
    monkeypatch.setattr(module, "machine", lambda kernels: {"GPU": "made | up", "ops": kernels})
    for name, text in BENCHMARKS.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "test_those.py").write_text(TESTS)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(module, "GPU_TESTS", (str(tmp_path / "test_those.py"),))
    monkeypatch.setattr(module, "BENCHMARKS", dict.fromkeys(BENCHMARKS, ((),)))
    return module


@pytest.fixture
def report(monkeypatch):
    """The module that writes the report."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("gpu_report")


@pytest.fixture
def run(check, tmp_path):
    """Return a function that runs the program and gives exit status and report."""

    def run(*words):
        out = tmp_path / "out"
        status = check.main([f"--out={out}", *words])
        return status, (out / "report.md").read_text(encoding="utf-8")

    return run


def test_without_a_gpu_it_says_so_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("gpu_check").main([f"--out={tmp_path / 'out'}"])
    assert isinstance(ended.value.code, str)  # which Python prints, and exits with 1
    assert "expected an NVIDIA GPU, but torch" in ended.value.code
    assert "\n" not in ended.value.code
    assert not (tmp_path / "out").exists()


def test_benchmarks_that_end_well(run, capsys):
    status, report = run("--skip-tests", "--benchmarks=good")
    assert status == 0
    assert "- Tests: left out\n- Benchmarks: 1 of 1 ran\n" in report
    assert "`python benchmarks/good.py --device cuda`" in report
    assert '```text\na table\n```\n```json\n{"name": "good"' in report
    assert "report.md" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrong", "- `wrong`: FAILED: exit code 1\n"),
        ("unfinished", "- `unfinished`: FAILED: its last line is no JSON object\n"),
    ],
)
def test_one_that_fails_is_said_and_the_others_run(run, name, said):
    status, report = run("--skip-tests", f"--benchmarks={name},good")
    assert status == 1
    assert f"- Benchmarks: 1 of 2 ran\n{said}" in report
    assert '{"name": "good"' in report
    if name == "wrong":
        assert "begun\nexpected equal labels, got gaps\n" in report


def test_a_peer_that_is_not_installed_is_said_and_is_no_failure(run, check, monkeypatch):
    monkeypatch.setattr(check, "PEERS", {"no_such_peer": "no-such-peer"})
    status, report = run("--skip-tests", "--benchmarks=peerless,good")
    assert status == 0
    assert (
        "- Benchmarks: 1 of 1 ran\n- `peerless`: left out: no-such-peer is not installed\n"
        in report
    )


def test_what_takes_too_long_is_stopped(run, tmp_path):
    (tmp_path / "good.py").write_text("import time\nprint('slow', flush=True)\ntime.sleep(600)\n")
    status, report = run("--skip-tests", "--benchmarks=good", "--timeout=2")
    assert status == 1
    assert "FAILED: stopped after 2 s" in report
    assert "```text\nslow\n```" in report


def test_tests_that_fail_are_counted_and_shown(run):
    status, report = run("--skip-benchmarks")
    assert status == 1
    assert "- Tests: 2 passed, 1 failed, 1 skipped\n- Benchmarks: left out\n" in report
    assert "test_wrong[2]**\n" in report
    assert "AssertionError: two is not one" in report
    assert "| needs two GPUs | 1 |" in report


def test_no_tests_are_a_failure(run, tmp_path):
    (tmp_path / "test_those.py").write_text("")
    status, report = run("--skip-benchmarks")
    assert status == 1
    assert "- Tests: 0 passed, 0 failed, 0 skipped (exit code 5" in report


def test_a_benchmark_that_is_none_is_refused(run, capsys):
    with pytest.raises(SystemExit) as ended:
        run("--benchmarks=gea")
    assert ended.value.code == 2
    assert "expected benchmarks out of good, wrong" in capsys.readouterr().err


def test_the_report_of_recorded_outputs(report, tmp_path):
    file = tmp_path / "tests.xml"
    file.write_text(XML)
    tests = report.read_tests(file, "", 12.4)
    assert not tests.is_good
    said = 'row\n```\n{"a": 1}\n'
    done = [report.Benchmark("gae", ("--device", "cuda"), said, 3.2)]
    assert report.markdown({"GPU": "made | up"}, tests, done) == (
        "# GPU check of rlaif_pl\n"
        "- Tests: 1 passed, 2 failed, 1 skipped\n"
        "- Benchmarks: 1 of 1 ran\n\n"
        "| | |\n|---|---|\n| GPU | made \\| up |\n\n"
        "## Tests\n1 passed, 2 failed, 1 skipped in 12 s.\n\n"
        "| skipped | tests |\n|---|---:|\n| needs two GPUs | 1 |\n\n"
        "**tests.a::test_two**\n```text\nE   lines\nE   of a failure\n```\n\n"
        "**tests.b**\n```text\nE   no module\n```\n\n"
        "## Benchmarks\n\n### gae\n`python benchmarks/gae.py --device cuda`: 3 s\n"
        '````text\nrow\n```\n````\n```json\n{"a": 1}\n```\n'
    )


def test_a_report_of_many_failures_can_be_pasted(report):
    alike = [report.Failure(f"a::test[{n}]", ("the same",)) for n in range(300)]
    others = [report.Failure(f"b::test[{n}]", (f"{n} " * 300,) * 10) for n in range(300)]
    said = "x" * 80 + "\n"
    done = [report.Benchmark(f"b{n}", (), said * 500 + GOOD, problem="no") for n in range(9)]
    tests = report.Tests(1, (*alike, *others))
    text = report.markdown({"GPU": "one"}, tests, done)
    assert len(text) < 65_536
    assert "**a::test[0]** and 299 alike\n```text\nthe same\n```" in text
    assert "And 289 more:\n- b::test[11]\n" in text


def test_tests_that_were_stopped_are_counted_by_what_was_printed(report, tmp_path):
    printed = (
        "a.py::test_x[cuda] PASSED [ 1%]\na.py::test_y FAILED [ 2%]\na.py::test_z SKIPPED (no)\n"
    )
    found = report.read_tests(tmp_path / "none.xml", printed, 5.0, "stopped after 5 s")
    assert str(found) == "1 passed, 1 failed, 1 skipped (stopped after 5 s)"
    assert found.failures[0].name == "a.py::test_y"


def uses_a_gpu(file: Path) -> bool:
    """Whether a file has tests or fixtures that ask for a device, or a mark."""
    text = file.read_text(encoding="utf-8")
    if "mark.gpu" in text and file.name != Path(__file__).name:
        return True
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    asking = [node for node in functions if node.name.startswith("test_") or node.decorator_list]
    return any({a.arg for a in node.args.args} & {"device", "cuda_here"} for node in asking)


def test_every_file_with_tests_for_a_gpu_is_run(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    known = importlib.import_module("gpu_check").GPU_TESTS
    assert all((ROOT / each).exists() for each in known)
    others = [
        str(file.relative_to(ROOT))
        for file in (ROOT / "tests").rglob("*.py")
        if uses_a_gpu(file) and not any(file.is_relative_to(ROOT / each) for each in known)
    ]
    assert others == ["tests/conftest.py"]


def test_every_benchmark_is_there(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for name in importlib.import_module("gpu_check").BENCHMARKS:
        assert (ROOT / "benchmarks" / f"{name}.py").is_file()
