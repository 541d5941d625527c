"""Servers that refuse, lie about their status, think, redirect or stream: said, and no label of it."""

import math
import re
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from rlaif_pl.cli import main as cli
from rlaif_pl.labeling.backends.endpoint import EndpointBackend
from rlaif_pl.labeling.backends.endpoint_errors import EndpointError, meaning_of, sentence_of
from rlaif_pl.labeling.calls import (
    ChoiceRequest,
    Decoding,
    GenerateRequest,
    LoglikelihoodRequest,
    Question,
)
from rlaif_pl.labeling.strategies.pairwise import (
    ConstitutionLabeler,
    FreeFormLabeler,
    PairwiseLabeler,
)
from rlaif_pl.labeling.strategy import CachedClient
from rlaif_pl.labeling.usage.reply_store import ReplyStore

UNSUPPORTED = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
    "'max_completion_tokens' instead."
)
USAGE = {"prompt_tokens": 3, "completion_tokens": 1}


def verdicts(count, **options):
    return [ChoiceRequest(Question(f"which, {n}?", **options), ("1", "2")) for n in range(count)]


def asked(backend, calls):
    replies = {}
    backend.answer(calls, replies.__setitem__)
    return [replies[n] for n in range(len(calls))]


def chat(content, table=(("1", -0.1), ("2", -2.5)), **message):
    rows = [{"token": token, "logprob": value} for token, value in table]
    choice = {
        "message": {"role": "assistant", "content": content, **message},
        "logprobs": {"content": [{**rows[0], "top_logprobs": rows}]},
        "finish_reason": "stop",
    }
    return {"choices": [choice], "usage": USAGE}


def in_body(code, message):
    return {"choices": None, "usage": None, "error": {"code": code, "message": message}}


def test_a_setting_that_is_refused_stops_the_job_with_the_servers_sentence(refusing, endpoint):
    server = refusing(lambda body: UNSUPPORTED if "max_tokens" in body else None)
    heard = []
    with (
        pytest.warns(UserWarning, match="Unsupported parameter"),
        pytest.raises(
            EndpointError, match="(?s)'max_tokens' is not.*max_tokens_field: max_compl"
        ) as e,
    ):
        endpoint(server, api="chat", concurrency=4).answer(
            verdicts(200), lambda _, reply: heard.append(reply.failure)
        )
    assert server.url in str(e.value)
    assert len(server.record.requests) <= 12
    assert set(heard) <= {"http_400"}


def test_the_other_name_of_the_length_limit_is_sent(serve, endpoint):
    server = serve(reply=lambda *_: chat("1"))
    backend = endpoint(server, api="chat", max_tokens_field="max_completion_tokens")
    asked(backend, [*verdicts(1), GenerateRequest(Question("x"), Decoding(max_tokens=7))])
    limits = [(b.get("max_tokens"), b["max_completion_tokens"]) for b in server.record.requests]
    assert sorted(limits, key=str) == [(None, 1), (None, 7)]
    assert backend.fingerprint == endpoint(server, api="chat").fingerprint


def test_a_temperature_that_is_refused_can_be_left_out(refusing, endpoint):
    sentence = "Unsupported value: 'temperature' does not support 0 with this model."
    server = refusing(lambda body: sentence if "temperature" in body else None)
    calls = [GenerateRequest(Question(f"why, {n}?")) for n in range(9)]
    with (
        pytest.warns(UserWarning, match="does not support 0"),
        pytest.raises(EndpointError, match="supports_temperature: false"),
    ):
        asked(endpoint(server), calls)
    backend = endpoint(server, supports_temperature=False)
    assert [reply.failure for reply in asked(backend, calls)] == [None] * 9
    assert backend.fingerprint != endpoint(server).fingerprint


def test_a_refusal_of_some_questions_does_not_stop_the_others(refusing, endpoint):
    server = refusing(lambda body: "bad words" if "which, 1" in body["prompt"] else None)
    with pytest.warns(UserWarning, match="HTTP 400: bad words"):
        replies = asked(endpoint(server, concurrency=1), verdicts(20))
    refused = [n for n, reply in enumerate(replies) if reply.failure == "http_400"]
    assert refused == [1, *range(10, 20)]
    assert len(server.record.requests) == 21  # one harmless question decided it


