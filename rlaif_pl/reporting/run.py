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
    """Responses of both policies to one prompt."""

    prompt: str  # the prompt
    reference: str | None  # a person's response; None where there is none
    sft: list[str]  # responses before reinforcement learning
    policy: list[str]  # responses after it
    reward_sft: list[float]  # rewards of `sft`
    reward_policy: list[float]  # rewards of `policy`

    def __post_init__(self) -> None:
        """Refuse a sample whose parts do not belong together."""
        if not self.sft or not self.policy:
            raise ValueError("expected at least one response of both policies, got none")
        if len(self.sft) != len(self.reward_sft) or len(self.policy) != len(self.reward_policy):
            raise ValueError("expected one reward a response")


@dataclass(frozen=True, slots=True)
class ShownWinRate:
    """Share of comparisons one side won."""

    name: str  # what was compared, for example `policy_vs_sft`
    judge: str  # who judged
    value: float  # the share, in [0, 1]
    low: float | None  # lower confidence limit; None where there is none
    high: float | None  # upper confidence limit
    n: int  # prompts
    stage: str = ""  # the stage that measured it, where it is not the first that has win rates


@dataclass(frozen=True, slots=True)
class ReportStage:
    """One stage of the run."""

    name: str  # name of its folder
    is_finished: bool  # false where only `started.json` is there
    seconds: float | None  # seconds it took; None where not known
    attempts: int  # how often it was started
    time: float  # when it ended (or started), seconds since 1970
    command: str  # what ran
    config: str = ""  # text of its config
    facts: Mapping[str, object] = field(default_factory=dict)  # facts of its run
    # points `(step, value)` by metric
    history: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)
    # its own numbers; what is not finite is left out
    metrics: Mapping[str, float] = field(default_factory=dict)
    alarms: Alarms | None = None  # reward hacking alarms; None where none went off
    rest: Sequence[RestStep] = ()  # steps of ReST
    results: Results | None = None  # tables and plot; None where it left none


@dataclass(frozen=True, slots=True)
class Run:
    """Everything a report shows."""

    name: str  # name of the run folder
    metrics: Mapping[str, float]  # flat numbers by bare name; what is not finite is left out
    stages: Sequence[ReportStage]  # stages in the order they ended
    samples: Sequence[ShownSample]  # samples of the evaluation
    # win rates of all stages, those of the first that has some in front
    win_rates: Sequence[ShownWinRate]
    reliability: Sequence[ReliabilityBin]  # reliability of the reward model
    problems: Sequence[str]  # files that are there and could not be read, and why
    # labeled pairs by the gap between the two orders, in bins of equal width over [0, 1]; none where
    # the labeler has no orders
    order_gaps: Sequence[int] = ()
    # the same numbers, where stages measured different values once a stage, as `stage:name`
    by_stage: Mapping[str, float] = field(default_factory=dict)

    def preferred(self) -> list[ReportStage]:
        """Return finished stages, those whose word counts most first."""
        return preferred([stage for stage in self.stages if stage.is_finished])


def preferred(stages: Sequence[ReportStage]) -> list[ReportStage]:
    """Put ``evaluate`` first, then the latest."""
    latest = list(reversed(stages))
    return sorted(latest, key=lambda stage: stage.name != EVALUATION)
