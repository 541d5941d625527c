"""Summands of a likelihood score: what each asks a model, and what it makes of the answers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from rlaif_pl.labeling.backends.local import LocalBackend
from rlaif_pl.labeling.calls import Backend, LoglikelihoodRequest, Response
from rlaif_pl.models.encoding import Encoding
from rlaif_pl.models.text_format import stored_format
from rlaif_pl.text import (
    WORD,
    FilledText,
    Template,
    filled,
    mark_data,
    refuse_spelled_breaks,
    title_of,
    truncate_words,
)
from rlaif_pl.types import Conversation

TEMPLATE = "TL;DR: {response}\n\nPOST: {prompt}"
FRAMED = ("likelihood", "pmi", "shared_information")  # kinds that ask how a response follows
Kind: TypeAlias = Literal[
    "reconstruction",
    "likelihood",
    "pmi",
    "shared_information",
    "shared_words",
    "title_words",
    "length",
]
Calls: TypeAlias = list[LoglikelihoodRequest]
Replies: TypeAlias = Sequence[Response]


class Frame(NamedTuple):
    """How a response follows its prompt where its own likelihood is asked for."""

    version: str  # end of the names of terms that use it; empty for the default
    given: Callable[[str], str]  # what stands before a response to a prompt
    alone: Callable[[], str]  # the same without any prompt
    target: Callable[[str], str]  # the response as it follows either, without white space around it

    def request(self, context: str, response: str) -> LoglikelihoodRequest:
        """Ask how likely a response is after a context."""
        return LoglikelihoodRequest(context, self.target(response) if response else "")


DEFAULT = Frame(
    "",
    lambda prompt: Template().prompt.replace("{prompt}", prompt),
    lambda: "TL;DR:",
    lambda response: f" {response}",
)


def frame_of(
    backend: Backend, template: Template | None, max_prompt_words: int | None = None
) -> Frame:
    """Return the frame of a template; of None, what the folder of a local model was trained with.

    ``max_prompt_words`` takes the place of its own. ValueError: a chat template for a server.
    """
    if template is None and isinstance(backend, LocalBackend):
        options = backend.model.options
        stored = stored_format(options.name, options.revision)
        template = None if stored is None else stored.template
    if template is None or template == Template():
        return DEFAULT
    facts = json.dumps(dataclasses.asdict(template), sort_keys=True)
    version = f"-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"
    if max_prompt_words is not None:
        template = dataclasses.replace(template, max_prompt_words=max_prompt_words)
    if not template.chat:
        # some text has to be there
        alone = template.prompt.partition("{prompt}")[2].lstrip() or "\n"
        return Frame(version, template.render, lambda: FilledText(alone), template.continuation)
    if not isinstance(backend, LocalBackend):
        raise ValueError(
            "expected a model on this machine (LocalBackend) for policy_template.chat: true, got "
            f"{type(backend).__name__}, whose tokenizer is not known here; give the layout as "
            "policy_template.prompt"
        )
    model = backend.model

    def encoding() -> Encoding:  # loads the model
        return Encoding(model.tokenizer, template, model.info.stop_token_ids)

    return Frame(
        version,
        lambda prompt: encoding().bare(prompt),
        lambda: encoding().bare(""),
        lambda response: encoding().continuations([response])[0],
    )


class Term(NamedTuple):
    """One summand of a score."""

    version: str  # name, with a number to raise with anything that changes a value
    value: Callable[[str, str, Replies], float]  # of prompt, response, replies that did not fail
    calls: Callable[[str, str], Calls] = lambda *_: []  # what the model is asked of the two texts


@dataclass(frozen=True, slots=True)
class WeightedTerm:
    """A summand as configs name it.

    Attributes:
        kind: ``reconstruction``: log P(prompt | response) per token. ``likelihood``:
            log P(response | prompt) per token. ``pmi``: what the prompt adds to log P(response),
            per token. ``shared_information``: how surprising the words are that
            the response shares with the prompt. ``shared_words``: log of these words' characters.
            ``title_words``: the same of the prompt's title, a line "TITLE: ..." in it. ``length``:
            log of the response's characters. The last three cost the model no reading.
        weight: Its factor; any finite number but 0.
    """

    kind: Kind
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight) or self.weight == 0:
            raise ValueError(
                f"expected a finite weight other than 0 for {self.kind!r}, got {self.weight}; "
                "leave the term out instead"
            )


def reconstruction(template: str, normalize: str) -> Term:
    """Return ``log P(prompt | response)``, per ``token`` of the prompt or the ``sum``."""
    version = "reconstruction-1"
    if template != TEMPLATE:
        version = "custom-" + hashlib.sha256(template.encode()).hexdigest()[:12]
    before, after = split_template(template)

    def calls(prompt: str, response: str) -> Calls:
        context = filled(before.replace("{response}", mark_data(response)))
        scored = filled(after.replace("{prompt}", mark_data(prompt)))
        return [LoglikelihoodRequest(context, scored if prompt else "")]

    if normalize == "token":
        return Term(version, _per_token, calls)
    return Term(f"{version}-{normalize}", lambda _, __, replies: total_of(replies[0]), calls)


def shared_words(only_title: bool = False, offset: float = 1.0) -> Term:
    """Return the log of the characters of the different words that a response shares with its prompt.

    A response that copies its prompt has the highest value: do not train on this alone. ``only_title``
    compares with the prompt's title (without one, all get 0); ``offset`` characters, above 0, are added
    first.
    """

    def value(prompt: str, response: str, _: Replies) -> float:
        source = title_of(prompt) if only_title else prompt
        shared = word_set(source or "") & word_set(response)
        return math.log(offset + sum(map(len, shared))) - math.log(offset)

    return Term(f"shared-words-1{'-title' if only_title else ''}-{offset:g}", value)


def likelihood(frame: Frame) -> Term:
    """Return ``log P(response | prompt)`` per token; alone it favors what is short, vague or copied."""
    return Term(
        f"likelihood-1{frame.version}",
        _per_token,
        lambda prompt, response: [frame.request(frame.given(prompt), response)],
    )


def pmi(frame: Frame) -> Term:
    """Return ``(log P(response | prompt) - log P(response)) / tokens of the response``."""
    return Term(
        f"pmi-1{frame.version}",
        lambda _, __, both: (total_of(both[0]) - total_of(both[1])) / len(both[0].logprobs),
        lambda prompt, response: [
            frame.request(context, response) for context in (frame.given(prompt), frame.alone())
        ],
    )


def shared_information(frame: Frame = DEFAULT) -> Term:
    """Return ``log(1 + sum of sqrt(-log P(word)) / 2)`` over the words a response has of its prompt.

    Each word is read where it first occurs, after the response's own beginning and without the prompt.
    """

    def calls(prompt: str, response: str) -> Calls:
        known, text = word_set(prompt), str(frame.target(response))
        found = []
        for match in WORD.finditer(text):
            word = match[0].lower()
            if word in known:
                known -= {word}
                start = len(text[: match.start()].rstrip())
                context = frame.alone() + filled(mark_data(text[:start]))
                found.append(LoglikelihoodRequest(context, text[start : match.end()]))
        return found

    def value(_: str, __: str, replies: Replies) -> float:
        surprisals = [math.sqrt(max(-total_of(reply), 0.0)) for reply in replies]
        return math.log1p(math.fsum(surprisals) / 2)

    return Term(f"shared-information-1{frame.version}", value, calls)


# Log of the response's characters: control of length, by a weight of either sign.
LENGTH = Term("length-1", lambda _, response, __: math.log(1 + len(response)))


def build_term(kind: Kind, template: str, normalize: str, frame: Frame = DEFAULT) -> Term:
    """Return the term of a kind; ``frame`` is for those that ask for the response's likelihood."""
    terms: dict[str, Term] = {
        "reconstruction": reconstruction(template, normalize),
        "likelihood": likelihood(frame),
        "pmi": pmi(frame),
        "shared_information": shared_information(frame),
        "shared_words": shared_words(),
        "title_words": shared_words(only_title=True, offset=5.0),
        "length": LENGTH,
    }
    if kind not in terms:
        raise ValueError(f"expected a kind of term among {sorted(terms)}, got {kind!r}")
    return terms[kind]


