"""One request in a server's terms: messages, limits, and sampling settings sent in the open.

What is not sent, a server takes from the model's folder (``generation_config.json``: top_k 20,
top_p 0.8), so settings that change nothing are sent. Not every server knows them all: those are
optional, and left out from the first refusal on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from rlaif_pl.errors import one_of
from rlaif_pl.labeling.calls import Question
from rlaif_pl.labeling.usage.spending import Price
from rlaif_pl.text import refuse_spelled_breaks

Api = Literal["auto", "completions", "chat"]
ChatOpening = Literal["user", "assistant"]
MaxTokensField = Literal["max_tokens", "max_completion_tokens"]
Route = Literal["completions", "chat"]
# Values that leave the distribution alone; vLLM and SGLang take -1 as top_k, llama.cpp 0.
NEUTRAL: dict[str, tuple[float, ...]] = {
    "top_p": (1.0,),
    "top_k": (-1, 0),
    "min_p": (0.0,),
    "repetition_penalty": (1.0,),
}
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
        top_logprobs: Likeliest tokens to ask for, at least 1; OpenAI allows 20 in chat and 5 in
            completions.
        supports_top_k: Whether the server takes top_k; OpenAI does not.
        supports_temperature: Whether the model takes a temperature; without, none is sent, and text is
            drawn in the server's own way.
        supports_seed: Whether text is drawn by a seed; None leaves it out where the server refuses it.
            Set false for a vLLM server on a CPU that prefills in chunks: a seed ends it.
        supports_logprob_token_ids: Whether verdicts are asked for by their tokens, in place of the
            likeliest ``top_logprobs``; None finds out by the first choice.
        max_tokens_field: What the chat route calls the length limit; newer models of OpenAI refuse
            ``max_tokens``.
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
        if self.top_logprobs < 1:
            raise ValueError(f"expected top_logprobs of at least 1, got {self.top_logprobs}")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to talk to one server; see ``EndpointBackend``."""

    model: str
    api: Api
    chat_assistant_prefix: ChatOpening
    extra_body: Mapping[str, Any]
    price: Price | None
    server: ServerFeatures

    def __post_init__(self) -> None:
        one_of(Api, api=self.api)
        one_of(ChatOpening, chat_assistant_prefix=self.chat_assistant_prefix)
        one_of(MaxTokensField, max_tokens_field=self.server.max_tokens_field)


@dataclass(frozen=True, slots=True)
class Draft:
    """A request and which of its fields may be left out."""

    route: Route  # which of the server's two ways to complete text
    body: dict[str, Any]  # arguments of the client's `create`
    # names of fields that the server may refuse without harm
    optional: frozenset[str] = frozenset()

    def without(self, lacks: Mapping[str, int]) -> Draft:
        """Return the request without what the server does not take, or with its next value."""
        extra = dict(self.body.get("extra_body", {}))
        for name in self.optional & lacks.keys():
            values = NEUTRAL.get(name, ())
            if lacks[name] < len(values):
                extra[name] = values[lacks[name]]
            else:
                extra.pop(name, None)
        return Draft(self.route, self.body | {"extra_body": extra}, self.optional & extra.keys())


@dataclass(slots=True)
class Wanted:
    """What one request is to do."""

    question: Question  # what is read
    beginning: str = ""  # what the answer begins with, after the question's own opening
    limit: int = 1  # most tokens to write
    top: int | None = None  # likeliest tokens to report; None for none
    temperature: float = 1.0  # of the drawing
    body: dict[str, Any] = field(default_factory=dict)  # further fields
    # further fields that the server may refuse
    optional: dict[str, Any] = field(default_factory=dict)


def draft(
    wanted: Wanted, route: Route, settings: Settings, url: object, lacks: Mapping[str, int]
) -> Draft:
    """Put a wish into the fields of a route."""
    question = wanted.question
    extra = dict(settings.extra_body)
    body: dict[str, Any] = {"model": settings.model}
    if route == "chat":
        body["messages"], flags = messages(question, wanted.beginning, settings)
        extra |= flags
        body[settings.server.max_tokens_field] = wanted.limit
        if wanted.top is not None:
            body |= {"logprobs": True, "top_logprobs": wanted.top}
    else:
        body |= {"prompt": question.text + question.assistant_prefix + wanted.beginning}
        body["max_tokens"] = wanted.limit
        if wanted.top is not None:
            body["logprobs"] = wanted.top
    if settings.server.supports_temperature:
        body["temperature"] = wanted.temperature
    body |= {name: value for name, value in wanted.body.items() if name != "extra_body"}
    extra |= wanted.body.get("extra_body", {})
    offered = neutral(settings) | wanted.optional
    if is_strict(url):
        offered = {name: value for name, value in offered.items() if name in STRICT_FIELDS}
    offered = {name: value for name, value in offered.items() if name not in extra | body}
    made = Draft(route, body | {"extra_body": offered | extra}, frozenset(offered))
    return made.without(lacks)


def neutral(settings: Settings) -> dict[str, float]:
    """Return sampling settings that change nothing, as far as the back end may send them."""
    if not (settings.server.neutral_sampling and settings.server.supports_temperature):
        return {}
    skipped = () if settings.server.supports_top_k else ("top_k",)
    return {name: values[0] for name, values in NEUTRAL.items() if name not in skipped}


def is_strict(url: object) -> bool:
    """Tell whether a host is known to refuse fields that are not OpenAI's own."""
    host = urlsplit(str(url)).hostname or ""
    return any(host == name or host.endswith("." + name) for name in STRICT_HOSTS)


def refused_fields(sentence: str, text: str, optional: Collection[str]) -> list[str]:
    """Return which optional fields a refusal is about."""
    said = " ".join([sentence, *(found[1] for found in _PLACES.finditer(text))])
    named = sorted(name for name in optional if re.search(rf"(?<![\w.]){name}(?!\w)", said))
    if named or not _UNKNOWN_FIELDS.search(sentence):
        return named
    return sorted(set(optional) - set(STRICT_FIELDS))


def messages(
    question: Question, beginning: str, settings: Settings
) -> tuple[list[dict[str, str]], dict[str, bool]]:
    """Return the messages of a chat request and the flags that make a server go on from the last.

    Thoughts stand closed at the beginning of the assistant's message, whatever the place of openings:
    nowhere else would the model take them for its own.

    Args:
        question: The user's message, and what the answer begins with.
        beginning: What it begins with besides.
        settings: Where openings go: ``user`` puts them at the end of the user's message,
            ``assistant`` into a message that the server is to go on with (vLLM and SGLang by these
            flags, others by themselves).
    """
    text, assistant_prefix = question.text, question.assistant_prefix + beginning
    if question.thoughts is not None:
        opens, closes = settings.server.thought_marks
        thoughts = question.thoughts.replace(opens, "").replace(closes, "")  # would end them early
        assistant_prefix = f"{opens}\n{thoughts.strip()}\n{closes}\n\n{assistant_prefix}"
    elif not assistant_prefix:
        return [{"role": "user", "content": text}], {}
    elif settings.chat_assistant_prefix == "user":
        return [{"role": "user", "content": f"{text.rstrip()}\n\n{assistant_prefix}"}], {}
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": assistant_prefix}]
    return turns, {"continue_final_message": True, "add_generation_prompt": False}
