"""The embedded requests hold what their README says."""

import collections

import pytest

from rlaif_pl.data.files import read_rows
from rlaif_pl.data.sources import (
    DataSource,
    is_sensitive,
    load_demonstrations,
    load_preferences,
    load_prompts,
)
from rlaif_pl.data.sources.load import FOLDER

SPLITS = {
    split: list(load_prompts(f"tiny_requests/{split}"))
    for split in ("train", "dev", "final", "helpful")
}
PAIRS = {
    split: list(load_preferences(f"tiny_requests/{split}").rows)
    for split in ("dev", "final", "helpful")
}
FACTS = [row.fields for row in read_rows(FOLDER / "tiny_requests" / "facts.jsonl")]
CATEGORY = {row["id"]: row["category"] for row in FACTS}
HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant:"


def replies(pair):
    """The better and the worse one."""
    return (pair.first, pair.second) if pair.p_first == 1.0 else (pair.second, pair.first)


def test_counts_and_categories():
    counts = {split: len(rows) for split, rows in SPLITS.items()}
    assert counts == {"train": 48, "dev": 16, "final": 32, "helpful": 24}
    kinds = {split: {CATEGORY[row.group] for row in rows} for split, rows in SPLITS.items()}
    assert len(kinds["train"]) == 10
    assert kinds["train"] == kinds["dev"] == kinds["final"]
    assert len(kinds["helpful"]) == 12


def test_requests_are_single_lines_and_unique():
    rows = [row for rows in SPLITS.values() for row in rows]
    for field in ("group", "text"):
        values = [getattr(row, field) for row in rows]
        assert len(set(values)) == len(values)
    assert list(CATEGORY) == [row.group for row in rows]
    for row in rows:
        request = row.text.removeprefix(HUMAN).removesuffix(ASSISTANT)
        assert row.text == HUMAN + request + ASSISTANT
        assert "\n" not in request, row.group
        assert len(request.split()) <= 24, row.group


@pytest.mark.parametrize(("split", "longer"), [("dev", 8), ("final", 16), ("helpful", 10)])
def test_the_better_reply_is_the_longer_one_in_about_half(split, longer):
    sizes = [tuple(map(len, replies(pair))) for pair in PAIRS[split]]
    assert sum(better > worse for better, worse in sizes) == longer
    assert not any(better == worse for better, worse in sizes)


@pytest.mark.parametrize("split", PAIRS)
def test_prompts_have_the_better_reply_as_reference(split):
    expected = [(pair.prompt, pair.group, replies(pair)[0]) for pair in PAIRS[split]]
    assert [(row.text, row.group, row.reference) for row in SPLITS[split]] == expected
    assert {row.reference for row in SPLITS["train"]} == {None}


def test_a_policy_is_trained_on_requests_of_both_kinds():
    assert load_prompts("tiny_requests/rl") == [*SPLITS["train"], *SPLITS["helpful"]]


def test_gold_pairs_prefer_the_better_reply_on_a_balanced_side():
    for pair in PAIRS["final"]:
        assert pair.p_first in (0.0, 1.0)
        assert (pair.source, pair.provenance.strategy) == ("synthetic", "gold")
    assert 0.3 < sum(pair.p_first for pair in PAIRS["final"]) / len(PAIRS["final"]) < 0.7
    with pytest.raises(ValueError, match="for pairs one of tiny_requests/dev, .*requests/train"):
        load_preferences("tiny_requests/train")


def test_kinds_of_harm_are_spread_over_the_splits():
    for split in ("train", "final"):
        counts = collections.Counter(CATEGORY[row.group] for row in SPLITS[split])
        assert max(counts.values()) - min(counts.values()) <= 2, split


def test_names_that_do_not_exist_say_which_do():
    with pytest.raises(ValueError, match="for prompts one of .*, got 'tiny_requests/x'"):
        load_prompts("tiny_requests/x")


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
