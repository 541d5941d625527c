"""One request in a server's terms: messages, limits, and sampling settings sent in the open.

What is not sent, a server takes from the model's folder (``generation_config.json``: top_k 20,
top_p 0.8), so settings that change nothing are sent. Not every server knows them all: those are
optional, and left out from the first refusal on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from rlaif_pl.errors import at_least, one_of
from rlaif_pl.labeling.backends.endpoint_errors import EndpointError
from rlaif_pl.labeling.calls import Question
from rlaif_pl.text import refuse_spelled_breaks

if TYPE_CHECKING:
    from rlaif_pl.labeling.backends.endpoint import EndpointBackend

Api = Literal["auto", "completions", "chat"]
ChatOpening = Literal["user", "assistant"]
MaxTokensField = Literal["max_tokens", "max_completion_tokens"]
# Values that leave the distribution alone; vLLM and SGLang take -1 as top_k, llama.cpp 0.
NEUTRAL = {"top_p": (1.0,), "top_k": (-1, 0), "min_p": (0.0,), "repetition_penalty": (1.0,)}
STRICT_HOSTS = ("openai.com", "azure.com")  # refuse fields that are not OpenAI's own
STRICT_FIELDS = ("top_p", "seed")
STRUCTURED = ("structured_outputs", "response_format", "grammar", "json_schema", "regex", "ebnf")
_UNKNOWN_FIELDS = re.compile(
    r"extra (fields|inputs) (are )?not (permitted|allowed)|(unknown|unrecognized) (request )?"
    r"(fields?|arguments?|parameters?)|additional properties",
    re.IGNORECASE,
)
_PLACES = re.compile(r"""['"](?:loc|param)['"]\s*:\s*([\[(][^\])]*[\])]|"\w+")""")


@dataclass(frozen=True)
class ServerFeatures:
    """What a server and its model take, where they differ from vLLM.

    Attributes:
        top_logprobs: Likeliest tokens to ask for, at least 1; OpenAI allows 20 in chat, else 5.
        supports_top_k: Whether the server takes top_k; OpenAI does not.
        supports_temperature: Whether the model takes a temperature; else it draws in its own way.
        supports_seed: Whether text is drawn by a seed; None leaves it out where the server refuses it.
            Set false for a vLLM server on a CPU that prefills in chunks: a seed ends it.
        supports_logprob_token_ids: Whether verdicts are asked for by their tokens, in place of the
            likeliest ``top_logprobs``; None finds out by the first choice.
        max_tokens_field: The length limit's name in chat; newer models of OpenAI refuse ``max_tokens``.
        neutral_sampling: Send top_p 1, top_k -1, min_p 0 and repetition_penalty 1, so that a server
            draws from the model's own distribution and not as the model's folder says. What a server
            does not take is left out after its first refusal, with a notice.
        echo_start: Text put before every scored text; llama-cpp-python reports right values only
            behind the model's start token, which some models do not put there by themselves.
        thought_marks: What opens and closes thoughts, for models that think before a verdict.
    """

    top_logprobs: int = 20
    supports_top_k: bool = True
    supports_temperature: bool = True
    supports_seed: bool | None = None
    supports_logprob_token_ids: bool | None = None
    max_tokens_field: MaxTokensField = "max_tokens"
    neutral_sampling: bool = True
    echo_start: str = ""
    thought_marks: tuple[str, str] = ("<think>", "</think>")

    def __post_init__(self) -> None:
        refuse_spelled_breaks("echo_start", self.echo_start)
        refuse_spelled_breaks("thought_marks", *self.thought_marks)
        at_least(1, top_logprobs=self.top_logprobs)
        one_of(MaxTokensField, max_tokens_field=self.max_tokens_field)


