"""Echoed log-probabilities: found where the target's tokens are, or refused."""

import math

import pytest
import torch

from rlaif_pl.labeling.backends.endpoint_body import Completion
from rlaif_pl.labeling.backends.endpoint_echo import (
    KNOWN_TEXT,
    EchoError,
    find_shift,
    own_noise,
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
    assert find_shift(echo(TOKENS, VALUES), plain) == 0
    assert find_shift(echo(TOKENS, [None, *VALUES]), plain) == 1
    assert find_shift(echo(TOKENS, VALUES[1:]), plain) == -1


PLACES, WORDS = 24, 400
NAMES = [f"w{n}" for n in range(WORDS)]


def logits_of(seed, scale=6.0):
    """Logits after each place of a text, as large as those of language models."""
    generator = torch.Generator().manual_seed(seed)
    return 8.0 + scale * torch.randn(PLACES, WORDS, generator=generator)


def served(logits, seed, dtype=torch.bfloat16):
    """Log-probabilities of a server whose states, and so logits, are rounded in its type."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.finfo(dtype).eps / 4 * torch.randn(PLACES, WORDS, generator=generator)
    return (logits * (1 + noise)).to(dtype).float().log_softmax(-1)


def compared(exact, echoed, again, dtype=torch.bfloat16):
    """Take the known text for the likeliest tokens, and let echo, repeat and plain calls round anew."""
    chosen = exact.argmax(-1)
    plain = served(exact, 1, dtype)
    names = [NAMES[n] for n in chosen]
    listed = [
        tuple((NAMES[w], float(row[w])) for w in row.topk(20).indices.tolist()) for row in plain
    ]
    values, repeat = (
        [None, *(table[n, chosen[n]].item() for n in range(1, PLACES))] for table in (echoed, again)
    )
    return find_shift(echo(names, values), listed, echo([*names, "more"], [*repeat, -1.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(8))
def test_a_right_server_passes_whatever_its_rounding(seed, dtype):
    exact = logits_of(seed)
    repeat = served(exact, 3, dtype)
    assert compared(exact, served(exact, 2, dtype), repeat, dtype) == 0
    assert compared(exact, repeat, repeat, dtype) == 0  # one that repeats itself exactly


def test_a_quantized_server_is_held_to_its_own_noise():
    exact = logits_of(0)

    def quantized(seed):
        noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(seed))
        return (exact + 0.12 * noise).log_softmax(-1)

    assert compared(exact, quantized(2), quantized(3)) == 0
    with pytest.raises(EchoError, match="echo cannot be used"):
        compared(exact, quantized(2) + 1.0, quantized(3) + 1.0)


@pytest.mark.parametrize("seed", range(8))
def test_another_model_or_template_is_refused(seed):
    exact = logits_of(seed)
    other = exact + 0.15 * (logits_of(seed + 100) - 8.0)  # its logits correlate by 0.99
    for wrong in (served(other, 2), served(exact.roll(1, 0), 2), served(exact / 1.2, 2)):
        with pytest.raises(EchoError, match="echo cannot be used"):
            compared(exact, wrong, wrong)


def test_one_wrong_place_of_many_is_seen():
    exact = logits_of(0)
    echoed = served(exact, 2)
    echoed[5] -= 1.0
    with pytest.raises(EchoError, match="echo cannot be used"):
        compared(exact, echoed, echoed)


def test_the_noise_is_that_of_common_tokens():
    one = echo(["a", "b", "c", "d"], [None, -1.0, -2.0, -9.0])
    other = echo(["a", "b", "c", "x", "y"], [None, -1.3, -7.0, -3.0, -4.0])
    assert own_noise(one, other) == pytest.approx(0.3)  # of "b": that of "c" may be the next one's
    assert own_noise(one, None) == 0


def test_values_that_fit_nowhere_are_refused():
    wrong = [None, -7.0, -7.5, -8.0, -7.0, -9.0]
    with pytest.raises(EchoError, match="echo cannot be used"):
        find_shift(echo(TOKENS, wrong), tables(TOKENS, VALUES))


def test_too_few_places_to_compare_are_refused():
    with pytest.raises(EchoError, match="raise top_logprobs"):
        find_shift(echo(TOKENS, VALUES), tables(TOKENS, VALUES)[:3])


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
    tests = (
        len(words_of(KNOWN_TEXT)) + 1
    )  # two echoes and a plain call for each place but the first
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
