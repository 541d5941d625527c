"""What the package asks pip for: bounds where private names are used, a lock within them, its types."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import rlaif_pl

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ASKED = {each.name: each for each in map(Requirement, PROJECT["dependencies"])}


@pytest.mark.parametrize(
    ("name", "written_for", "beyond"),
    [("lightning", "2.6.6", "2.7.0"), ("jsonargparse", "4.53.0", "4.54.0")],
)
def test_libraries_whose_private_names_are_used_stay_in_their_series(name, written_for, beyond):
    assert written_for in ASKED[name].specifier
    assert beyond not in ASKED[name].specifier


def test_the_lock_has_versions_that_are_asked_for():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line and line[0] != "#")
    pinned = {name.lower().replace("-", "_"): version for name, version in pinned.items()}
    for name, requirement in ASKED.items():
        if name != "torch":  # pinned by the Makefile
            assert pinned[name.lower().replace("-", "_")] in requirement.specifier, name


def test_type_checkers_are_told_that_the_package_has_types():
    assert (Path(rlaif_pl.__file__).parent / "py.typed").is_file()
    assert '"rlaif_pl": ["py.typed"]' in (ROOT / "setup.py").read_text(encoding="utf-8")
