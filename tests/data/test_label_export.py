"""Tables of labels and their cards."""

import math
from dataclasses import fields

import pyarrow.parquet as pq
import pytest
import yaml

from rlaif_pl.data.card import COLUMNS, dataset_card
from rlaif_pl.data.label_export import SOFT, soft_rows, trl_rows, write_parquet
from rlaif_pl.data.metric_files import write_json_lines
from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.types import Preference, Provenance

NOTE = Provenance(
    labeler="model|a", strategy="pairwise", prompt_version="v1", tokens=100, cost_usd=0.25
)
PAIRS = [
    Preference("p0", "a", "b", "g0", 0.9, source="ai", provenance=NOTE),
    Preference("p1", "a", "b", "g1", 0.25, source="ai", provenance=NOTE),
    Preference("p2", "a", "b", "g2", 0.5, source="ai", provenance=NOTE),
    Preference("p3", "a", "b", "g3", provenance=Provenance(failure="refused", tokens=7)),
    Preference("p4", "a", "b", "g4", 1.0, source="human"),
]


def test_soft_rows_keep_ties_sides_and_provenance():
    table = soft_rows(PAIRS)
    assert [row["p_first"] for row in table.rows] == [0.9, 0.25, 0.5, 1.0]
    assert table.left_out == {"refused": 1}
    assert table.rows[0]["labeler"] == "model|a"
    assert table.rows[0]["tokens"] == 100
    assert set(table.rows[0]) == set(SOFT.names) >= {f.name for f in fields(Provenance)}


def test_trl_rows_have_the_likelier_side_chosen():
    table = trl_rows(PAIRS)
    assert [(row["chosen"], row["p_chosen"]) for row in table.rows] == [
        ("a", 0.9), ("b", 0.75), ("a", 1.0),
    ]  # fmt: skip
    assert table.left_out == {"tied": 1, "refused": 1}
    assert table.schema.names == ["prompt", "chosen", "rejected", "p_chosen"]


def test_trl_rows_of_prompts_with_turns_are_messages(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tap?"}]
    rows = [
        {"prompt": turns, "chosen": "Yes.", "rejected": "No.", "p_chosen": 0.9},
        {"prompt": turns[1:], "chosen": "Ja.", "rejected": "Nein.", "p_chosen": 0.8},
        {"prompt": "text", "chosen": "a", "rejected": "b", "p_chosen": 0.7},
    ]
    pairs = load_preferences(rows).rows
    table = trl_rows(pairs)
    assert table.rows[0] == {
        "prompt": turns,
        "chosen": [{"role": "assistant", "content": "Yes."}],
        "rejected": [{"role": "assistant", "content": "No."}],
        "p_chosen": 0.9,
    }
    assert table.rows[2]["prompt"] == [{"role": "user", "content": "text"}]
    write_parquet(tmp_path / "x.parquet", table)
    again = load_preferences(DataSource(str(tmp_path / "x.parquet"))).rows
    assert [row.prompt for row in again] == [row.prompt for row in pairs]
    assert [row.messages for row in again[:2]] == [row.messages for row in pairs[:2]]
    # one message of a user is one, too: TRL would lay out a text without the chat template
    assert trl_rows(pairs[1:2]).rows[0]["prompt"] == turns[1:]
    assert trl_rows(pairs[2:]).rows[0]["prompt"] == "text"


def test_soft_rows_of_prompts_with_turns_keep_them(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tap?"}]
    rows = [
        {"prompt": turns, "chosen": "Yes.", "rejected": "No.", "p_chosen": 0.9},
        {"prompt": "text", "chosen": "a", "rejected": "b", "p_chosen": 0.7},
    ]
    pairs = load_preferences(rows).rows
    table = soft_rows(pairs)
    assert table.rows[1]["messages"] is None
    assert set(COLUMNS) >= {*table.schema.names}
    write_parquet(tmp_path / "x.parquet", table)
    write_json_lines(tmp_path / "x.jsonl", table.rows)
    for name in ("x.parquet", "x.jsonl"):
        again = load_preferences(DataSource(str(tmp_path / name))).rows
        assert [row.messages for row in again] == [row.messages for row in pairs]
        assert [row.p_first for row in again] == [row.p_first for row in pairs]


def test_a_margin_comes_only_where_it_is_asked_for():
    table = trl_rows(PAIRS, with_margin=True)
    assert table.rows[0]["margin"] == pytest.approx(math.log(9))  # 0.9 to 0.1
    assert table.rows[1]["margin"] == pytest.approx(math.log(3))
    assert table.rows[2]["margin"] is None  # a one-hot label has no finite odds


def test_close_calls_are_left_out_by_name():
    assert trl_rows(PAIRS, min_margin=0.3).left_out == {"tied": 1, "refused": 1, "close call": 1}
    assert soft_rows(PAIRS, min_margin=0.3).left_out == {"refused": 1, "close call": 2}


def test_parquet_has_the_types_of_the_schema(tmp_path):
    write_parquet(tmp_path / "x" / "train.parquet", soft_rows(PAIRS))
    table = pq.read_table(tmp_path / "x" / "train.parquet")
    assert table.schema.equals(SOFT)
    assert table["slot"].null_count == 4
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["train.parquet"]


def test_an_empty_export_is_still_a_table(tmp_path):
    write_parquet(tmp_path / "train.parquet", trl_rows(PAIRS[3:4]))
    assert pq.read_table(tmp_path / "train.parquet").num_rows == 0


def test_the_card_tells_provenance_counts_and_agreement():
    metrics = {
        "label/failed_timeout": 3.0,
        "label/tokens": 12345.0,
        "labeler/n": 86.0,
        "labeler/alignment": 0.593,
        "labeler/alignment_low": 0.488,
        "labeler/alignment_high": 0.686,
    }
    card = dataset_card("my labels", PAIRS, trl_rows(PAIRS), "train.parquet", "cc-by-4.0", metrics)
    _, front, body = card.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "cc-by-4.0"
    assert front["size_categories"] == ["n<1K"]
    assert front["configs"][0]["data_files"][0]["path"] == "train.parquet"
    assert "| `model\\|a` | `pairwise` | `v1` | 3 |" in body
    assert "| left out: refused | 1 |" in body
    assert "| asked for in vain: timeout | 3 |" in body
    assert "| tokens read and written for the labels | 12,345 |" in body
    assert "| US dollars paid for them | 0.75 |" in body
    assert "86 pairs with gold verdicts" in body
    assert "59.3 % [48.8, 68.6]" in body
    assert "by a language model (3) and by people (1)" in body


def test_a_card_without_measurements_says_so():
    card = dataset_card("x", PAIRS, soft_rows(PAIRS), "train.parquet")
    assert "Treat the labels as unverified" in card
    assert "log-odds of `first`" in card
    assert set(COLUMNS) >= {*SOFT.names, *trl_rows(PAIRS, with_margin=True).schema.names}
