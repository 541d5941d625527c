"""From a reply that may be read, by a judgment, to a labeled preference; the same for every labeler."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from rlaif_pl.labeling.calls import Call, ChoiceRequest, GenerateRequest, Response
from rlaif_pl.labeling.thinking import UNCLOSED, answer_of
from rlaif_pl.types import Preference, Provenance

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

    Text loses its thoughts (``unclosed_thought`` where it ends inside of them). A choice whose options
    are all reported and less likely than ``min_option_mass`` together is no answer
    (``low_option_mass``).
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
    """Say why a reply to a choice cannot be used, if so, and the mass outside its options, if known."""
    known = [value for value in reply.logprobs if value is not None]
    failure = reply.failure
    if failure is None and not 0 < len(known) == len(reply.logprobs):
        failure = MISSING
    elif failure is None and not all(map(math.isfinite, known)):
        failure = "nonfinite"
    is_known = known and failure in (None, LOW_MASS)
    return failure, off_option_mass(known) if is_known else None


def low_mass_warning(call: Call, reply: Response, least: float) -> str | None:
    """Say that a choice is no answer, what the model writes instead and what to do; None if it is."""
    if not isinstance(call, ChoiceRequest) or reply.failure is not None:
        return None
    token = reply.text
    known = [value for value in reply.logprobs if value is not None]
    is_complete = 0 < len(known) == len(reply.logprobs)
    # options not reported count as impossible beside a token that was; false for what is no number
    is_low = math.fsum(map(math.exp, known)) < least
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


@dataclass(frozen=True, slots=True)
class Judgment:
    """What a labeler found out about one pair; all but ``p_first`` are fields of ``Provenance``."""

    margin: float  # log-odds of the first response in nats; nan without a label, or with `p_first`
    tokens: int = 0
    position_gap: float | None = None
    same_slot: bool | None = None
    off_option_mass: float | None = None
    failure: str | None = None  # why there is no label, where that is known beforehand
    slot: int | None = None
    cost_usd: float = 0.0
    ensemble_spread: float | None = None
    # the label where it does not follow from the margin (decoded verdicts, counted rankings)
    p_first: float | None = None
    written: int = 0
    tie_mass: float | None = None


def spent_on(parts: Iterable[Response | Judgment | Provenance]) -> dict[str, Any]:
    """Return what parts took together, as fields of a judgment; the same in whatever order."""
    known = list(parts)
    return {
        "tokens": sum(each.tokens for each in known),
        "written": sum(each.written for each in known),
        "cost_usd": math.fsum(each.cost_usd for each in known),
    }


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of what is known, the same in whatever order it comes; None where nothing is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


OF_LABELS = ("margin", "position_gap", "slot", "same_slot", "tie_mass", "ensemble_spread")
"""What says nothing where there is no label; ``off_option_mass`` may be why there is none."""


@dataclass(frozen=True, slots=True)
class LabelerInfo:
    """Who judged and how, as written into each label."""

    labeler: str  # fingerprint of the model
    strategy: str  # `likelihood`, `pairwise`, `free_form`, ...
    prompt_version: str  # version of the template with the settings that change a label


Clamp: TypeAlias = tuple[float, float] | None
"""Least and greatest probability of a label; None leaves labels as they are."""


def labeled(
    pair: Preference,
    judgment: Judgment,
    signature: LabelerInfo,
    temperature: float,
    hard: bool = False,
    clamp: Clamp = None,
) -> Preference:
    """Write a judgment into a pair.

    ``p_first`` is ``sigmoid(margin / temperature)``; with ``hard`` 1 or 0 for the likelier side and 0.5
    for a tie; in either case within ``clamp``.
    """
    found = asdict(judgment)
    p_first, margin = found.pop("p_first"), judgment.margin
    if not math.isfinite(margin):
        found["margin"] = None
    elif p_first is None or hard or clamp is not None:
        p_first = one_hot(margin) if hard else sigmoid(margin / temperature)
        if clamp is not None:
            p_first = min(max(p_first, clamp[0]), clamp[1])
    if judgment.failure is not None or p_first is None:
        p_first = None
        found |= dict.fromkeys(OF_LABELS) | {"failure": judgment.failure or "nonfinite"}
    provenance = replace(pair.provenance, confidence=None, **asdict(signature), **found)
    source: Literal["ai"] | None = None if p_first is None else "ai"
    return replace(pair, p_first=p_first, source=source, provenance=provenance)


def sigmoid(x: float) -> float:
    """Logistic function without overflow, in [0, 1]."""
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    return math.exp(x) / (1.0 + math.exp(x))


def one_hot(margin: float) -> float:
    """Label of the side a margin favors: 1, 0, or 0.5 for none."""
    return 0.5 if margin == 0 else float(margin > 0)


def checked_temperature(temperature: float) -> float:
    """Refuse a temperature that would divide by zero or turn labels around."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be a finite number above 0, got {temperature}")
    return temperature


def label_version(hard: bool, clamp: Clamp) -> str:
    """Name what ``hard`` and ``clamp`` do, for a version string."""
    return "+hard" * hard + ("" if clamp is None else f"+clamp={clamp[0]!r}:{clamp[1]!r}")


@dataclass(frozen=True)
class VerdictOptions:
    """How a verdict is read.

    Attributes:
        hard: One-hot labels: 1 or 0 for the likelier side, or for the response with the higher score.
        clamp: Limits ``(x, 1 - x)`` of the label, such as (0.4, 0.6); None leaves it as it is. ``auto``
            is (0.4, 0.6) for ``ConstitutionLabeler`` with ``cot`` and none otherwise.
        min_option_mass: Least probability of the options together, in [0, 1); what has less gives no
            label (``low_option_mass``).
    """

    hard: bool = False
    clamp: tuple[float, float] | Literal["auto"] | None = "auto"
    min_option_mass: float = MIN_OPTION_MASS

    def __post_init__(self) -> None:
        least = self.min_option_mass
        if not 0.0 <= least < 1.0:
            raise ValueError(
                f"expected min_option_mass in [0, 1), got {least}; 0 takes every answer"
            )
        self.limits()

    def limits(self, auto: Clamp = None) -> Clamp:
        """Return the limits of the label, which favor no side; ``auto`` are those of the strategy."""
        clamp = auto if self.clamp == "auto" else self.clamp
        if clamp is None:
            return None
        low, high = clamp
        if not (0.0 <= low <= 0.5 and math.isclose(low + high, 1.0, abs_tol=1e-12)):
            raise ValueError(
                f"expected clamp to be (x, 1 - x) with x in [0, 0.5], such as (0.4, 0.6), got {clamp}; "
                "other limits would label a pair differently when its responses are swapped"
            )
        return (low, 1.0 - low)
