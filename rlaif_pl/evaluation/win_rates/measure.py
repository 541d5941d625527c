"""Every policy against every other, by every judge: win rates with intervals.

A win rate by the labeler whose labels trained one of the two is that teacher's opinion of its pupil;
such cells are marked. A policy may be the best of n responses of another, chosen by a reward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple, TypeVar

from rlaif_pl.evaluation.reward_accuracy import rewards_of
from rlaif_pl.evaluation.win_rate import Scores, Texts, WinRate, compare
from rlaif_pl.rl.generate import Responses
from rlaif_pl.statistics import Estimator, Interval, hypothesis_tests
from rlaif_pl.types import Labeler, Prompt, Reward

T = TypeVar("T")
COLUMNS = ("prompt", "group", "reference", "response")  # of files of samples, beside policies


@dataclass(frozen=True, slots=True)
class PolicyColumns:
    """What stands beside a policy's win rates."""

    texts: Texts  # its responses to each prompt
    words: Interval  # mean words of a response
    copied_4grams: Interval  # share of 4-grams copied from the prompt
    unfinished: float | None  # share of responses that met the length limit; None: not recorded
    kl: Interval | None = None  # KL from the SFT policy in nats a response; None where not measured
    rewards: Mapping[str, Interval] = field(default_factory=dict)  # means, by name of the reward


class MatrixCell(NamedTuple):
    """One policy against another by one judge."""

    judge: str  # name of the judge
    a: str  # the policy whose wins are counted
    b: str  # the other
    rate: WinRate  # the comparison
    is_taught: bool  # whether the judge trained one of the two
    p_adjusted: float  # p-value of "even", adjusted (Holm) for all pairs by this judge
    detectable: float  # smallest true distance from one half that this sample finds with 80 % power


@dataclass(frozen=True, slots=True)
class WinMatrix:
    """All comparisons."""

    policies: Mapping[str, PolicyColumns]  # by name, in the order given
    judges: Mapping[str, Sequence[str]]  # names of the judges with the policies each taught
    cells: Sequence[MatrixCell]  # one a judge and unordered pair, the earlier policy first
    prompts: int  # prompts responded to

    def win_rate(self, judge: str, a: str, b: str, at_equal_length: bool = False) -> Interval:
        """Return how often ``a`` beats ``b``; the reverse is one less. ``KeyError``: not compared."""
        for cell in self.cells:
            if cell.judge == judge and {cell.a, cell.b} == {a, b}:
                rate = cell.rate.length_controlled if at_equal_length else cell.rate.raw
                return rate if cell.a == a else complement(rate)
        raise KeyError(f"no comparison of {a} and {b} by {judge}")

    def mean_win_rate(self, judge: str, policy: str) -> float:
        """Return the mean of a policy's raw win rates against the others, in [0, 1]."""
        others = [name for name in self.policies if name != policy]
        return sum(self.win_rate(judge, policy, other).value for other in others) / len(others)


def complement(interval: Interval) -> Interval:
    """Return one less an interval of a share."""
    return Interval(1 - interval.value, 1 - interval.high, 1 - interval.low, interval.n)


def measure_matrix(
    prompts: Sequence[Prompt],
    policies: Mapping[str, PolicyColumns],
    judges: Mapping[str, Labeler],
    taught: Mapping[str, Sequence[str]],
    *,
    estimator: Estimator = Estimator(),
) -> WinMatrix:
    """Judge every two policies by every judge. ``ValueError``: too few of them, or unknown names."""
    _check(policies, judges, taught)
    texts, groups = [p.text for p in prompts], [p.group for p in prompts]
    cells: list[MatrixCell] = []
    for name, judge in judges.items():
        scores: Scores = {}  # each response is scored once
        found = []
        for a, b in combinations(policies, 2):
            both = policies[a].texts, policies[b].texts
            rate = compare(texts, *both, judge, groups, estimator=estimator, scores=scores)
            found.append((a, b, rate))
        cells += judge_cells(name, found, taught.get(name, ()))
    by_judge = {name: tuple(taught.get(name, ())) for name in judges}
    return WinMatrix(policies, by_judge, cells, len(prompts))