@dataclass(slots=True)
class Request:
    """What one request is to do."""

    question: Question  # what is read
    beginning: str = ""  # what the answer begins with, after the question's own opening
    limit: int = 1  # most tokens to write
    top: int | None = None  # likeliest tokens to report; None for none
    temperature: float = 1.0  # of the drawing
    fields: dict[str, Any] = field(default_factory=dict)  # further ones; extra_body goes over them
    forced: dict[str, Any] = field(default_factory=dict)  # further ones, which go over extra_body
    optional: dict[str, Any] = field(default_factory=dict)  # those that may be refused without harm

    def body(self, backend: EndpointBackend) -> tuple[dict[str, Any], Set[str]]:
        """Return all fields for a server, without what it was found to lack, and the optional ones."""
        question, server = self.question, backend.server
        body: dict[str, Any] = {"model": backend.model}
        flags: dict[str, bool] = {}
        reported: dict[str, Any] = {"logprobs": self.top}
        if is_chat(question, backend.api):
            body["messages"], flags = messages(question, self.beginning, backend)
            body[server.max_tokens_field] = self.limit
            reported = {"logprobs": True, "top_logprobs": self.top}
        else:
            body["prompt"] = question.text + question.assistant_prefix + self.beginning
            body["max_tokens"] = self.limit
        if self.top is not None:
            body |= reported
        if server.supports_temperature:
            body["temperature"] = self.temperature
        body |= self.fields | backend.extra_body | flags | self.forced
        values: dict[str, tuple[Any, ...]] = {name: (own,) for name, own in self.optional.items()}
        if server.neutral_sampling and server.supports_temperature:
            values = {**NEUTRAL, **values}
            if not server.supports_top_k:
                del values["top_k"]
        lacks, is_limited = backend.learned.lacks, is_strict(backend.base_url)
        offered = {
            name: tried[lacks.get(name, 0)]
            for name, tried in values.items()
            if name not in body and lacks.get(name, 0) < len(tried)
            if name in STRICT_FIELDS or not is_limited
        }
        return body | offered, offered.keys()


def is_chat(question: Question, api: Api) -> bool:
    """Tell the route of a question. ``EndpointError``: it is one that the back end may not take."""
    if question.chat and api == "completions":
        raise EndpointError(
            "expected plain questions for api: completions, got one for a chat template, which "
            "only the server's chat route applies; set api to auto or chat, or chat to false"
        )
    return question.chat or api == "chat"


def is_strict(url: str) -> bool:
    """Tell whether a host is known to refuse fields that are not OpenAI's own."""
    host = urlsplit(url).hostname or ""
    return any(host == name or host.endswith("." + name) for name in STRICT_HOSTS)


def refused_fields(sentence: str, text: str, optional: Collection[str]) -> list[str]:
    """Return which optional fields a refusal is about."""
    said = " ".join([sentence, *(found[1] for found in _PLACES.finditer(text))])
    named = sorted(name for name in optional if re.search(rf"(?<![\w.]){name}(?!\w)", said))
    if named or not _UNKNOWN_FIELDS.search(sentence):
        return named
    return sorted(set(optional) - set(STRICT_FIELDS))


def messages(
    question: Question, beginning: str, backend: EndpointBackend
) -> tuple[list[dict[str, str]], dict[str, bool]]:
    """Return the messages of a chat request and the flags that make a server go on from the last.

    What the answer begins with is put at the end of the user's message, or into a message that the
    server is to go on with (vLLM and SGLang by these flags, others by themselves). Thoughts stand
    closed at the beginning of the latter: nowhere else would the model take them for its own.
    """
    text, assistant_prefix = question.text, question.assistant_prefix + beginning
    if question.thoughts is not None:
        opens, closes = backend.server.thought_marks
        thoughts = question.thoughts.replace(opens, "").replace(closes, "")  # would end them early
        assistant_prefix = f"{opens}\n{thoughts.strip()}\n{closes}\n\n{assistant_prefix}"
    elif not assistant_prefix:
        return [{"role": "user", "content": text}], {}
    elif backend.chat_assistant_prefix == "user":
        return [{"role": "user", "content": f"{text.rstrip()}\n\n{assistant_prefix}"}], {}
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": assistant_prefix}]
    return turns, {"continue_final_message": True, "add_generation_prompt": False}
