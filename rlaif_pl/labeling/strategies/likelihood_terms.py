"""Summands of a likelihood score: what each asks a model, and what it makes of the answers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from rlaif_pl.labeling.calls import LoglikelihoodRequest, Response
from rlaif_pl.labeling.strategies.frames import DEFAULT, Frame
from rlaif_pl.text import (
    WORD,
    filled,
    mark_data,
    refuse_spelled_breaks,
    title_of,
    truncate_words,
)
from rlaif_pl.types import Conversation

TEMPLATE = "TL;DR: {response}\n\nPOST: {prompt}"

Kind: TypeAlias = Literal[
    "reconstruction",
    "likelihood",
    "pmi",
    "shared_information",
    "shared_words",
    "title_words",
    "length",
]
FRAMED = ("likelihood", "pmi", "shared_information")  # kinds that ask how a response follows
Calls: TypeAlias = list[LoglikelihoodRequest]
Replies: TypeAlias = Sequence[Response]


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


def reconstruction(template: str = TEMPLATE, normalize: str = "token") -> Term:
    """Return ``log P(prompt | response)``, per ``token`` or the ``sum``.

    Context and prompt are tokenized apart (the prompt with the white space before it) and joined,
    so both responses of a pair are scored on exactly the same tokens of the prompt. A template of the
    user's own is named by its hash.
    """
    version = "reconstruction-1"
    if template != TEMPLATE:
        version = "custom-" + hashlib.sha256(template.encode()).hexdigest()[:12]
    before, after = split_template(template)

    def calls(prompt: str, response: str) -> Calls:
        context = filled(before.replace("{response}", mark_data(response)))
        scored = filled(after.replace("{prompt}", mark_data(prompt)))
        return [LoglikelihoodRequest(context, scored if prompt else "")]

    if normalize == "token":
        return Term(version, _mean, calls)
    return Term(f"{version}-{normalize}", lambda _, __, replies: total_of(replies[0]), calls)


def shared_words(only_title: bool = False, offset: float = 1.0) -> Term:
    """Return the log of the characters of the different words that a response shares with its prompt.

    A crude stand-in for reconstruction that needs no model: long words say more than short ones,
    said twice they say no more, and words the prompt lacks say nothing of it. A response that
    copies the whole prompt has the highest value, so do not train on it alone without a limit on
    the response's length.

    Args:
        only_title: Compare with the prompt's title alone; a prompt without one gives 0 to all.
        offset: Characters added before the logarithm, above 0: how little the first word counts.
    """

    def value(prompt: str, response: str, _: Replies) -> float:
        source = title_of(prompt) if only_title else prompt
        shared = word_set(source or "") & word_set(response)
        return math.log(offset + sum(map(len, shared))) - math.log(offset)

    return Term(f"shared-words-1{'-title' if only_title else ''}-{offset:g}", value)


def likelihood(frame: Frame = DEFAULT) -> Term:
    """Return ``log P(response | prompt)`` per token of the response.

    Says how well a response follows from its prompt, grammar and facts alike; by itself it favors what
    is short, vague or copied, which the reconstruction does not. Together they are the two directions
    of a noisy channel.
    """

    def calls(prompt: str, response: str) -> Calls:
        target = frame.target(response) if response else ""
        return [LoglikelihoodRequest(frame.given(prompt), target)]

    return Term(f"likelihood-1{frame.version}", _mean, calls)


def pmi(frame: Frame = DEFAULT) -> Term:
    """Return ``(log P(response | prompt) - log P(response)) / tokens of the response``.

    A garbled response that names the right words is likely to be found out by it.
    """
    asked = likelihood(frame)

    def calls(prompt: str, response: str) -> Calls:
        (given,) = asked.calls(prompt, response)
        return [given, LoglikelihoodRequest(frame.alone(), given.target)]

    return Term(f"pmi-1{frame.version}", _gain, calls)


def shared_information(frame: Frame = DEFAULT) -> Term:
    """Return ``log(1 + sum of sqrt(-log P(word)) / 2)`` over the words a response has of its prompt.

    Each word is read where it first occurs, after the response's own beginning and without the prompt.
    A word that any response would have there tells little; the square root keeps one name from
    outweighing a sentence. The model never reads the prompt, so long prompts cost no more than short
    ones.
    """

    def calls(prompt: str, response: str) -> Calls:
        known, text = word_set(prompt), str(frame.target(response))
        found = []
        for match in WORD.finditer(text):
            word = match[0].lower()
            if word in known:
                known -= {word}
                start = len(text[: match.start()].rstrip())
                context = frame.begun(text[:start])
                found.append(LoglikelihoodRequest(context, text[start : match.end()]))
        return found

    return Term(f"shared-information-1{frame.version}", _information, calls)


def _mean(_: str, __: str, replies: Replies) -> float:
    return total_of(replies[0]) / len(replies[0].logprobs)


def _gain(_: str, __: str, replies: Replies) -> float:
    given, alone = replies
    return (total_of(given) - total_of(alone)) / len(given.logprobs)


def _information(_: str, __: str, replies: Replies) -> float:
    surprisals = [-total_of(reply) for reply in replies]
    return math.log1p(math.fsum(math.sqrt(max(value, 0.0)) for value in surprisals) / 2)


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
