"""The embedded requests hold what their README says."""

import collections

import pytest

from rlaif_pl.data import tiny_requests
from rlaif_pl.data.sources import (
    DataSource,
    is_sensitive,
    load_demonstrations,
    load_preferences,
    load_prompts,
)

SPLITS = {split: tiny_requests.load(split) for split in tiny_requests.SPLITS}
HARMFUL = [row for split in ("train", "dev", "final") for row in SPLITS[split]]


def test_counts_and_categories():
    counts = {split: len(rows) for split, rows in SPLITS.items()}
    assert counts == {"train": 48, "dev": 16, "final": 32, "helpful": 24}
    kinds = {split: {row.category for row in rows} for split, rows in SPLITS.items()}
    assert len(kinds["train"]) == 10
    assert kinds["train"] == kinds["dev"] == kinds["final"]
    assert len(kinds["helpful"]) == 12


def test_requests_are_single_lines_and_unique():
    rows = [row for rows in SPLITS.values() for row in rows]
    for field in ("id", "request"):
        values = [getattr(row, field) for row in rows]
        assert len(set(values)) == len(values)
    assert not [row.id for row in rows if "\n" in row.request or len(row.request.split()) > 24]


@pytest.mark.parametrize(("split", "longer"), [("dev", 8), ("final", 16), ("helpful", 10)])
def test_the_better_reply_is_the_longer_one_in_about_half(split, longer):
    assert sum(len(row.better) > len(row.worse) for row in SPLITS[split]) == longer
    assert not [row.id for row in SPLITS[split] if len(row.better) == len(row.worse)]


def test_prompts_are_dialogues_with_the_better_reply_as_reference():
    prompts = load_prompts("tiny_requests/final")
    assert [prompt.text for prompt in prompts] == [
        f"\n\nHuman: {row.request}\n\nAssistant:" for row in SPLITS["final"]
    ]
    assert [prompt.reference for prompt in prompts] == [row.better for row in SPLITS["final"]]
    assert {prompt.reference for prompt in load_prompts("tiny_requests/train")} == {None}
    assert len(load_prompts("tiny_requests/rl")) == 48 + 24


def test_gold_pairs_prefer_the_better_reply_on_a_balanced_side():
    pairs = load_preferences("tiny_requests/final").rows
    for pair, row in zip(pairs, SPLITS["final"], strict=True):
        assert (pair.first if pair.p_first == 1.0 else pair.second) == row.better
        assert (pair.source, pair.group) == ("synthetic", row.id)
    assert 0.3 < sum(pair.p_first for pair in pairs) / len(pairs) < 0.7
    with pytest.raises(ValueError, match="has requests only; take tiny_requests/dev"):
        load_preferences("tiny_requests/train")


def test_kinds_of_harm_are_spread_over_the_splits():
    for split in ("train", "final"):
        counts = collections.Counter(row.category for row in SPLITS[split])
        assert max(counts.values()) - min(counts.values()) <= 2, split


def test_names_that_do_not_exist_say_which_do():
    with pytest.raises(ValueError, match="expected tiny_requests/train, .*got 'tiny_requests/x'"):
        load_prompts("tiny_requests/x")
    with pytest.raises(ValueError, match="expected a split of train, dev, final, helpful"):
        tiny_requests.load("test")


@pytest.mark.parametrize(
    ("source", "hidden"),
    [
        ("tiny_requests/train", True),
        ("tiny_requests/rl", True),
        ("tiny_requests/helpful", False),
        ("tiny_tldr/train", False),
        ("data/hh_rlhf/harmless-base.test.jsonl.gz", True),
        (DataSource("Anthropic/hh-rlhf", subset="red-team-attempts"), True),
        (DataSource("Anthropic/hh-rlhf", data_dir="harmless-base"), True),
        (DataSource("mine.jsonl", sensitive=True), True),
        (DataSource("tiny_requests/train", sensitive=False), False),
    ],
)
def test_what_is_harmful_is_known_by_its_name_or_said(source, hidden):
    assert is_sensitive(source) is hidden


def test_demonstrations_keep_all_references_of_a_prompt(tmp_path):
    path = tmp_path / "d.jsonl"
    rows = ['{"text": "x", "reference": "one"}', '{"text": "x", "reference": "two"}']
    path.write_text("\n".join([*rows, rows[0]]) + "\n")
    assert [row.reference for row in load_demonstrations(str(path))] == ["one", "two"]
    assert len(load_prompts(str(path))) == 1