def cut_prompt(prompt: str, limit: int | None) -> str:
    """Return a prompt without white space around it, cut after ``limit`` words; its turns stay."""
    text = prompt.strip() if limit is None else truncate_words(prompt.strip(), limit)
    return Conversation(text, prompt.messages) if isinstance(prompt, Conversation) else text


def word_set(text: str) -> frozenset[str]:
    """Different words of a text, in lower case."""
    return frozenset(WORD.findall(text.lower()))


def total_of(reply: Response) -> float:
    """Log-probability of a whole target in nats; nan where the server left a token out."""
    return math.fsum(math.nan if value is None else value for value in reply.logprobs)


def _per_token(_: str, __: str, replies: Replies) -> float:
    return total_of(replies[0]) / len(replies[0].logprobs)


def split_template(template: str) -> tuple[str, str]:
    """Cut a template into context and scored part. ``ValueError``: each field once, prompt last."""
    refuse_spelled_breaks("template", template)
    counts = (template.count("{response}"), template.count("{prompt}"))
    if counts != (1, 1) or not template.endswith("{prompt}"):
        raise ValueError(
            "template must contain {response} once and end with {prompt}, "
            f"got {template!r}; everything before {{prompt}} is context"
        )
    context = template.removesuffix("{prompt}")
    bare = context.rstrip(" ")
    return bare, context[len(bare) :] + "{prompt}"
