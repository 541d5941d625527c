"""What is sent beside a question, what becomes of it where a server refuses, and verdicts by token."""

import math

import pytest

from rlaif_pl.labeling.backends.endpoint import EndpointBackend
from rlaif_pl.labeling.backends.endpoint_errors import EndpointError, meaning_of
from rlaif_pl.labeling.backends.endpoint_request import is_strict, refused_fields
from rlaif_pl.labeling.calls import ChoiceRequest, Decoding, GenerateRequest, Question
from rlaif_pl.labeling.strategies.likelihood import LikelihoodLabeler
from rlaif_pl.labeling.strategies.pairwise import PairwiseLabeler
from rlaif_pl.labeling.usage.projection import estimate_cost

NEUTRAL = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
DRAWN = Decoding(max_tokens=7, temperature=0.5, seed=2**40)


def asked(backend, calls):
    replies = {}
    backend.answer(calls, replies.__setitem__)
    return [replies[n] for n in range(len(calls))]


def texts(count, decoding=DRAWN):
    return [GenerateRequest(Question(f"why, {n}?"), decoding) for n in range(count)]


def test_neutral_settings_and_a_seed_within_its_range_are_sent(serve, endpoint):
    server = serve()
    backend = endpoint(server, concurrency=1)
    asked(backend, [*texts(1), ChoiceRequest(Question("which?"), ("1", "2"))])
    drawn, chosen = server.record.requests
    assert NEUTRAL.items() <= drawn.items()
    assert NEUTRAL.items() <= chosen.items()
    assert 0 <= drawn["seed"] < 2**63
    assert "seed" not in chosen
    asked(backend, texts(1, Decoding(7, 0.5, top_k=40)))
    assert server.record.requests[-1]["top_k"] == 40  # a decoding's own holds


def test_settings_of_ones_own_hold_and_none_are_sent_where_told(serve, endpoint):
    server = serve()
    asked(endpoint(server, extra_body={"top_p": 0.5}), texts(1))
    asked(endpoint(server, neutral_sampling=False, supports_seed=False), texts(1))
    own, none = server.record.requests
    assert (own["top_p"], own["min_p"]) == (0.5, 0.0)
    assert not {*NEUTRAL, "seed"} & set(none)
    one, other = endpoint(server), endpoint(server, neutral_sampling=False)
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize("field", ["min_p", "seed"])
def test_a_field_that_is_refused_is_left_out_from_then_on(refusing, endpoint, field):
    why = f"Unrecognized request argument supplied: {field}"
    server = refusing(lambda body: why if field in body else None)
    backend = endpoint(server, concurrency=1)
    with pytest.warns(UserWarning, match=f"does not take {field}") as said:
        replies = asked(backend, texts(5))
    replies += asked(backend, texts(5))
    assert [reply.failure for reply in replies] == [None] * 10
    assert len(said) == 1
    assert sum(field in body for body in server.record.requests) == 1
    assert all("top_p" in body for body in server.record.requests)


def test_a_seed_that_must_be_sent_is_not_left_out(refusing, endpoint):
    server = refusing(lambda body: "no seed here" if "seed" in body else None)
    backend = endpoint(server, supports_seed=True)
    with pytest.warns(UserWarning, match="no seed"), pytest.raises(EndpointError, match="no seed"):
        asked(backend, texts(9))


def test_another_value_is_tried_before_a_setting_is_left_out(refusing, endpoint):
    why = "top_k: Input should be greater than or equal to 0"
    server = refusing(lambda body: why if body["top_k"] < 0 else None)
    (reply,) = asked(endpoint(server), texts(1))  # no warning: nothing was left out
    assert reply.failure is None
    assert [body["top_k"] for body in server.record.requests] == [-1, 0]


@pytest.mark.parametrize(
    ("sentence", "text", "names"),
    [
        ("Unrecognized request argument supplied: top_k", "", ["top_k"]),
        ("Unsupported parameter: 'top_p' is not supported", "", ["top_p"]),
        ("Extra inputs are not permitted", '{"loc": ["body", "min_p"]}', ["min_p"]),
        ("Extra inputs are not permitted", "", ["min_p", "top_k"]),
        ("not so", '{"error": {"param": "seed"}}', ["seed"]),
        ("field required", '{"loc": ["body", "model"], "input": {"seed": 1}}', []),
        ("please seedless", "", []),
    ],
)
def test_what_a_refusal_is_about(sentence, text, names):
    assert refused_fields(sentence, text, {"top_k", "top_p", "min_p", "seed"}) == names


def test_openai_is_sent_its_own_fields_alone():
    assert is_strict("https://api.openai.com/v1/")
    assert not is_strict("http://localhost:8000/v1/")
    assert not is_strict("https://notopenai.com/v1")


# Verdicts by token: a tokenizer of single characters, and a server that knows the field.
LOGPROBS = {"1": math.log(0.002), "2": math.log(0.004), " ": math.log(0.9)}


def characters(text):
    return [ord(character) for character in text]


def by_token(path, body):
    """Report the tokens that were asked for beside the drawn one; else the likeliest alone."""
    ids = body.get("logprob_token_ids", [])
    table = {" ": LOGPROBS[" "]} | {chr(n): LOGPROBS.get(chr(n), -9.0) for n in ids}
    choice = {"index": 0, "text": " ", "finish_reason": "length"}
    choice["logprobs"] = {"tokens": [" "], "token_logprobs": [-0.1], "top_logprobs": [table]}
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}


