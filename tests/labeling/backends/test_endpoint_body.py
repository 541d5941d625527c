"""Bodies of servers: every notation read, nothing missing filled in."""

import copy
import json

import pytest

from rlaif_pl.labeling.backends.endpoint_body import parse_body, token_text
from rlaif_pl.labeling.backends.endpoint_errors import BodyError

COMPLETION = {
    "choices": [
        {
            "text": " a",
            "finish_reason": "length",
            "logprobs": {
                "tokens": ["\u0120a"],
                "token_logprobs": [-0.5],
                "top_logprobs": [{"\u2581a": -0.5, "bytes:\\xe2\\x98\\x83": -1.0, "x": -9999.0}],
            },
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
}


def test_a_completion_is_read():
    found = parse_body(json.dumps(COMPLETION))
    assert (found.text, found.finish, found.read, found.written) == (" a", "length", 3, 1)
    assert (found.tokens, found.logprobs) == ((" a",), (-0.5,))
    table = dict(found.tables[0])
    assert (table[" a"], table["\u2603"], table["x"]) == (-0.5, -1.0, float("-inf"))


def test_a_chat_completion_is_read():
    rows = [
        {"token": "1", "logprob": -0.1, "bytes": [49]},
        {"token": "?", "logprob": -3.0, "bytes": [226, 152, 131]},
    ]
    content = [{"token": "1", "logprob": -0.1, "bytes": None, "top_logprobs": rows}]
    message = {"role": "assistant", "content": "1"}
    choice = {"message": message, "finish_reason": "stop", "logprobs": {"content": content}}
    found = parse_body(json.dumps({"choices": [choice], "usage": COMPLETION["usage"]}))
    assert dict(found.tables[0]) == {"1": -0.1, "\u2603": -3.0}
    assert not found.refused
    message |= {"content": None, "refusal": "I will not"}
    assert parse_body(json.dumps({"choices": [choice], "usage": COMPLETION["usage"]})).refused


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("1", "1"),
        (" 1", " 1"),
        ("\u01201", " 1"),
        ("\u25811", " 1"),
        ("<0x0A>", "\n"),
        ("bytes:\\x31", "1"),
    ],
)
def test_tokens_are_read_in_every_notation(token, text):
    assert token_text(token) == text


def broken(*path, value):
    body = copy.deepcopy(COMPLETION)
    place = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return body


@pytest.mark.parametrize(
    "body",
    [
        broken("choices", value=[]),
        broken("choices", value="none"),
        broken("choices", 0, value=None),
        broken("choices", 0, "text", value=7),
        broken("usage", value=None),
        broken("usage", "prompt_tokens", value="3"),
        broken("choices", 0, "logprobs", "token_logprobs", value=[]),
        broken("choices", 0, "logprobs", "token_logprobs", value=[0.5]),
        broken("choices", 0, "logprobs", "token_logprobs", value=["-0.5"]),
        broken("choices", 0, "logprobs", "top_logprobs", value=[[1]]),
    ],
)
def test_what_breaks_the_protocol_is_refused(body):
    with pytest.raises(BodyError):
        parse_body(json.dumps(body))


@pytest.mark.parametrize("content", ["", "<html>", '{"choices": [', "null", "[]"])
def test_what_is_no_object_is_refused(content):
    with pytest.raises(BodyError):
        parse_body(content)


def test_half_characters_become_the_replacement_character():
    body = json.dumps(broken("choices", 0, "text", value="Good \ud83d point"))
    assert "\\ud83d" in body
    assert parse_body(body).text == "Good \ufffd point"
