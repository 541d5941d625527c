"""Pages say what is so: their lines are short, and paths, metrics and commands in them exist."""

import ast
import os
import re
from pathlib import Path

import pytest
import yaml

import rlaif_pl
from rlaif_pl.cli import main as cli
from rlaif_pl.config_paths import find_config

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"])
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
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
    known = {*cli.LIGHTNING, *(name.split()[0] for name in cli.FUNCTIONS), "run", "COMMAND"}
    assert set(re.findall(r"python -m rlaif_pl (\w+)", TEXTS[page])) <= known


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
