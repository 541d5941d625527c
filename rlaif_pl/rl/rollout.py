"""One on-policy batch: sample, score, and compare with the reference, without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlaif_pl.models.actor_critic import ActorCritic
from rlaif_pl.models.encoding import PrefixBatch, assemble, encode_prompts
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.models.shared_prefix import States
from rlaif_pl.rl.sampling import sample
from rlaif_pl.types import Reward


class Rollout(NamedTuple):
    """``N = G * K`` sampled responses and what the update needs of them."""

    batch: PrefixBatch
    below: States | None  # trunk states, shared by all roles
    texts: list[str]  # N responses
    finished: Tensor  # (N,) bool
    scores: Tensor  # (N,) reward of each text, before shaping
    ref_logprobs: Tensor  # (N, R)
    features: Tensor  # (N, 1 + R, D) last states of the reference


@torch.no_grad()
def collect(
    actor: ActorCritic,
    reward: Reward,
    prompts: Sequence[str],
    *,
    per_prompt: int,
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[int],
) -> Rollout:
    """Sample responses from the policy and score them.

    Args:
        actor: Policy and reference.
        reward: Scores whole texts; one that holds the actor's own trunk is given its states.
        prompts: ``G`` prompts.
        per_prompt: Responses a prompt, ``K``.
        max_new_tokens: Length limit, EOS included.
        temperature: Divides the logits of policy and reference alike, so that their KL is exactly
            0 before the first update.
        seeds: One a response.
    """
    policy = actor.policy
    rows = encode_prompts(policy.tokenizer, policy.template, prompts)
    samples = sample(
        policy,
        rows,
        per_prompt=per_prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seeds=seeds,
    )
    texts = samples.texts(policy)
    batch = assemble(rows, samples.tokens, policy.pad).to(policy.device)
    below = policy.trunk_states(batch)
    ref_logprobs, features = actor.reference_pass(batch, below, temperature)
    scores = score_texts(reward, prompts, texts, per_prompt).to(policy.device)
    finished = samples.finished.to(policy.device)
    return Rollout(batch, below, texts, finished, scores, ref_logprobs, features)


def score_texts(
    reward: Reward, prompts: Sequence[str], texts: Sequence[str], per_prompt: int
) -> Tensor:
    """Score ``K`` texts a prompt; a reward model computes each prompt once. ``(N,)`` float32"""
    if isinstance(reward, RewardModel):
        groups = [texts[n : n + per_prompt] for n in range(0, len(texts), per_prompt)]
        return reward(prompts, groups).flatten()
    return reward.score([p for p in prompts for _ in range(per_prompt)], texts)
