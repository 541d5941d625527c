"""Every policy against every other, by every judge: win rates with intervals.

A win rate by the labeler whose labels trained one of the two is that teacher's opinion of its pupil;
such cells are marked. Judges that taught neither stand beside it. A policy may be the best of n
responses of another: a reward chooses, and nothing is trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from typing import TypeVar

from scipy.special import expit

from rlaif_pl.evaluation.pairs import Array
from rlaif_pl.evaluation.reward_accuracy import scored
from rlaif_pl.evaluation.win_rate import WinRate, compare
from rlaif_pl.rl.generate import Responses
from rlaif_pl.rl.reward_columns import columns_of
from rlaif_pl.statistics import (
    Estimator,
    Interval,
    holm,
    minimum_detectable_effect,
    standard_error_of,
    two_sided_p_value,
)
from rlaif_pl.types import Labeler, PointwiseLabeler, Preference, Prompt, Reward

Texts = Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False)
class RewardJudge:
    """A reward as a pointwise judge: the response with the higher reward wins."""

    reward: Reward
    name: str
    rows: Sequence[Prompt] = ()  # prompts, with the columns that the reward asks for

    @property
    def fingerprint(self) -> str:
        """Name of the judge; a reward has none of its own."""
        return f"reward:{self.name}"

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return the reward of each response."""
        known = {row.text: row for row in self.rows}
        columns = columns_of([known.get(text, Prompt(text, text)) for text in prompts])
        return [float(value) for value in scored(self.reward, prompts, responses, columns)]

    def label(self, pairs: Sequence[Preference]) -> list[Preference]:
        """Return the pairs with ``p_first = sigmoid(reward of first - reward of second)``."""
        prompts = [pair.prompt for pair in pairs for _ in range(2)]
        scores = self.score(prompts, [text for pair in pairs for text in (pair.first, pair.second)])
        return [
            replace(pair, p_first=float(expit(first - second)), source="ai")
            for pair, first, second in zip(pairs, scores[0::2], scores[1::2], strict=True)
        ]


class RememberedScores:
    """A pointwise judge that scores each response once, however many policies it is compared with."""

    def __init__(self, judge: PointwiseLabeler) -> None:
        self.judge = judge
        self.known: dict[tuple[str, str], float] = {}

    @property
    def fingerprint(self) -> str:
        """That of the judge."""
        return self.judge.fingerprint

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return scores, asking for new responses only."""
        keys = list(zip(prompts, responses, strict=True))
        new = [key for key in dict.fromkeys(keys) if key not in self.known]
        if new:
            scores = self.judge.score([p for p, _ in new], [r for _, r in new])
            self.known |= dict(zip(new, scores, strict=True))
        return [self.known[key] for key in keys]

    def label(self, pairs: Sequence[Preference]) -> list[Preference]:
        """Return the pairs labeled by the judge."""
        return self.judge.label(pairs)


@dataclass(frozen=True, slots=True)
class PolicyColumns:
    """What stands beside a policy's win rates."""

    texts: Texts  # its responses to each prompt
    words: Interval  # mean words of a response
    copied_4grams: Interval  # share of 4-grams copied from the prompt
    # share of responses that met the length limit; None where not recorded
    unfinished: float | None
    kl: Interval | None = None  # KL from the SFT policy in nats a response; None where not measured
    # mean reward by name of the reward
    rewards: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cell:
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

    # policies by name, in the order given, with what stands beside their wins
    policies: Mapping[str, PolicyColumns]
    judges: Mapping[str, Sequence[str]]  # names of the judges with the policies each taught
    cells: Sequence[Cell]  # one a judge and unordered pair, the earlier policy first
    prompts: int  # prompts responded to

    def win_rate(self, judge: str, a: str, b: str, at_equal_length: bool = False) -> Interval:
        """Return how often ``a`` beats ``b``; the reverse is one less it, so that ties are shared.

        At equal length the regression is of the earlier policy on the later one; the reverse is its
        complement here too.

        Raises:
            KeyError: There is no such comparison.
        """
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
    cells: list[Cell] = []
    for judge_name, judge in judges.items():
        asked = RememberedScores(judge) if isinstance(judge, PointwiseLabeler) else judge
        ask = partial(compare, judge=asked, groups=groups, estimator=estimator)
        found = [
            (a, b, ask(texts, policies[a].texts, policies[b].texts))
            for a, b in combinations(policies, 2)
        ]
        cells += judge_cells(judge_name, found, taught.get(judge_name, ()))
    by_judge = {name: tuple(taught.get(name, ())) for name in judges}
    return WinMatrix(policies, by_judge, cells, len(prompts))


def judge_cells(
    judge: str, rates: Sequence[tuple[str, str, WinRate]], pupils: Collection[str] = ()
) -> list[Cell]:
    """Put one judge's comparisons into cells, with p-values adjusted for their number."""
    adjusted = holm([two_sided_p_value(rate.raw, 0.5) for _, _, rate in rates])
    least = [minimum_detectable_effect(standard_error_of(rate.raw)) for _, _, rate in rates]
    return [
        Cell(judge, a, b, rate, not {a, b}.isdisjoint(pupils), p, effect)
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
        taught: Policies that a labeler's labels (or a reward) trained, by its name; their comparisons
            by it are marked.
        independent: Also ask a judge that trained nothing here (sentence embeddings): ``embedding``.
        rouge: Also judge by ROUGE-L where every prompt has a reference, and some
            reference a word: ``rouge_l``.
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


T = TypeVar("T")
COLUMNS = ("prompt", "group", "reference", "response")  # of files of samples, beside policies


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


def rewards_of(prompts: Sequence[Prompt], responses: Responses, reward: Reward) -> Array:
    """Reward of each response, prompts in order, ``(N,)``; see ``scored``."""
    asked = [p for p, texts in zip(prompts, responses.texts, strict=True) for _ in texts]
    flat = [text for texts in responses.texts for text in texts]
    return scored(reward, [prompt.text for prompt in asked], flat, columns_of(asked))


def choose_best(
    prompts: Sequence[Prompt], responses: Responses, reward: Reward, n: int
) -> Responses:
    """Keep of every ``n`` responses to a prompt the one with the highest reward, the first of equals.

    Args:
        prompts: ``P`` prompts.
        responses: ``k * n`` responses to each.
        reward: Who chooses.
        n: How many are chosen from.

    Returns:
        ``k`` responses to each prompt.
    """
    rewards = rewards_of(prompts, responses, reward).reshape(len(prompts), -1, n)
    best = rewards.argmax(-1) + list(range(0, rewards[0].size, n))

    def kept(part: list[list[T]]) -> list[list[T]]:
        return [[row[k] for k in places] for row, places in zip(part, best, strict=True)]

    return Responses(kept(responses.texts), kept(responses.unfinished), kept(responses.tokens))
