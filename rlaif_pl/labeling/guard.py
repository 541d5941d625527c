"""What a reply must be before a strategy may read it: an answer, not thoughts or noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rlaif_pl.labeling.calls import Call, ChoiceRequest, GenerateRequest, Response
from rlaif_pl.labeling.thinking import UNCLOSED, answer_of

MIN_OPTION_MASS = 0.005
"""Least probability of all options together. Below it, a model that was to name an option writes
something else at least 199 times in 200 (an opened thought, "Sure"), and which of two such
numbers is larger says nothing. Small models that do answer give 0.01 to 0.9."""
LOW_MASS = "low_option_mass"
"""Failure of a choice whose options are too unlikely."""
MISSING = "missing_logprob"
"""Failure of a choice with an option whose probability was not reported."""


def off_option_mass(logprobs: Iterable[float | None]) -> float:
    """Probability of all answers but these options, in [0, 1]; what is not reported counts as 0."""
    inside = math.fsum(math.exp(value) for value in logprobs if value is not None)
    return min(max(1.0 - inside, 0.0), 1.0)


def readable(call: Call, reply: Response, min_option_mass: float) -> Response:
    """Return a reply as a strategy may read it.

    Text loses its thoughts (``unclosed_thought`` where it ends inside of them). A choice whose
    options are all reported and together less likely than ``min_option_mass`` is no answer
    (``low_option_mass``; its log-probabilities stay).
    """
    if reply.failure is not None:
        return reply
    if isinstance(call, GenerateRequest):
        text = answer_of(reply.text)
        if text is None:
            return replace(reply, text="", failure=UNCLOSED)
        return reply if text == reply.text else replace(reply, text=text)
    if isinstance(call, ChoiceRequest) and is_unlikely(reply.logprobs, min_option_mass):
        return replace(reply, failure=LOW_MASS)
    return reply


def is_unlikely(logprobs: Sequence[float | None], least: float) -> bool:
    """Whether options, all of them reported, have less than this probability together."""
    known = [value for value in logprobs if value is not None and math.isfinite(value)]
    if not known or len(known) < len(logprobs):
        return False  # a failure of another kind
    return math.fsum(map(math.exp, known)) < least


def low_mass_warning(call: Call, reply: Response, least: float) -> str | None:
    """Say that a choice is no answer, what the model writes instead and what to do; None where it is.

    Options that were not reported count as impossible beside a token that was.
    """
    if not isinstance(call, ChoiceRequest) or reply.failure is not None:
        return None
    token = reply.text
    known = [value for value in reply.logprobs if value is not None]
    is_complete = 0 < len(known) == len(reply.logprobs)
    is_low = math.fsum(map(math.exp, known)) < least  # false where a value is no number
    if not (is_low and (is_complete or token)):
        return None
    kind = LOW_MASS if is_complete else MISSING
    if "<" in token or "think" in token.lower():
        hint = (
            "it thinks first: switch that off, in the back end of a server by extra_body: "
            "{chat_template_kwargs: {enable_thinking: false}} or what the server has for it"
        )
    else:
        hint = (
            "set chat_template: true for a chat model, show examples (shots), switch thoughts off, or "
            "set chat_assistant_prefix: user where a server begins anew in place of going on with the "
            "opening (some proxies drop continue_final_message)"
        )
    return (
        f"a choice between {', '.join(map(repr, call.options))} is no answer ({kind}): "
        f"{off_option_mass(known):.2%} of the probability lies outside the verdict tokens (allowed: "
        f"{1 - least:.2%}). After {call.question.assistant_prefix[-40:]!r} the model would write "
        f"{repr(token) if token else 'something else'}: {hint}; verdict.min_option_mass in the "
        "labeler's init_args moves the threshold"
    )
