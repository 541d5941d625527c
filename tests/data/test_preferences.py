"""Our own files: what is written is read back, and nothing wrong is read."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif_pl.data.files import read_rows
from rlaif_pl.data.preferences import (
    write_preferences,
    write_prompts,
)
from rlaif_pl.data.records import RawRow, decode_all, encode, group_of
from rlaif_pl.data.sources import DataSource, load_demonstrations, load_preferences
from rlaif_pl.types import Preference, Prompt, Provenance

PAIR = Preference("Post?", "One.", "Two.", "g1", 0.25, 2.0, "ai", Provenance("sft", labeler="x"))
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


def write_row(tmp_path, **changes):
    row = {**dataclasses.asdict(PAIR), **changes}
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(dataclasses.asdict(PAIR)) + "\n" + json.dumps(row) + "\n")
    return path


@given(
    text=texts,
    response=texts,
    p=st.none() | st.floats(0, 1),
    margin=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
def test_every_record_survives_a_round_trip(text, response, p, margin):
    provenance = Provenance(margin=margin, same_slot=True, tokens=3)
    pair = Preference(text, response, response + "!", text, p, provenance=provenance)
    raw = RawRow("here", json.loads(encode(pair)))
    assert list(decode_all(Preference, [raw])) == [("here", pair)]


def test_files_survive_a_round_trip_one_line_a_row(tmp_path):
    rows = [PAIR, dataclasses.replace(PAIR, prompt="two\nlines\u2028and é", p_first=None)]
    write_preferences(tmp_path / "pairs.jsonl", rows)
    assert load_preferences(str(tmp_path / "pairs.jsonl")).rows == rows
    prompts = [Prompt("a", "g"), Prompt("b", "h", "ref")]
    write_prompts(tmp_path / "prompts.jsonl", prompts)
    assert load_demonstrations(str(tmp_path / "prompts.jsonl")) == prompts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "  "}, "'prompt' to be some text"),
        ({"first": ""}, "'first' to be some text"),
        ({"second": None}, "'second' to be text, got None"),
        ({"group": ""}, "'group' to be some text"),
        ({"p_first": 1.01}, "'p_first' to be a probability"),
        ({"p_first": math.nan}, "'p_first' to be a probability"),
        ({"p_first": True}, "'p_first' to be a number or null, got True"),
        ({"p_first": "0.5"}, "'p_first' to be a number or null"),
        ({"weight": -1}, "'weight' to be a finite number"),
        ({"weight": math.inf}, "'weight' to be a finite number"),
        ({"source": "god"}, "'source' to be 'ai' or 'human' or 'reading' or 'synthetic' or null"),
        ({"provenance": 3}, "'provenance' to be an object"),
        ({"provenance": {"tokens": 1.5}}, "'provenance.tokens' to be a whole number"),
    ],
)
def test_a_wrong_field_is_named_with_file_and_line(tmp_path, change, message):
    path = write_row(tmp_path, **change)
    with pytest.raises(ValueError, match="pairs.jsonl:2: expected " + message):
        load_preferences(str(path))


def test_a_missing_field_is_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "p", "first": "a"}\n')
    with pytest.raises(ValueError, match=r"pairs.jsonl:1: expected the field 'second'"):
        load_preferences(DataSource(str(path), format="preferences"))


def test_unknown_fields_are_warned_of_once(tmp_path, caplog):
    path = write_row(tmp_path, extra=1, provenance={"mood": "good"})
    assert len(load_preferences(str(path)).rows) == 2
    said = [record.getMessage() for record in caplog.records]
    assert said.count("ignored unknown fields: extra, provenance.mood") == 1
    assert sum("ignored" in text for text in said) == 1


def test_identical_responses_are_left_out_and_counted(tmp_path):
    loaded = load_preferences(str(write_row(tmp_path, second=PAIR.first)))
    assert loaded.rows == [PAIR]
    assert loaded.dropped == {"identical responses": 1}


def test_a_row_without_group_is_grouped_by_its_text(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "a"}\n{"text": "a", "group": null}\n{"text": "b"}\n')
    groups = [prompt.group for _, prompt in decode_all(Prompt, read_rows(path))]
    assert groups == [group_of("a"), group_of("a"), group_of("b")]
    assert groups[0] != groups[2]


def test_a_measurement_that_is_not_finite_is_written_as_null():
    pair = dataclasses.replace(PAIR, provenance=Provenance(margin=math.nan, failure="nonfinite"))
    assert json.loads(encode(pair))["provenance"]["margin"] is None


def test_a_row_that_could_not_be_read_back_is_not_written(tmp_path):
    bad = dataclasses.replace(PAIR, first=" ")
    with pytest.raises(ValueError, match=r"pairs.jsonl:2: expected 'first' to be some text"):
        write_preferences(tmp_path / "pairs.jsonl", [PAIR, bad])
    assert list(tmp_path.iterdir()) == []