def judge_cells(
    judge: str, rates: Sequence[tuple[str, str, WinRate]], pupils: Collection[str] = ()
) -> list[MatrixCell]:
    """Put one judge's comparisons into cells, with p-values adjusted for their number."""
    adjusted = hypothesis_tests.holm(
        [hypothesis_tests.two_sided_p_value(row[2].raw, 0.5) for row in rates]
    )
    errors = [hypothesis_tests.standard_error_at_half(row[2].raw) for row in rates]
    least = map(hypothesis_tests.minimum_detectable_effect, errors)
    return [
        MatrixCell(judge, a, b, rate, not {a, b}.isdisjoint(pupils), p, effect)
        for (a, b, rate), p, effect in zip(rates, adjusted, least, strict=True)
    ]


def _check(
    policies: Collection[str], judges: Collection[str], taught: Mapping[str, Sequence[str]]
) -> None:
    if len(policies) < 2 or not judges:
        raise ValueError(
            f"expected at least two policies and one judge, got {list(policies)} and {list(judges)}"
        )
    for judge, pupils in taught.items():
        unknown = [name for name in pupils if name not in policies]
        if judge not in judges or unknown:
            raise ValueError(
                f"expected taught to name judges among {list(judges)} and policies among "
                f"{list(policies)}, got {judge}: {list(pupils)}"
            )


@dataclass(frozen=True)
class MatrixJudges:
    """The judges of ``evaluate matrix``.

    Attributes:
        labelers: Labelers by name.
        rewards: Rewards by name: each is a column beside the policies, and a judge.
        taught: Policies that a labeler's labels (or a reward) trained, by its name: they are marked.
        independent: Also ask a judge that trained nothing here (sentence embeddings): ``embedding``.
        rouge: Also judge by ROUGE-L where every prompt has a reference, some with a word: ``rouge_l``.
    """

    labelers: dict[str, Labeler | str] | None = None
    rewards: dict[str, Reward] | None = None
    taught: dict[str, list[str]] | None = None
    independent: bool = True
    rouge: bool = True

    def __post_init__(self) -> None:
        names = [*(self.labelers or {}), *(self.rewards or {})]
        names += ["embedding"] * self.independent + ["rouge_l"] * self.rouge
        shared = [name for name, count in Counter(names).items() if count > 1]
        if shared:
            raise ValueError(
                f"expected a name of its own for each judge, got two called {', '.join(shared)}; "
                "embedding and rouge_l are those of independent and rouge"
            )


@dataclass(frozen=True)
class BestOf:
    """One more policy of ``evaluate matrix``: the best of ``n`` responses of another.

    Attributes:
        policy: Name of the policy that responds.
        reward: Name of the reward, among those of the judges, that chooses.
        n: Responses that it chooses from, at least 2.
    """

    policy: str
    reward: str
    n: int = 4

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ValueError(f"expected n of at least 2 for the best of n, got {self.n}")


def check_policies(
    policies: Collection[str], best_of: Mapping[str, BestOf], rewards: Collection[str]
) -> None:
    """Check names before anything is sampled. ``ValueError``: one is taken, or nothing bears it."""
    taken = [name for name in COLUMNS if name in policies or name in best_of]
    if taken:
        raise ValueError(
            f"expected another name of a policy than {', '.join(taken)}, which is a column of "
            "samples.jsonl or of what `rate` reads"
        )
    for name, rule in best_of.items():
        if name in policies:
            raise ValueError(f"expected another name than a policy's in best_of, got {name!r}")
        if rule.policy not in policies or rule.reward not in rewards:
            raise ValueError(
                f"expected best_of.{name} to name a policy among {list(policies)} and a reward among "
                f"{list(rewards)} (judges.rewards), got {rule.policy!r} and {rule.reward!r}"
            )


def choose_best(
    prompts: Sequence[Prompt], responses: Responses, reward: Reward, n: int
) -> Responses:
    """Keep of every ``n`` responses to a prompt the one of the highest reward, the first of equals."""
    rewards = rewards_of(prompts, responses.texts, reward).reshape(len(prompts), -1, n)
    best = rewards.argmax(-1) + list(range(0, rewards[0].size, n))

    def kept(part: list[list[T]]) -> list[list[T]]:
        return [[row[k] for k in places] for row, places in zip(part, best, strict=True)]

    return Responses(kept(responses.texts), kept(responses.unfinished), kept(responses.tokens))
