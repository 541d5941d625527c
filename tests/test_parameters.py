"""No constructor, command or function takes more than twelve parameters."""

import ast
from pathlib import Path

import rlaif_pl

PACKAGE = Path(rlaif_pl.__file__).parent
MOST = 12


def functions(tree: ast.AST, inside: str = ""):
    """Yield each function's name, with its class, and the number of its parameters."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            yield inside + node.name, len([one for one in given if one.arg not in ("self", "cls")])
        name = f"{inside}{node.name}." if isinstance(node, ast.ClassDef) else inside
        yield from functions(node, name)


def test_no_more_than_twelve_parameters():
    found = {
        f"{path.relative_to(PACKAGE)} {name}": count
        for path in sorted(PACKAGE.rglob("*.py"))
        for name, count in functions(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert len(found) > 1000  # the walk sees the package
    many = {name: count for name, count in found.items() if count > MOST}
    assert many == {}
