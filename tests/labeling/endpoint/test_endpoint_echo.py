"""Echoed log-probabilities: found where the target's tokens are, or refused."""

import math

import pytest

from rlaif_pl.labeling.backends.endpoint_body import Completion
from rlaif_pl.labeling.backends.endpoint_echo import (
    KNOWN_TEXT,
    EchoError,
    find_shift,
    starts_of,
    target_logprobs,
)
from rlaif_pl.labeling.backends.endpoint_errors import EndpointError
from rlaif_pl.labeling.calls import ChoiceRequest, LoglikelihoodRequest, Question


def unheard(*_):
    """Listen to no reply."""


def echo(tokens, values):
    return Completion("", "stop", False, tuple(tokens), tuple(values), (), 0, 0)


def test_tokens_begin_where_they_are_spelt():
    assert starts_of(["a", " bc", "d", "more"], "a bcd") == [0, 1, 4]


def test_a_start_token_that_is_listed_is_stepped_over():
    assert starts_of(["<s>", "a", "b"], "ab") == [0, 0, 1]


@pytest.mark.parametrize("half", ["", "\ufffd"])
def test_half_characters_are_stepped_over(half):
    # the emoji is one character in two tokens; " b" begins at 2 and "!" at 4
    assert starts_of(["a", half, half, " b", "!"], "a\U0001f600 b!") == [0, 1, 1, 2, 4]


def test_tokens_that_spell_something_else_are_refused():
    with pytest.raises(EchoError, match="spell the text"):
        starts_of(["a", "c"], "ab")
    with pytest.raises(EchoError, match="1 of 2 characters"):
        starts_of(["a"], "ab")


def test_the_targets_values_are_cut_out():
    found = echo(["<s>", "a", " b", "c", "next"], [None, -1.0, -2.0, -3.0, -9.0])
    assert target_logprobs(found, "a", " bc", 0) == [-2.0, -3.0]
    assert target_logprobs(found, "a", " bc", 1) == [-3.0, -9.0]


def test_a_token_over_the_border_is_refused():
    with pytest.raises(EchoError, match="begin the target with a space"):
        target_logprobs(echo(["ab", "c"], [None, -1.0]), "a", "bc", 0)


TOKENS = ["a", "b", "c", "d", "e", "f"]
VALUES = [None, -1.0, -0.5, -3.0, -2.0, -0.1]


def tables(tokens, values):
    """What plain calls report at each place."""
    return [
        () if v is None else ((t, v), ("zz", -5.0)) for t, v in zip(tokens, values, strict=True)
    ]


def test_the_shift_of_the_list_is_found():
    plain = tables(TOKENS, VALUES)
    assert find_shift(TOKENS, VALUES, plain) == 0
    assert find_shift(TOKENS, [None, *VALUES], plain) == 1
    assert find_shift(TOKENS, VALUES[1:], plain) == -1


def test_small_differences_of_the_servers_arithmetic_are_allowed():
    near = [v if v is None else v - 0.05 for v in VALUES]
    assert find_shift(TOKENS, near, tables(TOKENS, VALUES)) == 0


def test_values_that_fit_nowhere_are_refused():
    wrong = [None, -7.0, -7.5, -8.0, -7.0, -9.0]
    with pytest.raises(EchoError, match="echo cannot be used"):
        find_shift(TOKENS, wrong, tables(TOKENS, VALUES))


def test_too_few_places_to_compare_are_refused():
    with pytest.raises(EchoError, match="raise top_logprobs"):
        find_shift(TOKENS, VALUES, tables(TOKENS, VALUES)[:3])


def words_of(text):
    """Tokens of the server below: words with the space before them."""
    parts = text.split(" ")
    return [parts[0], *(f" {part}" for part in parts[1:])]


def value_of(before, word):
    """Log-probability that the server below gives a word."""
    return -0.1 - (len(before) * 7 + len(word) * 3) % 11 / 4


