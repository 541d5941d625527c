import json

import pytest
from datasets import load_dataset

from rlaif_pl import cli
from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.types import Preference

ROWS = [
    Preference("p0", "a", "b", "g0", 0.9),
    Preference("p1", "a", "b", "g1", 0.25),
    Preference("p2", "a", "b", "g2", 0.5),
    Preference("p3", "a", "b", "g3"),
]


@pytest.fixture
def pairs(tmp_path):
    write_preferences(tmp_path / "pairs.jsonl", ROWS)
    return str(tmp_path / "pairs.jsonl")


def test_the_likelier_side_is_chosen_and_ties_are_left_out(pairs, tmp_path, capsys):
    out = tmp_path / "trl.jsonl"
    assert cli.main(["export", "--preferences", pairs, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows == [
        {"prompt": "p0", "chosen": "a", "rejected": "b", "p_chosen": 0.9},
        {"prompt": "p1", "chosen": "b", "rejected": "a", "p_chosen": 0.75},
    ]
    assert f"2 pairs written to {out}, 2 left out" in capsys.readouterr().out


def test_close_calls_can_be_left_out(pairs, tmp_path):
    out = tmp_path / "trl.jsonl"
    assert cli.main(["export", f"--preferences={pairs}", f"--out={out}", "--min_margin=0.3"]) == 0
    assert len(out.read_text().splitlines()) == 1


def test_datasets_reads_what_was_written(pairs, tmp_path):
    out = tmp_path / "trl.jsonl"
    cli.main(["export", "--preferences", pairs, "--out", str(out)])
    table = load_dataset(
        "json", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert table.column_names == ["prompt", "chosen", "rejected", "p_chosen"]
    assert table["chosen"][:] == ["a", "b"]
