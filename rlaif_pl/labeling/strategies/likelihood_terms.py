"""Summands of a likelihood labeler's score: what the model is asked, and what is made of it.

What each is worth on real pairs, alone and together, is in docs/likelihood.md.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from rlaif_pl.labeling.calls import LoglikelihoodRequest, Response
from rlaif_pl.text import WORD, filled, mark_data, refuse_spelled_breaks, title_of

TEMPLATE = "TL;DR: {response}\n\nPOST: {prompt}"
VERSION = "reconstruction-1"  # raise with TEMPLATE
CONDITION = "POST: {prompt}\n\nTL;DR:"
NO_CONDITION = "TL;DR:"
LIKELIHOOD_VERSION = "likelihood-1"  # raise with CONDITION
PMI_VERSION = "pmi-1"  # raise with the two above
SHARED_VERSION = "shared-words-1"  # raise with anything that changes the value
LENGTH_VERSION = "length-1"

INFORMATION_VERSION = "shared-information-1"

Kind: TypeAlias = Literal[
    "reconstruction",
    "likelihood",
    "pmi",
    "shared_information",
    "shared_words",
    "title_words",
    "length",
]


class Term(Protocol):
    """One summand of a score."""

    @property
    def version(self) -> str:
        """Name with version, and with every setting that can change a value."""

    def calls(self, prompt: str, response: str) -> list[LoglikelihoodRequest]:
        """Return what the model is asked, if anything."""

    def value(self, prompt: str, response: str, replies: Sequence[Response]) -> float:
        """Return the summand of the texts and the calls' replies, none of which failed."""


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
        """Refuse a term that would do nothing or turn every score into no number.

        Raises:
            ValueError: The weight is 0 or not finite.
        """
        if not math.isfinite(self.weight) or self.weight == 0:
            raise ValueError(
                f"expected a finite weight other than 0 for {self.kind!r}, got {self.weight}; "
                "leave the term out instead"
            )


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """``log P(prompt | response)``, per token or summed up.

    Context and prompt are tokenized apart (the prompt with the white space before it) and joined,
    so both responses of a pair are scored on exactly the same tokens of the prompt.
    """

    template: str = TEMPLATE  # text with `{response}` and, at its end, `{prompt}`
    normalize: str = "token"  # `token` or `sum`

    @property
    def version(self) -> str:
        """See ``Term``; a template of the user's own is named by its hash."""
        version = VERSION
        if self.template != TEMPLATE:
            version = "custom-" + hashlib.sha256(self.template.encode()).hexdigest()[:12]
        return version if self.normalize == "token" else f"{version}-{self.normalize}"

    def calls(self, prompt: str, response: str) -> list[LoglikelihoodRequest]:
        """See ``Term``."""
        context, target = split_template(self.template)
        context = filled(context.replace("{response}", mark_data(response)))
        scored = filled(target.replace("{prompt}", mark_data(prompt)))
        return [LoglikelihoodRequest(context, scored if prompt else "")]

    def value(self, prompt: str, response: str, replies: Sequence[Response]) -> float:  # noqa: ARG002
        """See ``Term``."""
        total = total_of(replies[0])
        return total / len(replies[0].logprobs) if self.normalize == "token" else total


@dataclass(frozen=True, slots=True)
class Likelihood:
    """``log P(response | prompt)`` per token of the response.

    Says how well a response follows from its prompt, grammar and facts alike; by itself it favors
    what is short, vague or copied, which the reconstruction does not. Together they are the two
    directions of a noisy channel.
    """

    @property
    def version(self) -> str:
        """See ``Term``."""
        return LIKELIHOOD_VERSION

    def calls(self, prompt: str, response: str) -> list[LoglikelihoodRequest]:
        """See ``Term``."""
        return [_given(prompt, response)]

    def value(self, prompt: str, response: str, replies: Sequence[Response]) -> float:  # noqa: ARG002
        """See ``Term``."""
        return total_of(replies[0]) / len(replies[0].logprobs)


@dataclass(frozen=True, slots=True)
class Pmi:
    """``(log P(response | prompt) - log P(response)) / tokens of the response``.

    A garbled response that names the right words is likely to be found out by it.
    """

    @property
    def version(self) -> str:
        """See ``Term``."""
        return PMI_VERSION

    def calls(self, prompt: str, response: str) -> list[LoglikelihoodRequest]:
        """See ``Term``."""
        given = _given(prompt, response)
        return [given, LoglikelihoodRequest(NO_CONDITION, given.target)]

    def value(self, prompt: str, response: str, replies: Sequence[Response]) -> float:  # noqa: ARG002
        """See ``Term``."""
        given, alone = replies
        return (total_of(given) - total_of(alone)) / len(given.logprobs)


