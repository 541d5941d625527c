"""The package imports one way: each tier only from the tiers before it."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import rlaif_pl

PACKAGE = Path(rlaif_pl.__file__).parent
# Parts of one tier do not import each other.
TIERS = (
    ("types", "text", "statistics", "config_paths", "device_names", "errors", "slurm"),
    ("ops", "tables"),
    ("engine",),
    ("data", "models"),
    ("labeling", "rl"),
    ("training",),
    ("evaluation",),
    ("api",),
    ("__init__",),
    ("recipes",),
    ("reporting",),
    ("pipeline",),
    ("cli",),
    ("__main__",),
)
# Parts that start before torch is wanted, and what they must not load at import.
LIGHT = ("cli/main", "__init__", "config_paths", "device_names", "errors", "slurm")
HEAVY = ("torch", "lightning", "transformers")


class Import(NamedTuple):
    """One imported module of the package."""

    where: str
    part: str
    module: str


def tier_of(part: str) -> int:
    return next(number for number, tier in enumerate(TIERS) if part in tier)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def nodes(path: Path) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Name what a statement imports; ``from rlaif_pl import ops`` is ``rlaif_pl.ops``."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if node.module == "rlaif_pl":
        return [f"rlaif_pl.{alias.name}" for alias in node.names]
    return [str(node.module)]


def imports() -> list[Import]:
    return [
        Import(f"{path.relative_to(PACKAGE)}:{node.lineno}", part_of(path), module)
        for path in sources()
        for node in nodes(path)
        for module in modules(node)
        if module.startswith("rlaif_pl.") and module != "rlaif_pl.__version__"
    ]


def test_every_part_has_its_tier():
    parts = {part_of(path) for path in sources()}
    assert parts <= {part for tier in TIERS for part in tier}


def test_imports_go_one_way():
    found = imports()
    assert len(found) > 150  # the walk sees the package
    wrong = []
    for where, part, module in found:
        other = module.split(".")[1]
        is_earlier = tier_of(other) < tier_of(part)
        if not (other == part or is_earlier):
            wrong.append(f"{where} imports {module}")
    assert not wrong


def test_data_never_labels_by_itself():
    assert not [
        where for where, part, module in imports() if part == "data" and "labeling" in module
    ]


def test_there_are_no_relative_imports():
    relative = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sources()
        for node in nodes(path)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


@pytest.mark.parametrize("part", LIGHT)
def test_the_command_line_starts_without_torch(part):
    body = ast.parse((PACKAGE / f"{part}.py").read_text(encoding="utf-8")).body
    top = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {module.split(".")[0] for node in top for module in modules(node)}
    assert names.isdisjoint(HEAVY)


def test_every_folder_with_modules_is_a_package():
    # A folder without __init__.py imports from a checkout, and is left out of a wheel.
    bare = {path.parent for path in sources()} - {
        path.parent for path in sources() if path.name == "__init__.py"
    }
    assert not bare
