"""Rows with messages keep their turns beside the flat text, on disk and in what is made of them."""

import copy
import dataclasses
import json
import pickle

import pytest

from rlaif_pl.data.disk_rows import BLOCK, DiskRows
from rlaif_pl.data.preferences import write_preferences, write_prompts
from rlaif_pl.data.sources import load_demonstrations, load_preferences, load_prompts
from rlaif_pl.types import Conversation, Message, Preference, Prompt

TURNS = (
    Message("system", "Be kind."),
    Message("user", "It rains."),
    Message("assistant", "Where?"),
    Message("user", "Here."),
)
TEXT = "\n\nSystem: Be kind.\n\nHuman: It rains.\n\nAssistant: Where?\n\nHuman: Here.\n\nAssistant:"
SAID = [dataclasses.asdict(turn) for turn in TURNS]
ANSWER = {"role": "assistant", "content": "Take an umbrella."}


def test_a_conversation_is_its_text_with_turns():
    prompt = Prompt(TEXT, "g", messages=SAID)
    assert prompt.messages == TURNS
    assert prompt.text == TEXT
    for made in (
        Prompt(prompt.text, "g"),
        Preference(prompt.text, "a", "b", "g"),
        copy.deepcopy(prompt),
        pickle.loads(pickle.dumps(prompt)),
        dataclasses.replace(prompt, reference="x"),
    ):
        assert made.messages == TURNS
    assert Prompt(str(prompt.text), "g").messages is None


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [*SAID, ANSWER]},
        {"prompt": SAID, "completion": [ANSWER]},
        {"prompt": SAID, "completion": ANSWER["content"]},
    ],
)
def test_rows_with_messages_keep_their_turns(row):
    (found,) = load_demonstrations([row])
    assert (found.text, found.messages, found.reference) == (TEXT, TURNS, ANSWER["content"])


def test_a_lone_user_message_is_a_plain_prompt_that_was_a_message():
    (found,) = load_prompts([{"messages": [SAID[1], ANSWER]}])
    assert (found.text, found.messages) == ("It rains.", TURNS[1:2])


def test_pairs_of_conversations_keep_them_too():
    other = {"role": "assistant", "content": "Stay in."}
    for row in (
        {"chosen": [*SAID, ANSWER], "rejected": [*SAID, other]},
        {"prompt": SAID, "chosen": [ANSWER], "rejected": [other]},
    ):
        (found,) = load_preferences([row]).rows
        assert (found.prompt, found.messages) == (TEXT, TURNS)


def test_dialogues_in_hhs_layout_have_turns():
    before = (
        "\n\nHuman: It rains.\n\nHuman: Here.\n\nAssistant: Where?\n\nHuman: Here.\n\nAssistant:"
    )
    (pair,) = load_preferences([{"chosen": f"{before} Oh.", "rejected": f"{before} Well."}]).rows
    assert pair.prompt == before
    assert pair.messages == (
        Message("user", "It rains.\n\nHere."),
        Message("assistant", "Where?"),
        Message("user", "Here."),
    )
    (odd,) = load_prompts([{"chosen": "x\n\nAssistant: a", "rejected": "x\n\nAssistant: b"}])
    assert odd.messages is None


def test_files_keep_them_and_are_as_before_without(tmp_path):
    prompts = [Prompt(TEXT, "g", "Oh.", messages=SAID), Prompt("A post.", "h")]
    pairs = [Preference(TEXT, "a", "b", "g", messages=TURNS), Preference("A post.", "a", "b", "h")]
    write_prompts(tmp_path / "prompts.jsonl", prompts)
    write_preferences(tmp_path / "pairs.jsonl", pairs)
    lines = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert lines[0]["messages"] == SAID
    assert lines[1] == {"text": "A post.", "group": "h", "reference": None, "columns": {}}
    assert load_prompts(str(tmp_path / "prompts.jsonl")) == prompts
    assert load_preferences(str(tmp_path / "pairs.jsonl")).rows == pairs
    assert load_prompts(prompts) == prompts
    assert [each.messages for each in load_prompts(str(tmp_path / "pairs.jsonl"))] == [TURNS, None]


def test_rows_on_disk_keep_them():
    rows = DiskRows([Preference(TEXT, str(n), "b", "g", messages=TURNS) for n in range(BLOCK + 1)])
    assert rows[0].messages == rows[BLOCK].messages == TURNS
    assert isinstance(rows[0].prompt, Conversation)


@pytest.mark.parametrize(
    ("messages", "wanted"),
    [
        ("hello", r"'messages' to be a list of messages or null"),
        ([{"role": "robot", "content": "x"}], r"'messages\.role' to be 'system'"),
        ([{"role": "user"}], "expected the field 'messages.content'"),
    ],
)
def test_broken_messages_in_our_files_are_named(tmp_path, messages, wanted):
    row = {"text": "a", "group": "g", "reference": None, "columns": {}, "messages": messages}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=wanted):
        load_prompts(str(tmp_path / "prompts.jsonl"))
