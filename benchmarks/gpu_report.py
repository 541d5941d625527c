"""The report of ``gpu_check.py``: what ran where, in Markdown that can be pasted into an issue."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# An issue holds 65,536 characters.
MOST_FAILURES = 12  # kinds shown with their last lines; of more only names are given
MOST_NAMES = 40
LAST_LINES = 10  # of a failure, and of a benchmark that failed
MOST_LINES = 40  # of a benchmark's tables
WIDEST = 160  # characters of a line
VERDICT = re.compile(r"(\S+::.*) (PASSED|FAILED|ERROR|SKIPPED)\b")


@dataclass(frozen=True)
class Failure:
    """A test that failed, or could not be set up or collected.

    Attributes:
        name: File and test.
        lines: The last lines of what pytest said.
    """

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Tests:
    """What became of the tests.

    Attributes:
        passed: How many passed.
        failures: Those that did not.
        skipped: How many were skipped for each reason.
        seconds: How long all took.
        problem: Why there is no whole result; None where there is one.
    """

    passed: int = 0
    failures: tuple[Failure, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    problem: str | None = None

    @property
    def is_good(self) -> bool:
        """Whether tests ran and all of them passed."""
        return self.passed > 0 and not self.failures and self.problem is None

    def __str__(self) -> str:
        """Return the counts."""
        skipped = sum(self.skipped.values())
        counts = f"{self.passed} passed, {len(self.failures)} failed, {skipped} skipped"
        return counts if self.problem is None else f"{counts} ({self.problem})"


@dataclass(frozen=True)
class Benchmark:
    """What became of a benchmark.

    Attributes:
        name: File without its ending.
        words: Its options.
        output: What it printed.
        seconds: How long it took.
        problem: Why it failed; None where it did not.
        left_out: The package that it cannot run without and that is not installed, if that is why.
    """

    name: str
    words: tuple[str, ...]
    output: str = ""
    seconds: float = 0.0
    problem: str | None = None
    left_out: str | None = None

    @property
    def is_good(self) -> bool:
        """Whether it ran, or was left out for want of a peer."""
        return self.problem is None

    @property
    def result(self) -> str | None:
        """The last line that is a JSON object, as every benchmark ends in one."""
        return next((line for line in reversed(self.output.splitlines()) if is_json(line)), None)

    def __str__(self) -> str:
        """Say in a few words how it ended."""
        if self.left_out is not None:
            return f"left out: {self.left_out} is not installed"
        return f"FAILED: {self.problem}" if self.problem is not None else f"{self.seconds:.0f} s"


def is_json(line: str) -> bool:
    """Whether a line is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def read_tests(file: Path, output: str, seconds: float, problem: str | None = None) -> Tests:
    """Read what pytest wrote with ``--junitxml``; where it was stopped before, what ``-v`` printed."""
    if not file.is_file():
        ended = [match.groups() for match in map(VERDICT.match, output.splitlines()) if match]
        verdicts = Counter(verdict for _, verdict in ended)
        failures = [Failure(name, ()) for name, verdict in ended if verdict in ("FAILED", "ERROR")]
        skipped = {"reason unknown": verdicts["SKIPPED"]} if verdicts["SKIPPED"] else {}
        why = problem or "pytest wrote no result"
        return Tests(verdicts["PASSED"], tuple(failures), skipped, seconds, why)
    passed, failures, skipped = 0, list[Failure](), Counter[str]()
    for case in ElementTree.parse(file).getroot().iter("testcase"):
        name = "::".join(part for part in (case.get("classname"), case.get("name")) if part)
        wrong = [each for each in case if each.tag in ("failure", "error")]
        reason = case.find("skipped")
        if wrong:
            said = wrong[0].text or wrong[0].get("message") or ""
            failures.append(Failure(name, tuple(said.rstrip().splitlines()[-LAST_LINES:])))
        elif reason is not None:
            skipped[reason.get("message") or "no reason"] += 1
        else:
            passed += 1
    return Tests(passed, tuple(failures), dict(skipped), seconds, problem)


def markdown(
    machine: Mapping[str, str], tests: Tests | None, benchmarks: Sequence[Benchmark]
) -> str:
    """Return the report.

    Args:
        machine: Facts by name.
        tests: What became of the tests; None where they were left out.
        benchmarks: What became of each, in order.
    """
    ran = [each for each in benchmarks if each.left_out is None]
    good = sum(each.is_good for each in ran)
    lines = [
        "# GPU check of rlaif_pl",
        f"- Tests: {'left out' if tests is None else tests}",
        f"- Benchmarks: {good} of {len(ran)} ran" if benchmarks else "- Benchmarks: left out",
        *(f"- `{each.name}`: {each}" for each in benchmarks if each.left_out or each.problem),
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {cell(value)} |" for name, value in machine.items()),
    ]
    if tests is not None:
        lines += ["", "## Tests", *test_lines(tests)]
    if benchmarks:
        lines += ["", "## Benchmarks"]
        for each in benchmarks:
            lines += benchmark_lines(each)
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Return a text as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def test_lines(tests: Tests) -> list[str]:
    """Counts, reasons of skips, and failures with their last lines."""
    lines = [f"{tests} in {tests.seconds:.0f} s."]
    if tests.skipped:
        lines += ["", "| skipped | tests |", "|---|---:|"]
        lines += [f"| {cell(reason)} | {count} |" for reason, count in tests.skipped.items()]
    kinds: dict[tuple[str, ...], list[str]] = {}
    for failure in tests.failures:
        kinds.setdefault(failure.lines, []).append(failure.name)
    for said, (name, *others) in list(kinds.items())[:MOST_FAILURES]:
        alike = f" and {len(others)} alike" if others else ""
        lines += ["", f"**{name}**{alike}", *fenced(said)]
    rest = [name for names in list(kinds.values())[MOST_FAILURES:] for name in names]
    if rest:
        lines += ["", f"And {len(rest)} more:", *(f"- {name}" for name in rest[:MOST_NAMES])]
    return [*lines, "- ..."] if len(rest) > MOST_NAMES else lines


def benchmark_lines(benchmark: Benchmark) -> list[str]:
    """Command, tables and the JSON line of a benchmark; the end of what it said where it failed."""
    command = " ".join(["python", f"benchmarks/{benchmark.name}.py", *benchmark.words])
    said = benchmark.output.rstrip().splitlines()
    if benchmark.problem is not None or benchmark.left_out is not None:
        said = said[-LAST_LINES:]
    else:
        said = [line for line in said if line != benchmark.result][-MOST_LINES:]
    lines = ["", f"### {benchmark.name}", f"`{command}`: {benchmark}", *fenced(said)]
    return lines if benchmark.result is None else [*lines, *fenced([benchmark.result], "json")]


def fenced(lines: Sequence[str], language: str = "text") -> list[str]:
    """Return lines as a block of code, which no line of theirs ends."""
    longest = max((len(line) - len(line.lstrip("`")) for line in lines), default=0)
    fence = "`" * max(3, longest + 1)
    if language == "text":
        lines = [line[:WIDEST] for line in lines]
    return [f"{fence}{language}", *lines, fence] if lines else []
