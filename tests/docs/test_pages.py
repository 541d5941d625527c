"""Pages say what is so: their lines are short, and paths, metrics and commands in them exist."""

import ast
import os
import re
from argparse import ArgumentParser
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

import rlaif_pl
from rlaif_pl.cli import registry
from rlaif_pl.cli.commands.config_check import OUTER, lightning_parser
from rlaif_pl.cli.commands.parsers import function_parser
from rlaif_pl.cli.commands.run import run_parser
from rlaif_pl.config_paths import find_config

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"])
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
CALLS = {
    **TEXTS,
    "README.md": (ROOT / "README.md").read_text(encoding="utf-8"),
    "configs": "\n".join(config.read_text(encoding="utf-8") for config in CONFIGS),
}
COMMANDS = (*registry.LIGHTNING, "run", *registry.FUNCTIONS)
OF_BENCHMARKS = ("--train",)
PATH = re.compile(
    r"(?<![\w/.$])((?:rlaif_pl|tests|benchmarks|configs|csrc)/[\w./-]*\w/?)(?![\w*<{])"
)


def test_there_are_pages():
    assert len(PAGES) >= 25
    assert "docs/index.md" in TEXTS


@pytest.mark.parametrize("page", TEXTS)
def test_lines_are_short(page):
    long = [line for line in TEXTS[page].splitlines() if len(line) > 110]
    assert not long


@pytest.mark.parametrize("page", TEXTS)
def test_paths_exist(page):
    paths = set(PATH.findall(TEXTS[page]))
    assert not [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]


@pytest.mark.parametrize("page", TEXTS)
def test_commands_exist(page):
    known = {
        *registry.LIGHTNING,
        *(name.split()[0] for name in registry.FUNCTIONS),
        "run",
        "COMMAND",
    }
    assert set(re.findall(r"python -m rlaif_pl (\w+)", TEXTS[page])) <= known


@cache
def options_of(command: str) -> frozenset[str]:
    """Every option of a command, keys of groups included."""
    if command == "run":
        parser: ArgumentParser = run_parser()
    elif command in registry.LIGHTNING:
        of_command = ("--config", "--print_config", *(f"--{key}" for key in OUTER))
        return frozenset((*of_command, *lightning_parser()._option_string_actions))
    else:
        parser = function_parser(registry.function_of(command), f"python -m rlaif_pl {command}")
    return frozenset(parser._option_string_actions)


def is_option(word: str, value: str, known: frozenset[str]) -> bool:
    """Whether a command takes an option or one that stands above it, and a group no plain word."""
    parts = word.split(".")
    if not any(".".join(parts[:n]) in known for n in range(1, len(parts) + 1)):
        return False
    is_group = any(each.startswith(f"{word}.") and each != f"{word}.help" for each in known)
    return not is_group or value.startswith("{") or value.endswith(".yaml")


def called(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a text, with its words; variables of the shell are filled in."""
    lines = re.sub(r"\s*\\\n[#\s]*", " ", text).splitlines()
    known: dict[str, str] = {}
    for line in lines:
        line = re.sub(r"\$([A-Z])\b", lambda found: known.get(found[1], found[0]), line)
        if found := re.match(r'\s*([A-Z])="(.*)"$', line):
            known[found[1]] = found[2]
        elif found := re.search(r"(?:python -m rlaif_pl|rlaif-pl) (\w.*)", line):
            first, *rest = re.split(r"[`#|]| {2,}", found[1])[0].split()
            command = f"{first} {rest.pop(0)}" if first in registry.GROUPS and rest else first
            yield command, rest


@pytest.mark.parametrize("page", CALLS)
def test_options_of_commands_exist(page):
    wrong = []
    for command, words in called(CALLS[page]):
        if command not in COMMANDS:
            continue
        for word, after in zip(words, [*words[1:], ""], strict=False):
            option, _, value = word.partition("=")
            if option.startswith("--") and not is_option(
                option, value or after, options_of(command)
            ):
                wrong.append(f"{command} {word} {after}")
    assert not wrong


@pytest.mark.parametrize("page", CALLS)
def test_options_in_a_sentence_are_those_of_some_command(page):
    spans = [f"{span} " for span in re.findall(r"`(--[^`\n]+)`", CALLS[page])]
    used = [pair for span in spans for pair in re.findall(r"(--[a-z_.]+)[ =](\S*)", span)]
    assert not [
        (option, value)
        for option, value in used
        if option not in OF_BENCHMARKS
        and not any(is_option(option, value, options_of(command)) for command in COMMANDS)
    ]


def test_options_that_are_no_more_are_found():
    text = (
        'D="--data x --limit 3"\nA="python -m rlaif_pl evaluate alignment"\n$A $D \\\n  --gate stop'
    )
    ((command, words),) = called(text)
    assert (command, words) == (
        "evaluate alignment",
        ["--data", "x", "--limit", "3", "--gate", "stop"],
    )
    known = options_of(command)
    assert [w for w in ("--data", "--data.limit", "--limit") if is_option(w, "", known)] == [
        "--data",
        "--data.limit",
    ]
    assert not is_option("--gate", "stop", known)
    assert is_option("--gate.action", "stop", known)
    assert is_option("--labeler.backend", "m", known)


@pytest.mark.parametrize("page", TEXTS)
def test_configs_that_come_with_the_package_exist(page):
    for name in re.findall(r"--config (quickstart/[\w.]+)", TEXTS[page]):
        assert find_config(name).is_file()


@pytest.mark.parametrize("page", TEXTS)
def test_yaml_can_be_read(page):
    for block in re.findall(r"```yaml\n(.*?)```", TEXTS[page], re.DOTALL):
        yaml.safe_load(block)


def test_the_workflow_calls_what_a_change_must_pass():
    path = ROOT / ".github" / "workflows" / "ci.yml"
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
    called = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    assert called == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def words() -> set[str]:
    """Every word between slashes of every text in the package: what metrics are put together from."""
    found: set[str] = set()
    for file in Path(rlaif_pl.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.update(re.split(r"[/ ]", node.value))
            elif isinstance(node, ast.keyword | ast.arg) and node.arg:
                found.add(node.arg)
    return found


def test_every_metric_of_the_reference_is_one_of_the_package():
    metrics = re.findall(r"`([a-z]\w*/[\w/]+)`", TEXTS["docs/reference/metrics.md"])
    assert len(metrics) > 45
    known = words()
    assert not [
        metric
        for metric in metrics
        if (last := metric.rsplit("/", 1)[1]) not in known
        and re.sub("^(train|val)_", "", last) not in known
        and last != "KIND"
    ]