def test_a_number_of_its_own_makes_no_refusal_another(refusing, endpoint):
    numbers = iter(range(1000))
    server = refusing(lambda _: f"no such field (request id: 2024x{next(numbers)})")
    with (
        pytest.warns(UserWarning, match="no such field") as said,
        pytest.raises(EndpointError, match=r"refuses every request .HTTP 400.: no such field"),
    ):
        asked(endpoint(server, concurrency=2), verdicts(50))
    assert len(said) == 1
    assert len(server.record.requests) <= 8


def test_refusals_are_counted_over_batches(refusing, endpoint):
    server = refusing(lambda _: "never")
    backend = endpoint(server)
    with pytest.warns(UserWarning, match="never"):
        asked(backend, verdicts(1))
    asked(backend, verdicts(2)[1:])
    with pytest.raises(EndpointError, match="refuses every request"):
        asked(backend, verdicts(3)[2:])


@pytest.mark.parametrize(
    ("code", "status"), [(429, 429), ("429", 429), ("rate_limit_exceeded", 429), (503, 503)]
)
def test_an_error_in_a_good_status_is_waited_for(serve, endpoint, code, status):
    bodies = iter([in_body(code, "try later"), chat("1"), *[in_body(code, "try later")] * 3])
    backend = endpoint(serve(reply=lambda *_: next(bodies)), api="chat", max_retries=2)
    (reply,) = asked(backend, verdicts(1))
    assert (reply.failure, reply.attempts) == (None, 2)
    (reply,) = asked(backend, verdicts(1))
    assert (reply.failure, reply.attempts) == (f"http_{status}", 3)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (in_body(402, "Insufficient credits"), "HTTP 402.: Insufficient credits"),
        (in_body("insufficient_quota", "You are out"), "HTTP 402.: You are out"),
        (in_body(None, "Incorrect API key"), "HTTP 401.: Incorrect API key"),
        ({"choices": [], "error": "invalid_api_key"}, "HTTP 401.: invalid_api_key"),
        ({"choices": [{"error": {"code": 402, "message": "none left"}}]}, "none left"),
    ],
)
def test_an_error_in_a_good_status_that_stays_stops_the_job(serve, endpoint, body, said):
    server = serve(reply=lambda *_: body)
    with pytest.raises(EndpointError, match=said):
        asked(endpoint(server, api="chat", concurrency=1), verdicts(9))
    assert len(server.record.requests) == 1


def test_a_server_that_keeps_failing_is_quoted(serve, endpoint):
    server = serve(reply=lambda *_: in_body(500, "the fan is on fire"))
    with pytest.raises(EndpointError, match="20 calls in a row.*HTTP 500.*the fan is on fire"):
        asked(endpoint(server, api="chat", max_retries=0), verdicts(40))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"error": {"message": "no such model"}}', "no such model"),
        ('{"error": "plain"}', "plain"),
        ('{"message": "of old vLLM", "code": 404}', "of old vLLM"),
        ('{"detail": [{"loc": ["body"], "msg": "field required"}]}', "field required"),
        (
            "<html><head><title>x</title></head><h1>502</h1>Bad&nbsp;Gateway</html>",
            "502 Bad Gateway",
        ),
        ("a\x1b[31m\nb", "a [31m b"),
        ("", "(nothing said)"),
    ],
)
def test_a_sentence_is_found_in_every_kind_of_error(text, sentence):
    assert sentence_of(text) == sentence


@pytest.mark.parametrize(
    ("status", "text", "meaning"),
    [
        (400, "your prompt was flagged by moderation", "refused"),
        (403, "input flagged", "refused"),
        (403, "forbidden", "useless"),
        (400, "your credit balance is too low", "useless"),
        (413, "<html>Request Entity Too Large</html>", "too_long"),
        (422, "field required", "never"),
        (405, "method not allowed", "never"),
        (502, "<html>Bad Gateway</html>", "again"),
    ],
)
def test_what_a_status_means(status, text, meaning):
    assert meaning_of(status, text) == meaning


def test_a_server_never_reached_is_named_however_few_calls(serve, endpoint):
    server = serve()
    server.close()
    heard = []
    with pytest.raises(EndpointError, match=f"Cannot reach {server.url}.*set base_url"):
        endpoint(server, max_retries=0).answer(verdicts(2), lambda _, r: heard.append(r.failure))
    assert heard == ["connection"] * 2


def test_a_server_that_only_fails_is_named_with_what_it_says(serve, endpoint):
    server = serve()
    server.script.extend(["status_500"] * 9)
    heard = []
    with pytest.raises(
        EndpointError, match=f"{server.url}.* failed to answer 3 calls in a row.*500"
    ):
        endpoint(server, max_retries=0).answer(verdicts(3), lambda _, r: heard.append(r.failure))
    assert heard == ["http_500"] * 3


