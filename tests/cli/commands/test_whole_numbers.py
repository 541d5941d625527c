"""Numbers with an exponent: whole where whole numbers are meant, floats elsewhere."""

from dataclasses import dataclass
from typing import Any, Optional, Union

import pytest
from jsonargparse import ArgumentError, ArgumentParser

import rlaif_pl.cli.commands  # noqa: F401 (makes parsers accept them)
from rlaif_pl.pipeline.yaml_files import read_yaml, whole_number


@dataclass
class Inner:
    """A record among the options."""

    steps: int = 10
    rate: float = 0.1


def options(
    steps: int = 10,
    limit: int | None = None,
    share: Union[int, float, None] = None,  # noqa: UP007 (as Lightning writes it)
    sizes: Optional[list[int]] = None,  # noqa: UP045
    rate: float = 0.1,
    portion: Union[float, int, None] = None,  # noqa: UP007 (another order means the same)
    name: str = "n",
    either: int | str = 1,
    anything: Any = None,
    inner: Inner = Inner(),  # noqa: B008
) -> None:
    """Take one option of each kind."""


@pytest.fixture
def parser():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(options, as_group=False)
    return parser


CASES = [
    ("steps", "1e3", 1000),
    ("steps", "1E1", 10),  # also where it equals the default
    ("steps", "1e0", 1),
    ("steps", "2.5e1", 25),
    ("limit", "1e3", 1000),
    ("limit", "null", None),
    ("share", "1e3", 1000),
    ("share", "1e0", 1.0),
    ("share", "1.0", 1.0),
    ("share", "2.5e-1", 0.25),
    ("share", "1", 1),
    ("portion", "1", 1),
    ("portion", "1.0", 1.0),
    ("portion", "1e3", 1000),
    ("sizes", "[1e3, 5]", [1000, 5]),
    ("rate", "1e-4", 0.0001),
    ("rate", "1E-4", 0.0001),
    ("rate", "1e0", 1.0),
    ("anything", "1e-4", 0.0001),
    ("inner.steps", "1e3", 1000),
    ("inner.rate", "1e-4", 0.0001),
]


@pytest.mark.parametrize(("name", "written", "value"), CASES)
def test_a_number_is_the_same_in_a_config_and_on_the_command_line(
    tmp_path, parser, name, written, value
):
    (tmp_path / "a.yaml").write_text(
        f"inner: {{{name[6:]}: {written}}}" if "." in name else f"{name}: {written}"
    )
    given = [
        parser.parse_args([f"--{name}", written]),
        parser.parse_args([f"--{name}={written}"]),
        parser.parse_args(["--config", str(tmp_path / "a.yaml")]),
        parser.parse_object(read_yaml(tmp_path / "a.yaml")),
    ]
    for each in given:
        assert each[name] == value
        assert type(each[name]) is type(value)
        assert "'" not in parser.dump(each)


@pytest.mark.parametrize("written", ["1e-1", "2.5", "1.25e1", "1e400", "nan", ".inf", "1e", "1e1x"])
def test_what_is_no_whole_number_is_refused_by_the_option(tmp_path, parser, written):
    with pytest.raises(ArgumentError, match="steps"):
        parser.parse_args(["--steps", written])
    (tmp_path / "a.yaml").write_text(f"steps: {written}")
    with pytest.raises(ArgumentError, match="steps"):
        parser.parse_args(["--config", str(tmp_path / "a.yaml")])


def test_text_that_looks_like_a_number_stays_text(parser):
    assert parser.parse_args(["--name", "1e3"]).name == "1e3"
    assert parser.parse_args(["--either", "1e3"]).either in ("1e3", 1000)


@pytest.mark.parametrize(
    ("value", "number"),
    [("1e3", 1000), ("1_0e2", 1000), (".5e1", 5), (8.0, 8), ("8.0", None), ("8", None)]
    + [(2.5, None), (True, None), ("1e9999999", None), (float("inf"), None), ("", None)],
)
def test_whole_numbers_are_told_from_others(value, number):
    assert whole_number(value) == number
