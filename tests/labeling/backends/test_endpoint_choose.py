"""Probabilities of whole answers from tables of likeliest tokens, worked by hand."""

import asyncio
import math

import pytest

from rlaif_pl.labeling.backends.endpoint_choose import choose, split_by


def chosen(options, tables, **settings):
    """Return probabilities; ``tables`` maps a beginning to a table of probabilities."""
    asked = []

    async def look_up(beginning):
        asked.append(beginning)
        table = tables.get(beginning)
        return table and tuple((token, math.log(mass)) for token, mass in table)

    found = asyncio.run(choose(options, look_up, **settings))
    if found is None:
        return None, asked
    return [value if value is None else math.exp(value) for value in found], asked


def test_single_tokens_need_one_question():
    found, asked = chosen(("1", "2"), {"": [("1", 0.5), ("2", 0.25), ("x", 0.1)]})
    assert found == pytest.approx([0.5, 0.25])
    assert asked == [""]


def test_a_token_counts_for_the_longest_option_it_begins_with():
    tables = {"": [("1", 0.4), ("10", 0.2), ("100", 0.1), ("12", 0.05)]}
    found, asked = chosen(("1", "10"), tables)
    assert found == pytest.approx([0.45, 0.3])
    assert asked == [""]


def test_a_split_ten_takes_its_share_from_one():
    # P("10") = 0.4 * 0.25 = 0.1, P("1") = 0.4 - 0.1
    tables = {"": [("1", 0.4), ("2", 0.3)], "1": [("0", 0.25), (".", 0.5)]}
    found, asked = chosen(("1", "2", "10"), tables)
    assert found == pytest.approx([0.3, 0.3, 0.1])
    assert asked == ["", "1"]


def test_a_split_ten_that_is_not_reported_stays_unknown():
    tables = {"": [("1", 0.4), ("2", 0.3)], "1": [(".", 0.5)]}
    found, _ = chosen(("1", "2", "10"), tables)
    assert found[2] is None
    assert found[:2] == pytest.approx([0.4, 0.3])


def test_a_second_question_that_fails_leaves_the_option_unknown():
    found, asked = chosen(("1", "10"), {"": [("1", 0.4)]})
    assert found[0] == pytest.approx(0.4)
    assert found[1] is None
    assert asked == ["", "1"]


def test_answers_of_several_tokens_are_followed():
    # P("(A)") = 0.8 * 0.6 * 0.5 = 0.24, P("(B)") = 0.8 * 0.4 = 0.32
    tables = {"": [("(", 0.8)], "(": [("A", 0.6), ("B)", 0.4)], "(A": [(")", 0.5), (".", 0.5)]}
    found, asked = chosen(("(A)", "(B)"), tables)
    assert found == pytest.approx([0.24, 0.32])
    assert asked == ["", "(", "(A"]


def test_three_options_one_inside_the_other():
    # "1" 0.5; after it "0" 0.4, so 0.2 begins with "10"; after that "0" 0.5, so "100" has 0.1
    tables = {"": [("1", 0.5)], "1": [("0", 0.4)], "10": [("0", 0.5)]}
    found, _ = chosen(("1", "10", "100"), tables)
    assert found == pytest.approx([0.3, 0.1, 0.1])


def test_a_space_in_front_counts_only_where_it_is_told():
    tables = {"": [("1", 0.2), (" 1", 0.3), (" ", 0.1), ("2", 0.1)]}
    assert chosen(("1", "2"), tables)[0] == pytest.approx([0.2, 0.1])
    assert chosen(("1", "2"), tables, ignore_space=True)[0] == pytest.approx([0.5, 0.1])


def test_a_space_that_belongs_to_the_option_is_needed():
    tables = {"": [("1", 0.2), (" 1", 0.3), (" ", 0.2)], " ": [("1", 0.5)]}
    found, _ = chosen((" 1", "2"), tables)
    assert found[0] == pytest.approx(0.3)
    assert found[1] is None


def test_a_first_question_that_fails_is_a_failure():
    assert chosen(("1", "2"), {})[0] is None


# Where a chat server is not to go on with a begun answer, it is asked once.
def test_a_beginning_of_one_option_alone_counts_for_it():
    tables = {"": [(" (A", 0.5), ("(B", 0.25), ("(A)", 0.125)]}
    found, asked = chosen((" (A)", " (B)"), tables, ignore_space=True, can_follow=False)
    assert found == pytest.approx([0.625, 0.25])
    assert asked == [""]


def test_a_beginning_of_several_options_counts_for_none():
    for options, table, token in (
        (("(A)", "(B)"), [("(", 0.9)], "("),
        (("1", "10"), [("1", 0.9), ("x", 0.1)], None),  # "1" is an answer
        ((" 1", " 10", " (A)"), [(" 1", 0.8), ("1", 0.1), ("(", 0.05)], "("),
    ):
        found, asked = chosen(options, {"": table}, can_follow=False)
        assert found[1] is None
        assert asked == [""]
        logprobs = [value and math.log(value) for value in found]
        assert split_by(options, logprobs, [(t, math.log(p)) for t, p in table]) == token
    assert split_by(("1", "2"), (0.0, None), [("1", 0.0), (" ", -9.0)]) is None


@pytest.mark.parametrize(
    ("options", "merge"), [(("1", "1"), False), (("1", " 1"), True), (("",), False)]
)
def test_options_must_be_different_texts(options, merge):
    with pytest.raises(ValueError, match="expected different options"):
        chosen(options, {}, ignore_space=merge)