def test_an_echo_that_nobody_answers_names_the_server(serve, endpoint):
    server = serve()
    server.close()
    score = [LoglikelihoodRequest("a", " b")]
    with pytest.raises(EndpointError, match=f"Cannot reach {server.url}"):
        endpoint(server, max_retries=0).answer(score, lambda *_: None)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "", "ftp://host/v1"])
def test_an_address_without_a_protocol_is_refused(url):
    with pytest.raises(ValueError, match="base_url to begin with http"):
        EndpointBackend(url, "m")


class Elsewhere(BaseHTTPRequestHandler):
    """Sends every question on, or answers what came of it as a stream."""

    status = 301

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.status)
        if self.status == 301:
            self.send_header("location", "/elsewhere")
        content = b'data: {"choices": []}\n\ndata: [DONE]\n\n'
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("status", "said"), [(301, "sends requests on to .*/elsewhere"), (200, "streams its answers")]
)
def test_redirects_and_streams_are_named_at_once(status, said):
    handler = type("Handler", (Elsewhere,), {"status": status})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        backend = EndpointBackend(f"http://127.0.0.1:{server.server_port}/v1", "m")
        with pytest.raises(EndpointError, match=said):
            asked(backend, verdicts(1))
        server.shutdown()


@pytest.mark.parametrize(
    ("message", "text", "failure"),
    [
        ({"content": "2", "reasoning": "1 is better"}, "2", None),
        ({"content": "2", "reasoning_content": "1 is better"}, "2", None),
        ({"content": None, "reasoning": "1 is better, but"}, "", "unclosed_thought"),
        ({"content": "", "reasoning_content": "1 is better, but"}, "", "unclosed_thought"),
        ({"content": None}, "", "empty"),
        (
            {"content": [{"type": "thinking", "thinking": "1"}, {"type": "text", "text": "2"}]},
            "2",
            None,
        ),
        ({"content": [{"type": "thinking", "thinking": "1"}]}, "", "unclosed_thought"),
    ],
)
def test_thoughts_in_a_field_of_their_own_are_no_answer(serve, endpoint, message, text, failure):
    server = serve(reply=lambda *_: chat(**message))
    (reply,) = asked(endpoint(server, api="chat"), [GenerateRequest(Question("Which?"))])
    assert (reply.text, reply.failure) == (text, failure)


def test_a_choice_is_not_read_off_a_thoughts_first_token(serve, endpoint, pair):
    server = serve(reply=lambda *_: chat(None, reasoning="1"))
    (judged,) = PairwiseLabeler(endpoint(server, api="chat")).label([pair])
    assert judged.provenance.failure == "unclosed_thought"


def test_words_behind_thoughts_are_read_from_a_server(serve, endpoint, pair):
    def reply(_, body):
        text = body["messages"][0]["content"]
        right = 1 if text.index(pair.first) < text.index(pair.second) else 2
        return chat(f"<think>Summary {3 - right} is better.</think>Summary {right}.")

    backend = endpoint(serve(reply=reply), api="chat")
    (judged,) = FreeFormLabeler(backend, chat_template=True).label([pair])
    assert judged.p_first == 1.0


@pytest.mark.parametrize(
    ("token", "assistant_prefix", "hint"),
    [
        (
            "Sure",
            "assistant",
            "set chat_assistant_prefix: user where .*drop continue_final_message",
        ),
        ("Sure", "user", "show examples"),
        ("<think>", "assistant", "enable_thinking: false"),
    ],
)
def test_a_dropped_beginning_is_said_at_the_first_pair(
    serve, endpoint, pair, token, assistant_prefix, hint
):
    table = ((token, -0.01), ("1", -7.0), ("2", -8.0))
    server = serve(reply=lambda *_: chat(token, table))
    backend = endpoint(server, api="chat", chat_assistant_prefix=assistant_prefix)
    with pytest.warns(UserWarning, match=r"no answer .low_option_mass") as said:
        (judged,) = PairwiseLabeler(backend).label([pair])
    (warning,) = said
    assert re.search(f"would write '{token}'.*{hint}", str(warning.message))
    assert judged.provenance.failure == "low_option_mass"
    assert judged.provenance.off_option_mass == pytest.approx(1 - math.exp(-7) - math.exp(-8))