def choices(count, options=("1", "2")):
    return [ChoiceRequest(Question(f"which, {n}?", "Better="), options) for n in range(count)]


def test_verdicts_are_asked_for_by_their_tokens(serve, endpoint):
    server = serve(reply=by_token, tokens=characters)
    (reply,) = asked(endpoint(server), choices(1))
    assert reply.logprobs == pytest.approx((LOGPROBS["1"], LOGPROBS["2"]))
    (body,) = server.record.requests
    assert (body["logprob_token_ids"], body["logprobs"]) == ([ord("1"), ord("2")], 1)
    assert not {"structured_outputs", "guided_choice", "response_format"} & set(body)


def test_rationales_are_not_sent_to_the_tokenizer(serve, endpoint):
    looked_up = []

    def tokens(text):
        looked_up.append(text)
        return characters(text)

    server = serve(reply=by_token, tokens=tokens)
    prefixes = [f"Because of {n}.\n\nBetter=" for n in range(4)]
    calls = [ChoiceRequest(Question("which?", prefix), ("1", "2")) for prefix in prefixes]
    replies = asked(endpoint(server, concurrency=1), calls)
    assert [reply.failure for reply in replies] == [None] * 4
    assert all(body["logprob_token_ids"] == [49, 50] for body in server.record.requests)
    assert looked_up == ["Better=", "Better=1", "Better=2"]


def test_verdicts_of_a_chat_are_asked_for_with_and_without_a_space(serve, endpoint):
    words = {"Yes": 5, " Yes": 6, "No": 7, " No": 8}
    table = dict(zip(words, map(math.log, (0.5, 0.1, 0.2, 0.1)), strict=True))

    def reply(_, body):
        assert sorted(body["logprob_token_ids"]) == [5, 6, 7, 8]
        rows = [{"token": token, "logprob": value} for token, value in table.items()]
        made = {"message": {"role": "assistant", "content": "Yes"}, "finish_reason": "length"}
        made["logprobs"] = {"content": [{**rows[0], "top_logprobs": rows}]}
        return {"choices": [made], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}

    server = serve(reply=reply, tokens=lambda text: [words[text]])
    question = Question("Is it?", "Well:", chat=True)
    (found,) = asked(endpoint(server), [ChoiceRequest(question, (" Yes", " No"))])
    assert found.logprobs == pytest.approx((math.log(0.6), math.log(0.3)))


def test_a_longer_option_is_followed_by_its_tokens(serve, endpoint):
    # "10" is "1", then "0" with probability exp(-9)
    server = serve(reply=by_token, tokens=characters)
    (reply,) = asked(endpoint(server), choices(1, ("1", "2", "10")))
    assert reply.logprobs[2] == pytest.approx(LOGPROBS["1"] - 9.0)
    assert [body["logprob_token_ids"] for body in server.record.requests] == [[49, 50], [48]]


def test_a_server_that_ignores_the_tokens_is_asked_for_the_likeliest(serve, endpoint, known_masses):
    server = serve(tokens=characters)
    server.reply = _without_ids(server.reply)
    replies = asked(endpoint(server, concurrency=1), choices(3))
    known = known_masses("which, 2?Better=")
    assert replies[2].logprobs[1] == pytest.approx(math.log(known["2"]))
    sent = ["logprob_token_ids" in body for body in server.record.requests]
    assert sent == [True, False, False, False]
    assert [body["logprobs"] for body in server.record.requests] == [1, 20, 20, 20]


def _without_ids(reply):
    """Cut tables to what was asked for by number."""

    def answer(path, body, without_logprobs):
        found = reply(path, body, without_logprobs)
        tables = found["choices"][0]["logprobs"]["top_logprobs"]
        tables[:] = [dict(list(table.items())[: body["logprobs"]]) for table in tables]
        return found

    return answer


def test_tokens_that_hold_the_end_of_the_text_are_not_asked_for(serve, endpoint):
    merged = {"=1": 999}  # "=" and "1" are one token together
    server = serve(tokens=lambda text: [merged.get(text[-2:], 7)])
    asked(endpoint(server), choices(1))
    assert "logprob_token_ids" not in server.record.requests[0]


@pytest.mark.parametrize("field", ["structured_outputs", "guided_choice", "response_format"])
def test_grammars_are_refused_for_labels_by_probability(serve, endpoint, field):
    server = serve()
    backend = endpoint(server, extra_body={field: {"choice": ["1", "2"]}})
    with pytest.raises(EndpointError, match=f"expected no {field}"):
        asked(backend, choices(1))
    assert not server.record.requests
    assert asked(backend, texts(1))[0].failure is None  # words may be held to a grammar


def test_a_connection_that_breaks_later_names_the_server(serve, endpoint):
    server = serve()
    backend = endpoint(server, max_retries=0)
    asked(backend, choices(2))
    server.close()
    with pytest.raises(EndpointError, match=f"{server.url}.*may have ended.*supports_seed: false"):
        asked(backend, choices(3))


def test_a_prompt_longer_than_the_model_fails_by_itself():
    said = "The decoder prompt (length 3000) is longer than the maximum model length of 2048."
    assert meaning_of(400, said) == "too_long"


def test_the_estimate_says_what_no_cache_spares(pair):
    backend = EndpointBackend("http://127.0.0.1:9/v1", "m")
    scored = estimate_cost(LikelihoodLabeler(backend), [pair] * 3)
    assert scored.reread > 0
    assert "bypass it" in scored.line()
    assert estimate_cost(PairwiseLabeler(backend), [pair] * 3).reread == 0
