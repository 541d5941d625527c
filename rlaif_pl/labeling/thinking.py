"""Thoughts before a verdict: written, then closed, the answer begun and its options' odds read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlaif_pl.labeling.calls import Ask, Call, ChoiceRequest, Decoding, Response, ThinkRequest
from rlaif_pl.models.chat_format import MARK

UNCLOSED = "unclosed_thought"  # failure of a reply that ends inside its thoughts
# What stands around an answer that follows thoughts.
_WRAPPING = re.compile(
    r"<\s*/?\s*answer\s*>|<\|(?:begin|end)_of_solution\|>|<\|(?:START|END)_RESPONSE\|>"
    r"|<\|(?:return|end)\|>",
    re.IGNORECASE,
)


def answer_of(text: str) -> str | None:
    """Return a written text without its thoughts; None where it ends inside of them.

    What stands before a closing mark without an opening one is thought, too.
    """
    _, kept, is_open, is_marked = _split(text)
    if is_open:
        return None
    if not is_marked:
        return text
    parts = [part.strip() for part in kept]  # a thought stood on its own lines
    return _WRAPPING.sub("", " ".join(part for part in parts if part)).strip()


def thoughts_of(text: str, beside: str | None, is_cut: bool) -> tuple[str, bool]:
    """Return what a model thought, and whether it came to the end of it.

    Text without any mark holds no thoughts, but if the length limit cut it, it is taken for some that
    the chat template opened. ``beside`` are thoughts that came in a field of their own.
    """
    if beside is not None:
        return beside.strip(), bool(text.strip())
    found, _, is_open, is_marked = _split(text)
    if not is_marked:
        return (text.strip(), False) if is_cut else ("", True)
    thoughts = "\n".join(MARK.sub("", part).strip() for part in found)  # nested: marks go
    return thoughts.strip(), not is_open


def _split(text: str) -> tuple[list[str], list[str], bool, bool]:
    """Cut a text into what is thought and what is not; whether it ends in thoughts, has any mark."""
    thoughts: list[str] = []
    kept: list[str] = []
    start, is_open, is_marked = 0, False, False
    for mark in MARK.finditer(text):
        is_marked = True
        if mark["opens"]:
            if not is_open:
                kept.append(text[start : mark.start()])
                start, is_open = mark.end(), True
            continue
        if not is_open:  # the template opened it: everything so far is thought
            thoughts, kept, start = [], [], 0
        thoughts.append(text[start : mark.start()])
        start, is_open = mark.end(), False
    (thoughts if is_open else kept).append(text[start:])
    return thoughts, kept, is_open, is_marked


@dataclass(frozen=True, slots=True)
class Thinking:
    """How a model thinks before each verdict.

    Attributes:
        max_tokens: Budget of the thoughts, at least 1; thoughts that are longer are a failure
            (``unclosed_thought``), not a verdict.
        temperature: Of the drawing, at least 0. Makers of such models advise against 0, where thoughts
            may turn in circles.
        top_k: Thoughts are drawn from this many likeliest tokens; 0 takes all.
        seed: Seeds the drawing.
    """

    max_tokens: int = 2048
    temperature: float = 0.6
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        sane = math.isfinite(self.temperature) and self.temperature >= 0
        if self.max_tokens < 1 or self.top_k < 0 or not sane:
            raise ValueError(
                "expected thinking with max_tokens of at least 1, temperature and top_k of at least "
                f"0, got {self.max_tokens}, {self.temperature} and {self.top_k}"
            )

    @property
    def decoding(self) -> Decoding:
        """The same in a back end's terms."""
        return Decoding.drawn(self.max_tokens, self.temperature, self.top_k, self.seed)

    @property
    def version(self) -> str:
        """What of this can change a label, in short."""
        drawn = self.decoding
        settings = f"T={drawn.temperature!r},k={drawn.top_k},seed={drawn.seed}"
        return f"thinking={drawn.max_tokens},{settings}"


def thoughtful(ask: Ask, thinking: Thinking | None) -> Ask:
    """Return what answers calls, choices after thoughts; a reply counts what both its calls took."""
    if thinking is None:
        return ask
    decoding = thinking.decoding

    def answer(calls: Sequence[Call]) -> list[Response]:
        choices = {n: call for n, call in enumerate(calls) if isinstance(call, ChoiceRequest)}
        asked = [ThinkRequest(call.question, decoding) for call in choices.values()]
        thoughts = dict(zip(choices, ask(asked), strict=True))
        final: dict[int, Call] = {n: call for n, call in enumerate(calls) if n not in choices}
        for n, call in choices.items():
            if thoughts[n].failure is None:
                question = replace(call.question, thoughts=thoughts[n].text)
                final[n] = replace(call, question=question)
        replies = dict(zip(final, ask(list(final.values())), strict=True))
        for n, thought in thoughts.items():
            replies[n] = _together(thought, replies[n]) if n in final else replace(thought, text="")
        return [replies[n] for n in range(len(calls))]

    return answer


def _together(thoughts: Response, reply: Response) -> Response:
    """Return the reply to a choice with what its thoughts took."""
    names = ("read", "written", "cost_usd", "seconds", "attempts")
    return replace(
        reply, **{name: getattr(thoughts, name) + getattr(reply, name) for name in names}
    )