def test_the_first_choice_without_probability_is_said_before_the_next_is_asked(serve, endpoint):
    # the likeliest tokens hold neither option
    server = serve(reply=lambda *_: chat("Sure", (("Sure", -0.01), ("Well", -7.0))))
    client = CachedClient(endpoint(server, api="chat", concurrency=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=r"no answer .missing_logprob.*would write 'Sure'"):
            client.ask(verdicts(6))
    assert len(server.record.requests) == 1


def test_a_choice_without_probability_is_said_once(serve, endpoint):
    server = serve(reply=lambda *_: chat("Sure", (("Sure", -0.01), ("1", -7.0), ("2", -8.0))))
    client = CachedClient(endpoint(server, api="chat"))
    with pytest.warns(UserWarning, match="low_option_mass") as said:
        client.ask(verdicts(6))
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.ask(verdicts(8))


def test_options_that_begin_with_one_token_are_a_failure_that_says_what_to_set(serve, endpoint):
    server = serve(reply=lambda *_: chat("(", (("(", -0.1), ("x", -2.5))))
    calls = [ChoiceRequest(Question(f"which, {n}?", chat=True), (" (A)", " (B)")) for n in range(3)]
    with pytest.warns(UserWarning, match=r"'\('.*chat_assistant_prefix: assistant") as said:
        replies = asked(endpoint(server), calls)
    assert len(said) == 1
    assert [reply.failure for reply in replies] == ["split_option"] * 3


def test_options_are_told_apart_by_what_they_alone_begin_with(serve, endpoint, pair):
    def reply(_, body):
        text = body["messages"][0]["content"]
        first = text.index(pair.first) < text.index(pair.second)
        better, other = ("(A", "(B") if first else ("(B", "(A")
        return chat("(A", ((better, math.log(0.6)), (other, math.log(0.2))))

    backend = endpoint(serve(reply=reply), api="chat")
    (judged,) = ConstitutionLabeler(backend, chat_template=True).label([pair])
    assert judged.p_first == pytest.approx(0.75)


def test_a_second_look_up_that_fails_is_a_failure_of_its_kind(serve, endpoint):
    server = serve(reply=lambda *_: chat("(", (("(", -0.1), ("x", -2.5))))
    server.script.extend([None, None, "status_500"])
    options = {"chat_assistant_prefix": "assistant", "max_retries": 0, "concurrency": 1}
    call = ChoiceRequest(Question("which?", chat=True), ("(A)", "(B)"))
    _, reply = asked(endpoint(server, **options), [*verdicts(1, chat=True), call])
    assert (reply.failure, reply.attempts) == ("http_500", 2)


CONFIG = """
labeler:
  class_path: rlaif_pl.labeling.PairwiseLabeler
  init_args:
    preamble: base
    backend:
      class_path: rlaif_pl.labeling.EndpointBackend
      init_args: {{base_url: '{url}', model: tiny, retries: {{max_retries: 0, first_wait: 0.0}}}}
"""


def test_refused_requests_are_asked_again_by_the_same_command(
    refusing, data_files, small_pairs, tmp_path, capsys
):
    state = {"sentence": "the proxy is of yesterday"}
    server = refusing(lambda _: state["sentence"])
    config, out = tmp_path / "label.yaml", tmp_path / "out"
    config.write_text(CONFIG.format(url=server.url))
    words = ["label", "--config", str(config), "--pairs", data_files.unlabeled, "--out", str(out)]
    with pytest.warns(UserWarning, match="of yesterday"):
        assert cli.main(words) == 1
    error = capsys.readouterr().err
    assert "the proxy is of yesterday" in error
    assert "the same command again" in error
    assert len(server.record.requests) <= 12
    state["sentence"] = None
    assert cli.main(words) == 0
    assert len((out / "labeled.jsonl").read_text().splitlines()) == len(small_pairs)


def test_replies_of_a_job_that_was_refused_are_asked_for_again(refusing, endpoint, tmp_path):
    state = {"sentence": "no"}
    server = refusing(lambda _: state["sentence"])
    with ReplyStore(tmp_path / "r.sqlite") as store:
        with pytest.warns(UserWarning, match="HTTP 400: no"):
            (reply,) = CachedClient(endpoint(server), store).ask(verdicts(1))
        assert reply.failure == "http_400"
        state["sentence"] = None
        (reply,) = CachedClient(endpoint(server), store).ask(verdicts(1))
        assert reply.failure is None
