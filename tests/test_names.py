"""One concept, one name: no class name with two meanings, no file name in three places."""

import ast
from collections import defaultdict
from pathlib import Path

import rlaif_pl

PACKAGE = Path(rlaif_pl.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_no_class_name_means_two_things():
    places = defaultdict(list)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    assert len(places) > 300  # the walk sees the package
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_file_name_stands_in_three_places():
    places = defaultdict(list)
    for path in SOURCES:
        if path.name != "__init__.py":
            places[path.name].append(str(path.relative_to(PACKAGE)))
    assert {name: where for name, where in places.items() if len(where) > 2} == {}
