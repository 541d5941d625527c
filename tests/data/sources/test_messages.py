"""Conversations as columns hold them: parts, roles, and whole dialogues beside a prompt."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlaif_pl.data.files import RawRow
from rlaif_pl.data.sources import DataSource, load_demonstrations, load_preferences, load_prompts
from rlaif_pl.data.sources.messages import DIFFERS, ELSEWHERE, read_exchange

HH = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant:"
HI, YES, WHY = ("user", "Hi"), ("assistant", "Yes?"), ("user", "Why?")
GOOD, BAD = ("assistant", "So."), ("assistant", "No.")


def said(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def test_the_last_message_of_a_demonstration_is_its_reference(write):
    short, long = {"messages": said(HI, YES)}, {"messages": said(HI, YES, WHY, GOOD)}
    with_prompt = {"prompt": "Hi", "prompt_id": "7", "messages": said(HI, BAD)}
    rows = load_demonstrations(write(short, long, with_prompt))
    assert [(row.text, row.reference) for row in rows] == [
        ("Hi", "Yes?"),
        (HH, "So."),
        ("Hi", "No."),
    ]


def test_messages_that_nobody_answered_are_refused_by_line(write):
    with pytest.raises(ValueError, match=r"rows.jsonl:1: .*'messages' .*role 'user'"):
        load_demonstrations(write({"messages": said(HI, YES, WHY)}))


def test_prompts_may_be_messages_that_nobody_answered(write):
    rows = load_prompts(write({"messages": said(HI, YES, WHY)}, {"messages": said(HI)}))
    assert [(row.text, row.reference, len(row.messages)) for row in rows] == [
        (HH, None, 3),
        ("Hi", None, 1),
    ]


def test_sharegpt_conversations_are_read_by_their_column(write):
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}]
    path = write({"conversations": turns, "id": "7"})
    with pytest.raises(ValueError, match="columns: {messages: THEIRS}"):
        load_demonstrations(path)
    with pytest.raises(
        ValueError, match="got a response in it; .*columns: {messages: conversations}"
    ):
        load_prompts(DataSource(path, columns={"prompt": "conversations"}))
    (row,) = load_demonstrations(DataSource(path, columns={"messages": "conversations"}))
    assert (row.text, row.reference, row.columns) == ("Hi", "Yes?", {"id": "7"})
    filled = [{"role": None, "content": None} | turn for turn in turns]
    (row,) = load_demonstrations(write({"messages": filled}))
    assert (row.text, row.reference) == ("Hi", "Yes?")
    sides = {
        "conversations": turns[:1],
        "chosen": turns[1],
        "rejected": turns[1] | {"value": "No."},
    }
    (pair,) = load_preferences(DataSource(write(sides), columns={"prompt": "conversations"})).rows
    assert {pair.first, pair.second} == {"Yes?", "No."}


@pytest.mark.parametrize("written", [json.dumps, str])
def test_messages_that_became_text_are_refused(write, written):
    rows = [{"prompt": "Hi", "chosen": said(HI, YES), "rejected": said(HI, BAD)}]
    text = [
        {name: written(v) if name != "prompt" else v for name, v in row.items()} for row in rows
    ]
    with pytest.raises(
        ValueError, match=r"rows.jsonl:1: expected 'chosen' .* written as text; write"
    ):
        load_preferences(write(*text))
    with pytest.raises(ValueError, match="expected 'messages' .* written as text"):
        load_demonstrations(write({"messages": written(said(HI, YES))}))


def exchange(chosen, rejected, **more):
    row = RawRow("rows.jsonl:7", {"chosen": chosen, "rejected": rejected, **more})
    return read_exchange(row, "prompt", ("chosen", "rejected"))


@pytest.mark.parametrize(
    ("prompt", "before", "text"),
    [
        ("Hi", [HI], "Hi"),
        (" Hi\n", [HI], "Hi"),
        (said(HI), [HI], "Hi"),
        (None, [HI], "Hi"),
        ("Why?", [HI, YES, WHY], HH),
        ("Hi", [HI, YES, WHY], HH),
        (HH, [HI, YES, WHY], HH),
        (said(HI, YES, WHY), [HI, YES, WHY], HH),
        (said(WHY), [HI, YES, WHY], HH),
        (said(HI, YES, WHY), [WHY], HH),
        ("Hi", [("system", "Be brief."), HI], "\n\nSystem: Be brief.\n\nHuman: Hi\n\nAssistant:"),
        (
            said(("developer", "Be brief."), HI),
            [("system", "Be brief."), HI],
            "\n\nSystem: Be brief.\n\nHuman: Hi\n\nAssistant:",
        ),
    ],
)
def test_a_dialogue_that_repeats_the_prompt_gives_each_message_once(prompt, before, text):
    found = exchange(said(*before, GOOD), said(*before, BAD), prompt=prompt)
    assert found == [text, "So.", "No."]


@pytest.mark.parametrize("prompt", ["Why?", HH, said(HI, YES, WHY), None])
def test_dialogues_in_hh_layout_beside_a_prompt_give_the_response_only(prompt):
    assert exchange(HH + " So.", HH + " No.", prompt=prompt) == [HH, "So.", "No."]


def test_rows_that_differ_are_left_out_and_counted(write, caplog):
    path = write(
        {"prompt": "Hi", "chosen": said(HI, GOOD), "rejected": said(HI, BAD)},
        {"prompt": "Hi", "chosen": said(HI, GOOD), "rejected": said(WHY, BAD)},
        {"prompt": "Where?", "chosen": said(HI, GOOD), "rejected": said(HI, BAD)},
    )
    loaded = load_preferences(path)
    assert len(loaded.rows) == 1
    assert loaded.dropped == {DIFFERS: 1, ELSEWHERE: 1}
    assert [prompt.text for prompt in load_prompts(path)] == ["Hi"]
    assert "left out 2 rows" in caplog.text


def test_a_response_that_runs_on_as_a_dialogue_is_still_a_response():
    runaway = "Human: what?\n\nAssistant: eh"
    assert exchange("So.", runaway, prompt="Hi") == ["Hi", "So.", runaway]


def test_one_message_is_enough_for_a_list():
    assert exchange(said(GOOD)[0], said(BAD)[0], prompt=said(HI)[0]) == ["Hi", "So.", "No."]


@pytest.mark.parametrize(
    "content",
    [
        "a\nb",
        [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "image": None}],
        [{"type": "input_text", "text": "a"}, {"text": "b", "type": None}],
        ["a", "b"],
    ],
)
def test_parts_of_text_are_joined_by_line_ends(content):
    message = {"role": "user", "content": content, "name": None, "tool_calls": None}
    assert exchange("x", "y", prompt=[message]) == ["a\nb", "x", "y"]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            {"role": "user", "content": [{"type": "image", "image": "sky.png"}]},
            "message 2 with a part that is no text .'image'.",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": None}]},
            "message 2 with a part that is no text",
        ),
        (
            {"role": "user", "content": [{"image_url": "x", "text": "t"}]},
            "message 2 with a part that is no text",
        ),
        (
            {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]},
            "message 2 with tool calls",
        ),
        (
            {"role": "assistant", "content": "Let me see.", "tool_calls": [{"id": 1}]},
            "message 2 with tool calls",
        ),
        ({"role": "assistant", "content": None}, "message 2 without content"),
        ({"role": "assistant", "content": []}, "message 2 without content"),
        (
            {"role": "assistant", "content": {"a": "secret"}},
            "message 2 with an object of a as content",
        ),
        ({"role": "tool", "content": "rain"}, "message 2 of the role 'tool'"),
        ({"role": ["user"], "content": "rain"}, "message 2 of the role a list of 1"),
        ({"content": "rain"}, "message 2 without a role"),
        ("rain", "message 2 that is 'rain'"),
    ],
)
def test_what_is_no_text_is_refused_by_line_and_message(message, reason):
    rest = "; fix, leave out or map it$"
    with pytest.raises(
        ValueError, match=f"^rows.jsonl:7: expected 'prompt' .*got {reason}.*{rest}"
    ):
        exchange("x", "y", prompt=[*said(HI), message])


def test_a_response_by_the_user_is_refused():
    with pytest.raises(ValueError, match="'chosen' .* got a response of the role 'user'"):
        exchange(said(HI, WHY), said(HI, BAD), prompt="Hi")


def test_keys_that_parquet_fills_with_null_are_as_good_as_absent(tmp_path):
    filled = {"name": None, "tool_calls": None}
    keys = [("role", pa.string()), ("content", pa.string()), ("name", pa.string())]
    kind = pa.list_(pa.struct([*keys, ("tool_calls", pa.list_(pa.string()))]))
    row = {"prompt": said(HI), "chosen": said(GOOD), "rejected": said(BAD)}
    columns = {
        name: pa.array([[message | filled for message in messages]], kind)
        for name, messages in row.items()
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    read = [load_preferences(str(tmp_path / name)).rows for name in ("a.parquet", "a.jsonl")]
    assert read[0] == read[1]
    assert len(read[0]) == 1


def test_mapped_columns_take_messages_and_whole_dialogues_too(write):
    columns = {"prompt": "q", "first": "a", "second": "b", "label": "winner"}
    row = {"q": "Why?", "a": said(HI, YES, WHY, GOOD), "b": said(HI, YES, WHY, BAD)}
    path = write(row | {"winner": "model_b"}, row | {"q": "Where?", "winner": "model_a"})
    loaded = load_preferences(DataSource(path, columns=columns))
    (pair,) = loaded.rows
    assert (pair.prompt, pair.first, pair.second, pair.p_first) == (HH, "So.", "No.", 0.0)
    assert loaded.dropped == {ELSEWHERE: 1}


def test_prompts_and_demonstrations_take_messages(write):
    assert [p.text for p in load_prompts(write({"prompt": said(HI, YES, WHY)}))] == [HH]
    path = write({"prompt": said(HI), "completion": said(HI, GOOD)})
    assert [(p.text, p.reference) for p in load_demonstrations(path)] == [("Hi", "So.")]
    source = DataSource(path, columns={"prompt": "prompt", "reference": "completion"})
    assert [(p.text, p.reference) for p in load_demonstrations(source)] == [("Hi", "So.")]
