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
LOW_MASS = "low_option_mass"  # failure of a choice whose options are too unlikely
MISSING = "missing_logprob"  # failure of a choice with an option whose probability was not reported


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
    is_known = 0 < len(known) == len(logprobs)  # else it is a failure of another kind
    return is_known and math.fsum(map(math.exp, known)) < least


def read_choice(reply: Response) -> tuple[str | None, float | None]:
    """Say why the reply to a choice cannot be used, and how likely none of its options is, in [0, 1].

    None for the first where it can be used, None for the second where it is not known.
    """
    known = [value for value in reply.logprobs if value is not None]
    failure = reply.failure
    if failure is None and not 0 < len(known) == len(reply.logprobs):
        failure = MISSING
    elif failure is None and not all(map(math.isfinite, known)):
        failure = "nonfinite"
    is_known = known and failure in (None, LOW_MASS)
    return failure, off_option_mass(known) if is_known else None


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
        f"a choice between {', '.join(map(repr, call.options))} is no answer "
        f"({LOW_MASS if is_complete else MISSING}): {off_option_mass(known):.2%} of the probability "
        f"lies outside the verdict tokens (allowed: {1 - least:.2%}). After "
        f"{call.question.assistant_prefix[-40:]!r} the model would write "
        f"{repr(token) if token else 'something else'}: {hint}; verdict.min_option_mass in the "
        "labeler's init_args moves the threshold"
    )
