"""Best-of-n: a reward chooses among a policy's responses, and nothing is trained."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rlaif_pl.evaluation.reward_accuracy import scored
from rlaif_pl.rl.generate import Responses
from rlaif_pl.types import Prompt, Reward

T = TypeVar("T")


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


def check_best_of(
    best_of: Mapping[str, BestOf], policies: Collection[str], rewards: Collection[str]
) -> None:
    """Check names before anything is sampled. ``ValueError``: one is taken, or nothing bears it."""
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
    """Keep of every ``n`` responses to a prompt the one with the highest reward, the first of equals.

    Args:
        prompts: ``P`` prompts.
        responses: ``k * n`` responses to each.
        reward: Who chooses.
        n: How many are chosen from.

    Returns:
        ``k`` responses to each prompt.
    """
    asked = [p.text for p, texts in zip(prompts, responses.texts, strict=True) for _ in texts]
    flat = [text for texts in responses.texts for text in texts]
    rewards = scored(reward, asked, flat).reshape(len(prompts), -1, n)
    best = rewards.argmax(-1) + list(range(0, rewards[0].size, n))

    def kept(part: list[list[T]]) -> list[list[T]]:
        return [[row[k] for k in places] for row, places in zip(part, best, strict=True)]

    return Responses(kept(responses.texts), kept(responses.unfinished), kept(responses.tokens))
