"""What a report shows: a run, its stages and what they measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlaif_pl.reporting.alarms import Alarms
from rlaif_pl.reporting.rest_steps import RestStep
from rlaif_pl.reporting.results import Results
from rlaif_pl.statistics.calibration import ReliabilityBin

EVALUATION = "evaluate"  # the stage whose word counts most


@dataclass(frozen=True, slots=True)
class ShownSample:
    """Responses of both policies to one prompt.

    Attributes:
        prompt: The prompt.
        reference: A person's response; None where there is none.
        sft: Responses before reinforcement learning.
        policy: Responses after it.
        reward_sft: Rewards of ``sft``.
        reward_policy: Rewards of ``policy``.
    """

    prompt: str
    reference: str | None
    sft: list[str]
    policy: list[str]
    reward_sft: list[float]
    reward_policy: list[float]

    def __post_init__(self) -> None:
        """Refuse a sample whose parts do not belong together."""
        if not self.sft or not self.policy:
            raise ValueError("expected at least one response of both policies, got none")
        if len(self.sft) != len(self.reward_sft) or len(self.policy) != len(self.reward_policy):
            raise ValueError("expected one reward a response")


@dataclass(frozen=True, slots=True)
class ShownWinRate:
    """Share of comparisons one side won.

    Attributes:
        name: What was compared, for example ``policy_vs_sft``.
        judge: Who judged.
        value: The share, in [0, 1].
        low: Lower confidence limit; None where there is none.
        high: Upper confidence limit.
        n: Prompts.
        stage: The stage that measured it, where it is not the first that has win rates.
    """

    name: str
    judge: str
    value: float
    low: float | None
    high: float | None
    n: int
    stage: str = ""


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage of the run.

    Attributes:
        name: Name of its folder.
        is_finished: False where only ``started.json`` is there.
        seconds: Seconds it took; None where not known.
        attempts: How often it was started.
        time: When it ended (or started), seconds since 1970.
        command: What ran.
        config: Text of its config.
        facts: Facts of its run.
        history: Points ``(step, value)`` by metric.
        metrics: Its own numbers; what is not finite is left out.
        alarms: Reward hacking alarms; None where none went off.
        rest: Steps of ReST.
        results: Tables and plot; None where it left none.
    """

    name: str
    is_finished: bool
    seconds: float | None
    attempts: int
    time: float
    command: str
    config: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    history: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    alarms: Alarms | None = None
    rest: Sequence[RestStep] = ()
    results: Results | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """Everything a report shows.

    Attributes:
        name: Name of the run folder.
        metrics: Flat numbers by bare name; what is not finite is left out.
        stages: Stages in the order they ended.
        samples: Samples of the evaluation.
        win_rates: Win rates of all stages, those of the first that has some in front.
        reliability: Reliability of the reward model.
        problems: Files that are there and could not be read, and why.
        order_gaps: Labeled pairs by the gap between the two orders, in bins of equal width over
            [0, 1]; none where the labeler has no orders.
        by_stage: The same numbers, where stages measured different values once a stage, as
            ``stage:name``.
    """

    name: str
    metrics: Mapping[str, float]
    stages: Sequence[StageRecord]
    samples: Sequence[ShownSample]
    win_rates: Sequence[ShownWinRate]
    reliability: Sequence[ReliabilityBin]
    problems: Sequence[str]
    order_gaps: Sequence[int] = ()
    by_stage: Mapping[str, float] = field(default_factory=dict)

    def preferred(self) -> list[StageRecord]:
        """Return finished stages, those whose word counts most first."""
        return preferred([stage for stage in self.stages if stage.is_finished])


def preferred(stages: Sequence[StageRecord]) -> list[StageRecord]:
    """Put ``evaluate`` first, then the latest."""
    latest = list(reversed(stages))
    return sorted(latest, key=lambda stage: stage.name != EVALUATION)
