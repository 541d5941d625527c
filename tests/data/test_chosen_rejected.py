"""HH dialogues and TRL columns: prompt found, sides balanced."""

import gzip

import pytest

from rlaif_pl.data.label_export import trl_rows, write_parquet
from rlaif_pl.data.records import group_of
from rlaif_pl.data.sources import DataSource, load_demonstrations, load_preferences, load_prompts
from rlaif_pl.data.sources.messages import DIFFERS
from rlaif_pl.types import Preference

HEAD = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant:"


def better(pair):
    return pair.first if pair.p_first == 1.0 else pair.second


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def test_a_dialogue_is_split_at_its_last_assistant_turn(write):
    (pair,) = load_preferences(write({"chosen": HEAD + " So.", "rejected": HEAD + " No."})).rows
    assert pair.prompt == HEAD
    assert {pair.first, pair.second} == {"So.", "No."}
    assert better(pair) == "So."
    assert pair.group == group_of(HEAD)


def test_dialogues_that_cannot_be_compared_are_left_out_and_counted(write):
    other = HEAD.replace("Why", "How")
    path = write(
        {"chosen": HEAD + " Same.", "rejected": HEAD + " Same. "},
        {"chosen": HEAD + " A.", "rejected": other + " B."},
        {"chosen": HEAD + " A.", "rejected": HEAD},
        {"chosen": HEAD + " A.", "rejected": HEAD + " B."},
    )
    loaded = load_preferences(path)
    assert len(loaded.rows) == 1
    assert loaded.dropped == {
        "identical responses": 1,
        DIFFERS: 1,
        "empty response": 1,
    }


def test_the_side_is_balanced_fixed_by_the_seed_and_not_by_the_order(write):
    rows = [{"chosen": f"{HEAD} good {n}", "rejected": f"{HEAD} bad {n}"} for n in range(400)]
    pairs = load_preferences(write(*rows)).rows
    share = sum(pair.p_first for pair in pairs) / 400
    assert abs(share - 0.5) < 0.1  # 4 standard deviations of 400 tosses
    assert all(better(pair).startswith("good") for pair in pairs)
    again = load_preferences(write(*reversed(rows))).rows
    assert again[::-1] == pairs
    assert load_preferences(DataSource(write(*rows), seed=1)).rows != pairs


def test_trl_strings(write):
    (pair,) = load_preferences(write({"prompt": "Q", "chosen": " yes ", "rejected": "no"})).rows
    assert (pair.prompt, better(pair)) == ("Q", "yes")


def test_trl_conversations_with_and_without_prompt_are_the_same_pair(write):
    explicit = {"prompt": [user("Q")], "chosen": [assistant("yes")], "rejected": [assistant("no")]}
    implicit = {"chosen": [user("Q"), assistant("yes")], "rejected": [user("Q"), assistant("no")]}
    assert load_preferences(write(explicit)).rows == load_preferences(write(implicit)).rows
    assert load_prompts(write(implicit))[0].text == "Q"


def test_a_longer_conversation_is_written_as_in_hh(write):
    prompt = [user("Hi"), assistant("Yes?"), user("Why?")]
    row = {"prompt": prompt, "chosen": [assistant("So.")], "rejected": [assistant("No.")]}
    assert load_preferences(write(row)).rows[0].prompt == HEAD


def test_a_completion_is_a_reference(write):
    (prompt,) = load_prompts(write({"prompt": "Q", "completion": "yes"}))
    assert (prompt.text, prompt.reference) == ("Q", "yes")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "'prompt' to be some text, got none"),
        ({"prompt": "Q", "chosen": "a", "rejected": None}, "'rejected' to be text or a list"),
        ({"prompt": "Q", "chosen": "a"}, "'rejected' to be text or a list"),
        ({"prompt": "Q", "chosen": [user("a")] * 2, "rejected": "b"}, "'chosen' to be one message"),
        ({"prompt": [{"role": "dog"}], "chosen": "a", "rejected": "b"}, "'prompt' to be text or"),
        ({"chosen": [user("Q")], "rejected": [user("P")]}, "'chosen' and 'rejected' to share all"),
        ({"chosen": HEAD + " a", "rejected": "b"}, "'rejected' to be a dialogue with .* got 'b'"),
        ({"chosen": "a", "rejected": HEAD + " b"}, "'chosen' to be a dialogue with"),
    ],
)
def test_a_wrong_trl_row_is_named_with_file_and_line(write, row, message):
    path = write({"prompt": "Q", "chosen": "a", "rejected": "b"}, row)
    with pytest.raises(ValueError, match=f"rows.jsonl:2: expected {message}"):
        load_preferences(DataSource(path, format="trl"))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": " ", "rejected": "b"},
        {
            "prompt": "Q",
            "chosen": [user("Q"), assistant("a")],
            "rejected": [user("Q"), assistant("")],
        },
        {"chosen": HEAD + " ", "rejected": HEAD},
        {"prompt": "Q", "first": "", "second": "b", "label": 0},
    ],
)
def test_a_row_with_an_empty_response_is_left_out_and_counted(write, row):
    head = "" if "prompt" in row else HEAD
    good = {
        key: value if key in ("prompt", "label") else f"{head} {key}" for key, value in row.items()
    }
    path = write(good, row)
    loaded = load_preferences(path)
    assert len(loaded.rows) == 1
    assert loaded.dropped == {"empty response": 1}
    assert len(load_prompts(path)) == 1


def test_an_empty_demonstration_is_left_out_and_told(write, caplog):
    rows = [{"messages": [user("Q"), assistant(text)]} for text in ("yes", "")]
    assert [row.reference for row in load_demonstrations(write(*rows))] == ["yes"]
    assert "left out 1 rows: empty response (1)" in caplog.text


