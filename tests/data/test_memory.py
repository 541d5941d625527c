"""Records in memory are read like the rows of a file."""

import dataclasses
import math

import datasets
import numpy as np
import pytest

from rlaif_pl.data.mixing import PreferencePart, load_pairs
from rlaif_pl.data.preferences import write_preferences, write_prompts
from rlaif_pl.data.records import group_of
from rlaif_pl.data.sources import (
    DataSource,
    is_sensitive,
    load_demonstrations,
    load_preferences,
    load_prompts,
)
from rlaif_pl.training.datamodule import PreferenceDataModule
from rlaif_pl.types import Preference, Prompt

PAIRS = [Preference(f"p{n}", f"a{n}", f"b{n}", f"g{n}", 0.25, 2.0, "ai") for n in range(8)]
PROMPTS = [Prompt(f"p{n}", f"g{n}", f"ref {n}" if n % 4 else None) for n in range(8)]
CHOSEN = [{"prompt": "p", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(6)]


def test_objects_come_back_as_they_are_and_as_from_a_file(tmp_path):
    write_preferences(tmp_path / "pairs.jsonl", PAIRS)
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    assert load_preferences(PAIRS).rows == PAIRS
    assert load_preferences(str(tmp_path / "pairs.jsonl")).rows == PAIRS
    assert load_prompts(PROMPTS) == PROMPTS == load_prompts(str(tmp_path / "prompts.jsonl"))
    assert load_demonstrations(PROMPTS) == PROMPTS


def test_a_path_names_data_as_its_text_does(tmp_path):
    path = tmp_path / "harmless.jsonl"
    write_prompts(path, PROMPTS)
    assert load_prompts(path) == PROMPTS == load_prompts(DataSource(path))
    assert is_sensitive(path)


def test_dicts_may_have_any_layout_of_a_file():
    rows = load_preferences(CHOSEN).rows
    assert len(rows) == 6
    better = [row.first if row.p_first == 1.0 else row.second for row in rows]
    assert better == [row["chosen"] for row in CHOSEN]
    labeled = [{"prompt": "p", "first": "a", "second": "b", "label": "second"}]
    assert load_preferences(labeled).rows[0].p_first == 0.0


def test_rows_may_hold_arrays_and_numbers_of_numpy():
    turns = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]
    other = (turns[0], turns[1] | {"content": "b"})
    row = {
        "prompt": np.str_("p"),
        "chosen": np.array(turns),
        "rejected": other,
        "group": np.int64(7),
    }
    (pair,) = load_preferences([row]).rows
    assert ({pair.first, pair.second}, pair.group) == ({"a", "b"}, "7")
    sides = {"prompt": "p", "first": "a", "second": "b"}
    assert load_preferences([sides | {"label": np.int64(1)}]).rows[0].p_first == 0.0
    assert load_preferences([sides | {"p_first": np.float32(0.25)}]).rows[0].p_first == 0.25
    with pytest.raises(TypeError, match="record 0: expected columns named by text, got 0"):
        load_preferences([{0: "p", 1: "a", 2: "b"}])


def test_rows_of_a_pandas_table_may_have_gaps():
    gap = math.nan
    row = {"prompt": "p", "first": "a", "second": "b"}
    one, two = load_preferences(
        [
            row | {"p_first": gap, "weight": gap, "group": 7.0},
            row | {"p_first": 0.25, "weight": 2.0, "group": gap},
        ]
    ).rows
    assert (one.p_first, one.weight, one.group) == (None, 1.0, "7")
    assert (two.p_first, two.weight, two.group) == (0.25, 2.0, group_of("p"))
    prompts = load_prompts([{"text": "p", "reference": gap}, {"text": "q", "reference": "r"}])
    assert [prompt.reference for prompt in prompts] == [None, "r"]
    with pytest.raises(ValueError, match="record 0: .*'p_first' to be a probability"):
        load_preferences([dataclasses.replace(PAIRS[0], p_first=gap)])  # a record, not a table


def test_texts_and_pairs_are_prompts():
    assert [row.text for row in load_prompts(["one", "two", "one"])] == ["one", "two"]
    assert [row.text for row in load_prompts(PAIRS)] == [row.prompt for row in PAIRS]


def test_a_data_set_reads_like_its_rows():
    table = datasets.Dataset.from_list(CHOSEN)
    assert load_preferences(table).rows == load_preferences(CHOSEN).rows
    with pytest.raises(TypeError, match=r"one split.*data\['train'\]"):
        load_preferences(datasets.DatasetDict({"train": table}))


@pytest.mark.parametrize(
    ("records", "error", "said"),
    [
        ([], ValueError, "expected rows in records in memory"),
        ([Prompt("p", "g")], ValueError, "expected pairs of responses in records in memory"),
        ([PAIRS[0], PROMPTS[0]], ValueError, "record 1: expected the field 'prompt'"),
        ([dataclasses.replace(PAIRS[0], p_first=2.0)], ValueError, "record 0: .*'p_first'"),
        ([7], TypeError, "record 0: expected a Preference, a Prompt, a dict or a text, got 7"),
        (7, TypeError, "expected a name, a list of records or a datasets.Dataset, got int"),
    ],
)
def test_what_cannot_be_read_is_refused_by_record(records, error, said):
    with pytest.raises(error, match=said):
        load_preferences(records)


def test_sources_are_mixed_in_memory_too():
    parts = [PreferencePart(PAIRS[:2], weight=0.5), PreferencePart(CHOSEN, temperature=2.0)]
    rows = load_pairs(parts).rows
    assert [row.weight for row in rows] == [1.0] * 2 + [1.0] * 6
    assert load_pairs(PAIRS).rows == PAIRS


def test_records_are_not_sensitive():
    assert not is_sensitive(PROMPTS)


@pytest.mark.parametrize(
    ("task", "given", "count"),
    [
        ("pairs", {"preferences": PAIRS}, 6),
        (
            "prompts",
            {"prompts": datasets.Dataset.from_list([{"text": f"p{n}"} for n in range(8)])},
            8,
        ),
        ("demonstrations", {"demonstrations": PROMPTS}, 4),
        ("comparisons", {"preferences": PAIRS}, 8),
    ],
)
def test_the_data_module_takes_records(task, given, count):
    data = PreferenceDataModule(
        task, validation=PROMPTS[5:7] if task != "pairs" else PAIRS[:2], **given
    )
    data.prepare_data()
    data.setup("fit")
    assert len(data.train_rows) == count
    if task != "comparisons":
        assert data.validation_rows
        assert not {row.group for row in data.train_rows} & {r.group for r in data.validation_rows}


@pytest.mark.parametrize("text", ["Explain gravity.", "Say A/B/C. " * 50])
def test_a_text_is_no_name_of_data(text):
    for load in (load_prompts, load_preferences):
        with pytest.raises(ValueError, match="expected a list of texts, or the name of data"):
            load(text)


def test_demonstrations_are_no_pairs():
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    for row in ({"messages": said}, {"prompt": "hi", "completion": "ho"}):
        got = f"a demonstration \\({', '.join(sorted(row))}\\)"
        with pytest.raises(ValueError, match=f"record 0: expected a pair, .* got {got}"):
            load_preferences([row])