@dataclass(frozen=True, slots=True)
class SharedWords:
    """Log of the characters of the different words that a response shares with its prompt.

    A crude stand-in for reconstruction that needs no model: long words say more than short ones,
    said twice they say no more, and words the prompt lacks say nothing of it. A response that
    copies the whole prompt has the highest value, so do not train on it alone without a limit on
    the response's length.
    """

    # compare with the prompt's title alone; a prompt without one gives 0 to all
    only_title: bool = False
    # characters added before the logarithm, above 0: how little the first word counts
    offset: float = 1.0

    @property
    def version(self) -> str:
        """See ``Term``."""
        return f"{SHARED_VERSION}{'-title' if self.only_title else ''}-{self.offset:g}"

    def calls(self, prompt: str, response: str) -> list[LoglikelihoodRequest]:  # noqa: ARG002
        """See ``Term``; none."""
        return []

    def value(self, prompt: str, response: str, replies: Sequence[Response]) -> float:  # noqa: ARG002
        """See ``Term``; no reply is needed."""
        source = title_of(prompt) if self.only_title else prompt
        shared = word_set(source or "") & word_set(response)
        return math.log(self.offset + sum(map(len, shared))) - math.log(self.offset)


@dataclass(frozen=True, slots=True)
class SharedInformation:
    """How much a response tells of its prompt: ``log(1 + sum of sqrt(-log P(word)) / 2)``.

    The sum runs over the different words of the response that the prompt has, each read where it
    first occurs, after the response's own beginning and without the prompt. A word that any response
    would have there tells little; the square root keeps one name from outweighing a sentence. The
    model never reads the prompt, so long prompts cost no more than short ones.
    """

    @property
    def version(self) -> str:
        """See ``Term``."""
        return INFORMATION_VERSION

    def calls(self, prompt: str, response: str) -> list[LoglikelihoodRequest]:
        """See ``Term``; one for each shared word."""
        known, text = word_set(prompt), f" {response}"
        calls = []
        for match in WORD.finditer(text):
            word = match[0].lower()
            if word in known:
                known -= {word}
                start = len(text[: match.start()].rstrip())
                calls.append(
                    LoglikelihoodRequest(NO_CONDITION + text[:start], text[start : match.end()])
                )
        return calls

    def value(self, prompt: str, response: str, replies: Sequence[Response]) -> float:  # noqa: ARG002
        """See ``Term``."""
        surprisals = [-total_of(reply) for reply in replies]
        return math.log1p(math.fsum(math.sqrt(max(value, 0.0)) for value in surprisals) / 2)


@dataclass(frozen=True, slots=True)
class Length:
    """Log of the response's characters: control of length, by a weight of either sign."""

    @property
    def version(self) -> str:
        """See ``Term``."""
        return LENGTH_VERSION

    def calls(self, prompt: str, response: str) -> list[LoglikelihoodRequest]:  # noqa: ARG002
        """See ``Term``; none."""
        return []

    def value(self, prompt: str, response: str, replies: Sequence[Response]) -> float:  # noqa: ARG002
        """See ``Term``; no reply is needed."""
        return math.log(1 + len(response))


def build_term(kind: Kind, template: str, normalize: str) -> Term:
    """Return the term of a kind."""
    terms: dict[str, Term] = {
        "reconstruction": Reconstruction(template, normalize),
        "likelihood": Likelihood(),
        "pmi": Pmi(),
        "shared_information": SharedInformation(),
        "shared_words": SharedWords(),
        "title_words": SharedWords(only_title=True, offset=5.0),
        "length": Length(),
    }
    if kind not in terms:
        raise ValueError(f"expected a kind of term among {sorted(terms)}, got {kind!r}")
    return terms[kind]


def _given(prompt: str, response: str) -> LoglikelihoodRequest:
    """Ask for the response after its prompt."""
    target = f" {response}" if response else ""
    return LoglikelihoodRequest(CONDITION.replace("{prompt}", prompt), target)


def word_set(text: str) -> frozenset[str]:
    """Different words of a text, in lower case."""
    return frozenset(WORD.findall(text.lower()))


def total_of(reply: Response) -> float:
    """Log-probability of a whole target in nats; nan where the server left a token out."""
    return math.fsum(math.nan if value is None else value for value in reply.logprobs)


def split_template(template: str) -> tuple[str, str]:
    """Cut a template into the context and the scored part, white space going to the latter.

    Raises:
        ValueError: A field is missing or repeated, ``{prompt}`` is not last, or a line break spelled.
    """
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
