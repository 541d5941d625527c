"""Prompts with several good responses, and sources that say where they come from."""

import pytest

from rlaif_pl.data.preferences import write_prompts
from rlaif_pl.data.sources import DataSource, load_demonstrations, load_preferences, load_prompts
from rlaif_pl.types import Prompt


def test_absent_data_name_the_command_that_gets_them(tmp_path):
    source = DataSource(str(tmp_path / "batch.json"), create_with="curl -o batch.json URL")
    with pytest.raises(FileNotFoundError, match=r"batch\.json, .*get them with: curl -o batch"):
        load_preferences(source)


def test_a_prompt_has_several_demonstrations_but_is_one_prompt(tmp_path):
    rows = [Prompt("p", "g", "one"), Prompt("p", "g", "two"), Prompt("p", "g", "one")]
    write_prompts(tmp_path / "rows.jsonl", [*rows, Prompt("q", "h")])
    name = str(tmp_path / "rows.jsonl")
    assert [row.reference for row in load_demonstrations(name)] == ["one", "two", None]
    assert [row.text for row in load_prompts(name)] == ["p", "q"]
    assert len(load_demonstrations(DataSource(name, limit=2))) == 2
