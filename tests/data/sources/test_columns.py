"""Any table by column names."""

import gzip
import math

import pytest

from rlaif_pl.data.records import group_of
from rlaif_pl.data.sources import DataSource, load_preferences, load_prompts

THEIRS = {"prompt": "question", "first": "a", "second": "b", "label": "winner", "group": "qid"}


def row(winner, **more):
    return {"question": "Q", "a": "x", "b": "y", "winner": winner, "qid": 7, **more}


@pytest.mark.parametrize(
    ("label", "p"),
    [
        *[(label, 1.0) for label in (0, 0.0, "0", "0.0", "first", "A", "a ", "model_a", "Model A")],
        *[
            (label, 0.0)
            for label in (1, 1.0, "1", "1.0", " Second", "B", "b", "model_b", "MODEL-B")
        ],
        *[(label, 0.5) for label in ("tie", "Tie", "tie (bothbad)", "both_bad")],
        *[(label, None) for label in (None, math.nan)],
    ],
)
def test_a_label_names_the_better_side(write, label, p):
    (pair,) = load_preferences(DataSource(write(row(label)), columns=THEIRS)).rows
    assert (pair.prompt, pair.first, pair.second, pair.group) == ("Q", "x", "y", "7")
    assert pair.p_first == p
    assert pair.source == (None if p is None else "human")


@pytest.mark.parametrize(
    "label", [True, False, "true", "False", 2, "2", 0.3, -1, "model_c", "", "01", ["first"]]
)
def test_a_label_that_could_mean_anything_is_refused(write, label):
    with pytest.raises(
        ValueError, match=r"rows.jsonl:1: expected the label to be 0, 'first'.* in 'winner'"
    ):
        load_preferences(DataSource(write(row(label)), columns=THEIRS))


def test_a_csv_holds_probabilities_and_weights_as_text(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,first,second,p_first,weight\nQ,x,y,0.25,2\nR,x,y,,\n")
    one, two = load_preferences(DataSource(str(path), format="columns")).rows
    assert (one.p_first, one.weight, one.group) == (0.25, 2.0, group_of("Q"))
    assert (two.p_first, two.weight) == (None, 1.0)


def test_chosen_and_rejected_can_be_mapped_too(write):
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    source = DataSource(write({"q": "Q", "good": "x", "bad": "y"}), columns=columns)
    (pair,) = load_preferences(source).rows
    assert (pair.first if pair.p_first else pair.second) == "x"


def test_prompts_take_their_reference_and_come_once(write):
    columns = {"prompt": "post", "reference": "summary"}
    path = write({"post": "P"}, {"post": "P", "summary": "S"}, {"post": "R", "summary": None})
    one, two = load_prompts(DataSource(path, columns=columns))
    assert (one.text, one.reference) == ("P", "S")
    assert (two.text, two.reference) == ("R", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": " "}, "'question' to be some text"),
        ({"question": 3}, "'question' to be some text"),
        ({"p_first": 1.5}, "'p_first' to be a probability"),
        ({"p_first": "much"}, "'p_first' to be a number"),
        ({"weight": -1}, "'weight' to be a finite number"),
    ],
)
def test_a_wrong_cell_is_named_with_file_and_line(write, change, message):
    path = write(row(0), row(0, **change))
    with pytest.raises(ValueError, match=f"rows.jsonl:2: expected {message}"):
        load_preferences(DataSource(path, columns=THEIRS))


def test_a_column_that_is_not_there_is_named(write):
    with pytest.raises(ValueError, match=r"the column 'nope' \(our 'first'\), got a, b"):
        load_preferences(DataSource(write(row(0)), columns={**THEIRS, "first": "nope"}))
    ours = r"the column 'first', got prompt, second; name yours: `columns: \{first: THEIRS\}`"
    with pytest.raises(ValueError, match=ours):
        load_preferences(DataSource(write({"prompt": "p", "second": "b"})))


def test_an_unknown_column_of_ours_is_refused():
    with pytest.raises(ValueError, match="got 'promt'; write our name first"):
        DataSource("x", columns={"promt": "q"})


def test_a_misspelt_optional_column_is_no_absent_one(write):
    file = write(row(0), row(1))
    with pytest.raises(ValueError, match=r"expected the columns wieght in .*there are a, b, qid"):
        load_preferences(DataSource(file, columns=THEIRS | {"weight": "wieght"}))
    with pytest.raises(ValueError, match="expected the columns summry"):
        load_prompts(DataSource(file, columns={"prompt": "question", "reference": "summry"}))
    some = write(row(0), row(1, importance=2.0))  # a row may be without
    found = load_preferences(DataSource(some, columns=THEIRS | {"weight": "importance"})).rows
    assert [pair.weight for pair in found] == [1.0, 2.0]


def test_a_misspelt_side_is_named_as_it_was_mapped(write):
    columns = {"prompt": "q", "chosen": "goood", "rejected": "bad"}
    with pytest.raises(ValueError, match="expected the column 'goood' .our 'chosen'."):
        load_preferences(DataSource(write({"q": "Q", "good": "x", "bad": "y"}), columns=columns))


@pytest.mark.parametrize(("value", "p"), [(True, 1.0), (False, 0.0), (1, 1.0), (math.nan, None)])
def test_a_boolean_is_a_probability_where_it_is_mapped_to_one(write, value, p):
    columns = {name: theirs for name, theirs in THEIRS.items() if name != "label"}
    source = DataSource(write(row(value)), columns=columns | {"p_first": "winner"})
    assert load_preferences(source).rows[0].p_first == p


def test_a_table_with_probabilities_as_text_needs_no_format(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,first,second,p_first\nQ,x,y,0.25\nR,x,y,\n")
    rows = load_preferences(str(tmp_path / "rows.csv")).rows
    assert [pair.p_first for pair in rows] == [0.25, None]


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_the_first_row_of_a_csv_may_be_unlabeled(tmp_path, name):
    text = "prompt,first,second,p_first,weight,source\nQ,x,y,,,\nR,x,y,0.7,2,ai\nS,x,y,1,,\n"
    opener = gzip.open if name.endswith(".gz") else open
    with opener(tmp_path / name, "wt") as file:
        file.write(text)
    rows = load_preferences(str(tmp_path / name)).rows
    assert [(pair.p_first, pair.weight, pair.source) for pair in rows] == [
        (None, 1.0, None), (0.7, 2.0, "ai"), (1.0, 1.0, "human"),
    ]  # fmt: skip
    assert [pair.provenance.strategy for pair in rows] == [None, None, "human"]


def test_gaps_and_decimals_of_a_table_change_no_group(write):
    path = write(row(0), row(0, qid=7.0), row(0, qid="7"), row(0, qid=math.nan))
    groups = [pair.group for pair in load_preferences(DataSource(path, columns=THEIRS)).rows]
    assert groups == ["7", "7", "7", group_of("Q")]
    with pytest.raises(ValueError, match=r"'qid' to be text or a number, got an object of a"):
        load_preferences(DataSource(write(row(0, qid={"a": 1})), columns=THEIRS))


def test_a_refusal_does_not_print_the_row(write):
    secret = ["confidential"] * 3
    with pytest.raises(ValueError, match="'a' to be text or a list of messages") as refused:
        load_preferences(DataSource(write(row(0, a=secret)), columns=THEIRS))
    assert len(str(refused.value)) < 300
