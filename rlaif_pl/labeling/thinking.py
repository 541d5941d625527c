"""Thoughts before a verdict: two calls in place of one, whatever the strategy.

The thoughts are written first and kept like every reply. Then they are closed, the answer is begun for
the model, and its options' probabilities are read: a soft label, which no sampled verdict behind the
thoughts would give. Nothing ever looks for a verdict in the thoughts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlaif_pl.labeling.calls import Ask, Call, ChoiceRequest, Decoding, Response, ThinkRequest


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
        top_k, seed = (self.top_k, self.seed) if self.temperature else (0, 0)
        return Decoding(self.max_tokens, self.temperature, top_k, (), seed)

    @property
    def version(self) -> str:
        """What of this can change a label, in short."""
        decoding = self.decoding
        return (
            f"thinking={decoding.max_tokens},T={decoding.temperature!r},k={decoding.top_k},"
            f"seed={decoding.seed}"
        )


def checked_thinking(thinking: Thinking | None, chat: bool, cot: bool = False) -> Thinking | None:
    """Return thoughts. ``ValueError``: questions are plain text, or a rationale is asked for, too."""
    if thinking is not None and not chat:
        raise ValueError(
            "expected chat_template: true with thinking, got false: only a chat template knows where "
            "thoughts begin and end; set it, or take cot: true for a rationale in plain text"
        )
    if thinking is not None and cot:
        raise ValueError(
            "expected cot: false with thinking, got true: the thoughts are the rationale; leave one out"
        )
    return thinking


def thoughtful(ask: Ask, thinking: Thinking | None) -> Ask:
    """Return what answers calls with thoughts before each choice.

    A reply to a choice counts the tokens and the money of both its calls.
    """
    if thinking is None:
        return ask
    decoding = thinking.decoding

    def answer(calls: Sequence[Call]) -> list[Response]:
        choices = {n: call for n, call in enumerate(calls) if isinstance(call, ChoiceRequest)}
        asked = [ThinkRequest(call.question, decoding) for call in choices.values()]
        thoughts = dict(zip(choices, ask(asked), strict=True))
        final = {
            n: _informed(call, thoughts.get(n))
            for n, call in enumerate(calls)
            if n not in thoughts or thoughts[n].failure is None
        }
        replies = dict(zip(final, ask(list(final.values())), strict=True))
        return [_together(thoughts.get(n), replies.get(n)) for n in range(len(calls))]

    return answer


def _informed(call: Call, thoughts: Response | None) -> Call:
    if thoughts is None or not isinstance(call, ChoiceRequest):
        return call
    return replace(call, question=replace(call.question, thoughts=thoughts.text))


def _together(thoughts: Response | None, reply: Response | None) -> Response:
    """Return the reply to a choice with what its thoughts took, or why there is none."""
    if thoughts is None:
        assert reply is not None
        return reply
    if reply is None:
        return replace(thoughts, text="")
    return replace(
        reply,
        read=thoughts.read + reply.read,
        written=thoughts.written + reply.written,
        cost_usd=math.fsum([thoughts.cost_usd, reply.cost_usd]),
        seconds=thoughts.seconds + reply.seconds,
        attempts=thoughts.attempts + reply.attempts,
    )
