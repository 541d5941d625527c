"""What people rank, from each kind of file, and in which order they see it."""

import json
from collections import Counter

import pytest

from rlaif_pl.data.records import group_of
from rlaif_pl.evaluation.human.records import mid_ranks, ranks_by_item, shares_of_best, shown_order
from rlaif_pl.evaluation.human.tasks import Item, read_samples


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_samples_of_a_matrix(samples):
    read = read_samples(samples)
    assert read.policies == ("zebra", "yacht", "xenon")
    assert len(read.tasks) == 12
    assert not read.is_sensitive
    first = read.tasks[0]
    assert (first.prompt, first.group) == ("prompt 0", "g0")
    # surplus full stops are gone, as before any judge
    assert first.items[0] == Item("one 0.", ("zebra",))
    twice = read_samples(samples, per_prompt=2, limit=3)
    assert [task.items[1].text for task in twice.tasks[:2]] == ["two 0", "two more 0"]
    assert len({task.id for task in twice.tasks}) == 6


def test_the_reference_is_ranked_where_it_is_named(samples):
    tasks = read_samples(samples, ["reference", "yacht"], per_prompt=2).tasks
    assert [item.text for item in tasks[1].items] == ["reference 0", "two more 0"]


def test_rows_of_one_response_each(tmp_path):
    rows = [("p", "a", "x"), ("p", "b", "y"), ("q", "a", "x"), ("r", "a", "x"), ("r", "b", "x")]
    names = ("prompt", "policy", "response")
    path = write(tmp_path / "rows.jsonl", *(dict(zip(names, row, strict=True)) for row in rows))
    read = read_samples(path)
    assert [task.prompt for task in read.tasks] == ["p"]
    assert read.tasks[0].group == group_of("p")
    assert read.left_out == {"a policy without a response": 1, "identical responses": 1}


def test_pairs_of_one_policy(tmp_path):
    row = {"prompt": "p", "group": "g", "first": "x", "second": "y", "p_first": None}
    read = read_samples(write(tmp_path / "pairs.jsonl", row, {**row, "second": "z"}))
    assert read.policies == ("first", "second")
    assert [task.items[1].text for task in read.tasks] == ["y", "z"]


def test_policies_may_be_called_first_and_second(tmp_path):
    row = {"prompt": "p", "reference": "r", "first": ["x"], "second": ["y"], "sft": ["z"]}
    read = read_samples(write(tmp_path / "samples.jsonl", row))
    assert read.policies == ("first", "second", "sft")
    assert [item.text for item in read.tasks[0].items] == ["x", "y", "z"]


def test_the_same_text_of_two_policies_is_shown_once(tmp_path):
    read = read_samples(
        write(tmp_path / "s.jsonl", {"prompt": "p", "a": ["x"], "b": ["y"], "c": ["x"]})
    )
    assert read.tasks[0].items == (Item("x", ("a", "c")), Item("y", ("b",)))


def test_texts_that_stand_beside_their_hashes_are_sensitive(samples):
    hidden = samples.with_name("sample_texts.jsonl")
    write(hidden, {"prompt": "p", "sft": ["secret"], "policy": ["other"]})
    read = read_samples(samples)
    assert read.is_sensitive
    assert read.tasks[0].items[0].text == "secret"


@pytest.mark.parametrize(
    ("row", "policies", "said"),
    [
        ({"prompt": "p", "a": ["x"]}, None, "2 to 9 different policies"),
        ({"prompt": "p", "a": ["x"], "b": ["y"]}, ["a", "d"], "'d'"),
        ({"prompt": "p", "a": ["x"], "b": ["x"]}, None, "identical responses"),
        ({"text": "p", "a": ["x"]}, None, "s.jsonl:1: expected 'prompt'"),
    ],
)
def test_what_cannot_be_ranked_is_refused(row, policies, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        read_samples(write(tmp_path / "s.jsonl", row), policies)


def test_a_missing_file_names_the_commands_that_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="evaluate matrix"):
        read_samples(tmp_path / "gone.jsonl")


def test_every_order_is_as_likely_and_stays():
    seen = Counter(shown_order(0, f"rater {n}", "task", 3) for n in range(1200))
    assert len(seen) == 6
    assert all(140 < count < 260 for count in seen.values())  # 200, 13 standard deviations off
    assert shown_order(0, "Ann", "t", 9) == shown_order(0, "ann", "t", 9)
    assert shown_order(0, "Ann", "t", 9) != shown_order(1, "Ann", "t", 9)


def test_ranks_go_back_to_the_items():
    # item 2 at the top ranked 1, item 0 ranked 3, item 1 ranked 2
    assert ranks_by_item((2, 0, 1), [1, 3, 2]) == (3, 2, 1)
    for wrong in ([1, 1, 2], [1, 2], [0, 1, 2]):
        with pytest.raises(ValueError, match="ranks 1 to 3, each once"):
            ranks_by_item((2, 0, 1), wrong)


def test_tied_ranks_are_those_of_how_many_are_better():
    assert ranks_by_item((2, 0, 1), [1, 1, 2], ties=True) == (1, 3, 1)
    assert ranks_by_item((2, 0, 1), [2, 2, 2], ties=True) == (1, 1, 1)
    assert mid_ranks((1, 3, 1)) == [1.5, 3, 1.5]
    assert shares_of_best((1, 3, 1)) == [0.5, 0, 0.5]
    for wrong in ([1, 1], [0, 1, 1], [1, 1, 4]):
        with pytest.raises(ValueError, match="equal ones for ties"):
            ranks_by_item((2, 0, 1), wrong, ties=True)


def test_odd_characters_of_responses_are_text(tmp_path):
    texts = ["half \ud83d", "nul \x00 inside", "\u202eevil", "<script>alert(1)</script>"]
    rows = [{"prompt": "p", "policy": f"p{n}", "response": text} for n, text in enumerate(texts)]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (task,) = read_samples(tmp_path / "s.jsonl").tasks
    assert [item.text for item in task.items] == ["half \ufffd", *texts[1:]]
