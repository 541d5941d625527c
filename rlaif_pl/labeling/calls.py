"""What labelers ask of a model and what it answers; strategies and back ends speak only this."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol, TypeAlias, runtime_checkable


@dataclass(frozen=True, slots=True)
class Question:
    """Text that a model reads; control tokens are such in templates alone (see ``FilledText``)."""

    text: str  # all up to `assistant_prefix`: the plain prompt, or the user's message where `chat`
    # what the answer begins with and the model goes on from ("Preferred Summary=", or ""): in plain
    # text read as one string with `text`, in a chat the start of the assistant's turn
    assistant_prefix: str = ""
    chat: bool = False  # whether `text` goes through the model's chat template
    # what the model thought before the answer, without marks: the back end closes them in the model's
    # own way and puts `assistant_prefix` behind. None: asked without thoughts
    thoughts: str | None = None


@dataclass(frozen=True, slots=True)
class Decoding:
    """How text is drawn."""

    max_tokens: int = 512  # length limit of the answer, at least 1
    temperature: float = 0.0  # divides the logits; 0 is greedy
    top_k: int = 0  # only this many likeliest tokens are drawn from; 0 takes all
    stop: tuple[str, ...] = ()  # strings at which the answer ends; they are not part of it
    seed: int = 0  # seeds the drawing, with the sample's number; without effect when greedy

    @classmethod
    def drawn(cls, max_tokens: int, temperature: float, top_k: int, seed: int) -> Decoding:
        """Return the decoding of settings; what has no effect when greedy makes no difference."""
        top_k, seed = (top_k, seed) if temperature else (0, 0)
        return cls(max_tokens, temperature, top_k, (), seed)


@dataclass(frozen=True, slots=True)
class ChoiceRequest:
    """How likely is each of these answers?"""

    question: Question  # what is read before the answer
    # whole strings, each different: of "1" and "10", an answer that begins with "10" is no "1"
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Write an answer."""

    question: Question  # what is read before the answer
    decoding: Decoding = Decoding()
    sample: int = 0  # number of the sample among those of the same question and decoding, from 0


@dataclass(frozen=True, slots=True)
class ThinkRequest:
    """Think before an answer; the reply's text is the thoughts alone, and "" where there are none.

    Thoughts that the length limit cut are a failure (``unclosed_thought``), kept all the same.
    """

    question: Question  # what is thought about; for a chat template, and without `thoughts`
    decoding: Decoding = Decoding()
    sample: int = 0  # as of a ``GenerateRequest``


@dataclass(frozen=True, slots=True)
class LoglikelihoodRequest:
    """How likely is ``target`` after ``context``, as plain text?

    Each is tokenized apart, so that the target has the same tokens after any context.
    """

    context: str
    target: str


Call: TypeAlias = ChoiceRequest | GenerateRequest | ThinkRequest | LoglikelihoodRequest


@dataclass(frozen=True, slots=True)
class Response:
    """A model's answer to one call."""

    # `ChoiceRequest`: log-probability of each option in nats, None where the server did not report
    # it. `LoglikelihoodRequest`: log-probability of each token of the target
    logprobs: tuple[float | None, ...] = ()
    # the text, without what stopped it; of a choice the likeliest token in place of an option
    text: str = ""
    finished: bool = True  # False where the length limit cut the text
    read: int = 0  # tokens of the prompt (whether computed, or taken from a cache)
    written: int = 0  # tokens generated
    cost_usd: float = 0.0  # money paid, 0 for a model of one's own
    seconds: float = 0.0  # time from asking to the answer; for a batch, an equal share of its time
    attempts: int = 1  # requests it took, at least 1
    failure: str | None = None  # why there is no answer (`too_long`, `timeout`, `http_500`, ...)

    @property
    def tokens(self) -> int:
        """Tokens read and written."""
        return self.read + self.written

    @property
    def is_whole(self) -> bool:
        """Whether it is an answer, and one with the log-probability of every option."""
        return self.failure is None and None not in self.logprobs


@runtime_checkable
class Backend(Protocol):
    """Something that answers calls: a model on this machine or behind an endpoint."""

    @property
    def fingerprint(self) -> str:
        """Model, revision and everything else of the back end that can change a reply."""

    def answer(self, calls: Sequence[Call], done: Callable[[int, Response], None]) -> None:
        """Answer calls, each different, in any order and grouping.

        ``done`` is called with the place of a call and its reply as soon as that is known, so that it
        can be kept; from one thread at a time, while the caller waits. What cannot be answered is
        reported with a ``failure``, not raised.
        """


Ask: TypeAlias = Callable[[Sequence[Call]], list[Response]]
"""Answers calls in order; equal calls are asked once. What strategies are given."""

Watch: TypeAlias = Callable[[Call, Response], None]
"""Told of every new reply (progress, spending); may raise to stop before further calls."""


def kind_of(call: Call) -> str:
    """Return the kind of a call as stores name it: ``choice``, ``generate``, ..."""
    return type(call).__name__.removesuffix("Request").lower()


def key_of(fingerprint: str, call: Call) -> bytes:
    """Hash what decides a reply: the back end, the kind of call and all of its fields."""
    fields = asdict(call)
    if not isinstance(call, LoglikelihoodRequest) and call.question.thoughts is None:
        del fields["question"]["thoughts"]  # as before there were any
    text = json.dumps([fingerprint, kind_of(call), fields], ensure_ascii=True, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