def echoing(shift=0, wrong=False):
    """A server with echo whose list lies ``shift`` places off."""

    def reply(_, body):
        tokens = words_of(body["prompt"])
        usage = {"prompt_tokens": len(tokens), "completion_tokens": 1}
        if not body.get("echo"):
            after = f"{body['prompt']} "
            rest = KNOWN_TEXT[len(body["prompt"]) :]
            word = words_of(rest)[1] if rest.startswith(" ") else " x"
            table = {word: value_of(body["prompt"], word), " zz": -6.0}
            logprobs = {"tokens": [word], "token_logprobs": [-1.0], "top_logprobs": [table]}
            choice = {"text": after, "logprobs": logprobs, "finish_reason": "length"}
            return {"choices": [choice], "usage": usage}
        values = [None]
        for n in range(1, len(tokens)):
            values.append(value_of("".join(tokens[:n]), tokens[n]) - (2.0 * n if wrong else 0.0))
        values = [None] * shift + values
        tokens = [*tokens, " end"]
        values = (values + [-4.0] * len(tokens))[: len(tokens)]
        logprobs = {"tokens": tokens, "token_logprobs": values, "top_logprobs": None}
        choice = {"text": body["prompt"], "logprobs": logprobs, "finish_reason": "length"}
        return {"choices": [choice], "usage": usage}

    return reply


@pytest.mark.parametrize("shift", [0, 1])
def test_a_target_is_scored_whatever_the_shift(serve, endpoint, shift):
    server = serve(reply=echoing(shift))
    backend = endpoint(server, concurrency=2)
    heard = {}
    calls = [
        LoglikelihoodRequest("TL;DR: a cat", " sat on it"),
        LoglikelihoodRequest("TL;DR: dogs", " sat on it"),
    ]
    backend.answer(calls, lambda n, reply: heard.update({n: reply}))
    for n, call in enumerate(calls):
        context = call.context
        expected = []
        for word in words_of(call.target)[1:]:
            expected.append(value_of(context, word))
            context += word
        assert heard[n].logprobs == pytest.approx(expected)
        assert heard[n].failure is None
    tests = len(words_of(KNOWN_TEXT))  # one echo and a plain call for each place but the first
    assert len(server.record.requests) == tests + 2
    again = {}
    backend.answer([LoglikelihoodRequest("x", " y")], lambda n, reply: again.update({n: reply}))
    assert len(server.record.requests) == tests + 3  # tested once in the life of the back end


def test_a_wrong_echo_stops_the_job(serve, endpoint):
    with pytest.raises(EndpointError, match="echo cannot be used with this model"):
        endpoint(serve(reply=echoing(wrong=True))).answer(
            [LoglikelihoodRequest("x", " y")], unheard
        )


def test_a_server_without_echo_says_so(serve, endpoint):
    with pytest.raises(EndpointError, match="expected the whole text to be echoed, got 0"):
        endpoint(serve()).answer([LoglikelihoodRequest("x", " y")], unheard)


def test_a_chat_server_cannot_score(serve, endpoint):
    with pytest.raises(EndpointError, match="use a LocalBackend"):
        endpoint(serve(), api="chat").answer([LoglikelihoodRequest("x", " y")], unheard)


@pytest.mark.parametrize(
    ("context", "target", "kind"),
    [("x", "", "empty"), ("x", "y z", "unaligned"), ("", "y", "no_logprobs")],
)
def test_what_cannot_be_scored_is_a_failure(serve, endpoint, context, target, kind):
    heard = {}
    backend = endpoint(serve(reply=echoing()))
    backend.answer(
        [LoglikelihoodRequest(context, target)], lambda n, reply: heard.update({n: reply})
    )
    assert heard[0].failure == kind


def test_verdicts_and_scores_may_come_in_one_job(serve, endpoint):
    heard = {}
    calls = [
        ChoiceRequest(Question(KNOWN_TEXT[:7]), (" sat", " zz")),
        LoglikelihoodRequest("TL;DR: a", " b"),
    ]
    endpoint(serve(reply=echoing())).answer(calls, lambda n, reply: heard.update({n: reply}))
    assert heard[0].logprobs == pytest.approx((value_of("The cat", " sat"), -6.0))
    assert math.isfinite(heard[1].logprobs[0])