def test_what_is_labeled_undesirable_is_no_demonstration(write, caplog):
    rows = [{"prompt": f"Q{n}", "completion": "yes", "label": n > 0} for n in range(2)]
    path = write(*rows)
    assert [row.text for row in load_demonstrations(path)] == ["Q1"]
    assert "left out 1 rows: labeled undesirable (1)" in caplog.text
    assert [(row.text, row.reference) for row in load_prompts(path)] == [
        ("Q0", None),
        ("Q1", "yes"),
    ]


def test_a_text_with_instruction_and_answer_is_no_prompt(write):
    path = write({"instruction": "Add 1 and 2.", "output": "3", "text": "Add 1 and 2.\n3"})
    with pytest.raises(
        ValueError, match="cannot tell the format from the fields instruction, output"
    ):
        load_prompts(path)
    mapped = DataSource(path, columns={"prompt": "instruction", "reference": "output"})
    (row,) = load_demonstrations(mapped)
    assert (row.text, row.reference) == ("Add 1 and 2.", "3")


def test_a_dialogue_without_assistant_turn_is_an_error(write):
    path = write({"chosen": "a", "rejected": "b"})
    told = r"'chosen' to be a dialogue with '\\n\\nAssistant:', got 'a'; add a 'prompt' column"
    with pytest.raises(ValueError, match=told):
        load_preferences(DataSource(path, format="hh"))


@pytest.mark.parametrize(
    ("form", "is_dialogue"), [("trl", False), ("hh", True), ("auto", False), ("auto", True)]
)
@pytest.mark.parametrize("chosen", ["chosen", "good"])
def test_columns_are_mapped_whatever_the_format(write, form, is_dialogue, chosen):
    rows = [
        {"prompt": "Q", chosen: "yes", "rejected": "no", "imp": 9},
        {chosen: HEAD + " So.", "rejected": HEAD + " No.", "imp": 9},
    ]
    columns = {"weight": "imp", "chosen": chosen}
    source = DataSource(write(rows[is_dialogue]), format=form, columns=columns)
    (pair,) = load_preferences(source).rows
    assert (pair.weight, better(pair)) == (9.0, "So." if is_dialogue else "yes")
    assert len(load_prompts(source)) == 1


def test_a_mapped_prompt_is_that_of_a_table(write):
    path = write({"chosen": "yes", "rejected": "no"})
    with pytest.raises(ValueError, match="expected the column 'question' \\(our 'prompt'\\)"):
        load_preferences(DataSource(path, columns={"prompt": "question"}))


@pytest.mark.parametrize("name", ["helpful-base", "harmless-base"])
def test_every_real_row_is_kept_or_counted(real_data, name):
    path = real_data / "hh_rlhf" / f"{name}.test.jsonl.gz"
    loaded = load_preferences(str(path))
    with gzip.open(path) as file:
        total = sum(1 for _ in file)
    assert len(loaded.rows) + sum(loaded.dropped.values()) == total
    assert len(loaded.rows) > 0.97 * total
    endings = {pair.prompt.endswith("\n\nAssistant:") for pair in loaded.rows}
    assert endings == {True}


def test_group_weight_and_probability_of_a_row_are_kept(write):
    row = {"chosen": "yes", "rejected": "no", "group": 7, "weight": 0.5, "p_chosen": 0.75}
    rows = [{"prompt": f"Q{n}", **row} for n in range(12)]
    pairs = load_preferences(write(*rows)).rows
    assert {(p.first, p.p_first) for p in pairs} == {("yes", 0.75), ("no", 0.25)}
    assert {(p.group, p.weight, p.source, p.provenance.strategy) for p in pairs} == {
        ("7", 0.5, None, None)
    }
    assert {prompt.group for prompt in load_prompts(write(*rows))} == {"7"}
    mapped = [{"sure" if key == "p_chosen" else key: row[key] for key in row} for row in rows]
    source = DataSource(write(*mapped), columns={"p_chosen": "sure"})
    assert load_preferences(source).rows == pairs


@pytest.mark.parametrize(
    ("fields", "source"),
    [
        ({"p_chosen": 0.75, "source": "ai"}, "ai"),
        ({"source": "synthetic"}, "synthetic"),
        ({"source": "evol_instruct"}, "human"),  # where the texts are from
        ({"p_chosen": None}, "human"),
    ],
)
def test_who_judged_is_what_the_row_says(write, fields, source):
    pair, dialogue = (
        load_preferences(write(row | fields)).rows[0]
        for row in (
            {"prompt": "Q", "chosen": "yes", "rejected": "no"},
            {"chosen": HEAD + " So.", "rejected": HEAD + " No."},
        )
    )
    assert pair.source == dialogue.source == source
    assert pair.provenance.strategy == ("human" if source == "human" else None)


def test_exported_labels_come_back_as_soft_as_they_were(tmp_path):
    soft = [Preference(f"p{n}", "a", "b", group_of(f"p{n}"), 0.9, source="ai") for n in range(8)]
    write_parquet(tmp_path / "train.parquet", trl_rows(soft))
    for pair in load_preferences(str(tmp_path / "train.parquet")).rows:
        assert pair.p_first == pytest.approx(0.9 if pair.first == "a" else 0.1)
        assert pair.source is None


@pytest.mark.parametrize(("name", "value"), [("p_chosen", 1.5), ("p_chosen", "x"), ("weight", -1)])
def test_numbers_that_cannot_be_are_refused_by_line_and_column(write, name, value):
    path = write({"prompt": "Q", "chosen": "yes", "rejected": "no", name: value})
    with pytest.raises(ValueError, match=rf"rows.jsonl:1: expected '{name}' to be a"):
        load_preferences(path)
