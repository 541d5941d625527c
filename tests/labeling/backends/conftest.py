"""A server on loopback that speaks the protocol, and misbehaves as it is told, by a seed."""

import hashlib
import json
import math
import random
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlaif_pl.labeling import EndpointBackend, Retries, ServerFeatures

WORDS = ("1", "2", "10", " the", " a", "\n", "0")


@dataclass
class Faults:
    """Share of requests that meet each fault, in [0, 1]."""

    malformed: float = 0.0  # right length, broken JSON
    cut: float = 0.0  # connection closed in the middle of the JSON
    status_500: float = 0.0
    burst_429: float = 0.0  # this request and the next ones get 429 with Retry-After
    stall: float = 0.0  # headers, then nothing
    no_logprobs: float = 0.0
    seed: int = 0


@dataclass
class Record:
    """What a server saw and did; every field counts requests."""

    served: Counter = field(default_factory=Counter)  # good answers by prompt
    faults: Counter = field(default_factory=Counter)
    requests: list = field(default_factory=list)  # bodies, in order of arrival
    most_at_once: int = 0


def masses(prompt):
    """Return probabilities of the words after a prompt, decided by its text alone."""
    digest = hashlib.sha256(prompt.encode()).digest()
    weights = [1 + byte for byte in digest[: len(WORDS)]]
    return {word: weight / (1 + sum(weights)) for word, weight in zip(WORDS, weights, strict=True)}


class Handler(BaseHTTPRequestHandler):
    """Answers one connection; what goes wrong is drawn from the server's seed."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        content = self.rfile.read(length := int(self.headers["content-length"]))
        if len(content) < length:  # the client is gone
            self.close_connection = True
            return None
        body = json.loads(content)
        app = self.server.app
        if self.path == "/tokenize":
            return self.tokenize(app, body)
        fault = app.arrive(body)
        try:
            time.sleep(app.latency)
            self.respond(app, body, fault)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            app.leave()
        return None

    def tokenize(self, app, body):
        if app.tokens is None:
            return self.send(404, b'{"detail": "Not Found"}')
        return self.send(200, json.dumps({"tokens": app.tokens(body["prompt"])}).encode())

    def respond(self, app, body, fault):
        if fault == "status_500":
            return self.send(500, b'{"error": {"message": "boom"}}')
        if fault == "burst_429":
            return self.send(429, b'{"error": {"message": "slow down"}}', {"Retry-After": "0.05"})
        if isinstance(fault, tuple):
            status, message = fault
            return self.send(status, json.dumps({"error": {"message": message}}).encode())
        answer = app.reply(self.path, body, fault == "no_logprobs")
        content = json.dumps(answer).encode()
        if fault == "malformed":
            return self.send(200, content[: len(content) // 2] + b"}}")
        if fault in ("cut", "stall"):
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            if fault == "stall":
                app.closing.wait(app.stall_seconds)
            self.close_connection = True
            return None
        self.send(200, content)
        if fault is None:
            app.count(body)
        return None

    def send(self, status, content, headers=None):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()


class QuietServer(ThreadingHTTPServer):
    """Says nothing about clients that went away, which is what many tests make them do."""

    daemon_threads = True

    def handle_error(self, *_):
        pass


class Server:
    """The server with its record; ``script`` holds faults for the next requests, before any draw."""

    def __init__(self, faults=None, latency=0.0, stall_seconds=60.0, reply=None, tokens=None):
        self.faults = faults or Faults()
        self.latency = latency
        self.tokens = tokens  # text to ids, for servers that have /tokenize
        self.stall_seconds = stall_seconds
        self.record = Record()
        self.script = deque()
        self.closing = threading.Event()
        self._reply = reply or completion
        self._random = random.Random(self.faults.seed)
        self._lock = threading.Lock()
        self._at_once = 0
        self._http = QuietServer(("127.0.0.1", 0), Handler)
        self._http.app = self
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def arrive(self, body):
        with self._lock:
            self._at_once += 1
            self.record.requests.append(body)
            self.record.most_at_once = max(self.record.most_at_once, self._at_once)
            fault = self.script.popleft() if self.script else self._draw()
            if fault is not None:
                self.record.faults[fault] += 1
            return fault

    def _draw(self):
        place = self._random.random()
        for name in ("malformed", "cut", "status_500", "burst_429", "stall", "no_logprobs"):
            place -= getattr(self.faults, name)
            if place < 0:
                if name == "burst_429":
                    self.script.extend(["burst_429"] * 3)
                return name
        return None

    def leave(self):
        with self._lock:
            self._at_once -= 1

    def count(self, body):
        with self._lock:
            self.record.served[prompt_of(body)] += 1

    def reply(self, path, body, without_logprobs):
        answer = self._reply(path, body)
        if without_logprobs:
            answer["choices"][0]["logprobs"] = None
        return answer

    def wait_until_idle(self):
        while self._at_once:
            time.sleep(0.005)


def prompt_of(body):
    return body["prompt"] if "prompt" in body else json.dumps(body["messages"])


def completion(path, body):
    """Answer with probabilities that only the prompt decides."""
    prompt = prompt_of(body)
    table = {word: math.log(mass) for word, mass in masses(prompt).items()}
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": 1}
    text = "1" if body["max_tokens"] == 1 else f"text {body.get('seed')}"
    choice = {"index": 0, "finish_reason": "length" if body["max_tokens"] == 1 else "stop"}
    if path.endswith("/chat/completions"):
        rows = [{"token": word, "logprob": value} for word, value in table.items()]
        content = [{"token": "1", "logprob": table["1"], "top_logprobs": rows}]
        choice |= {"message": {"role": "assistant", "content": text}}
        choice |= {"logprobs": {"content": content} if body.get("logprobs") else None}
    else:
        choice |= {"text": text, "logprobs": None}
        if body.get("logprobs"):
            choice["logprobs"] = {
                "tokens": ["1"],
                "token_logprobs": [table["1"]],
                "top_logprobs": [table],
            }
    return {"choices": [choice], "usage": usage}


@pytest.fixture
def serve():
    """Return a starter of servers; all are closed at the end."""
    started = []

    def start(*args, **options):
        started.append(Server(*args, **options))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def endpoint(monkeypatch):
    """Return a maker of back ends that do not wait long."""
    monkeypatch.setenv("TEST_ENDPOINT_KEY", "key-of-the-test")

    def make(server, **options):
        options = {
            "first_wait": 0.01,
            "timeout": 60.0,
            "api_key_env": "TEST_ENDPOINT_KEY",
        } | options
        groups = {
            name: kind(**{f.name: options.pop(f.name) for f in fields(kind) if f.name in options})
            for name, kind in (("retries", Retries), ("server", ServerFeatures))
        }
        return EndpointBackend(server.url, "tiny", **options, **groups)

    return make


@pytest.fixture
def known_masses():
    """Return what the server says after a prompt."""
    return masses


@pytest.fixture
def faults():
    """Return the maker of faults."""
    return Faults


@pytest.fixture
def refusing(serve):
    """Return a starter of servers that refuse requests for which ``why`` gives a sentence."""

    def start(why):
        server = serve()
        arrive = server.arrive

        def judged(body):
            fault, sentence = arrive(body), why(body)
            return fault if sentence is None else (400, sentence)

        server.arrive = judged
        return server

    return start
