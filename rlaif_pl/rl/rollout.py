"""One on-policy batch: sample, score, and compare with the reference, without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlaif_pl.engine.batch import send
from rlaif_pl.engine.generate import Generated
from rlaif_pl.engine.generation_backend import GenerationBackend, LocalGenerator
from rlaif_pl.engine.response_batch import HiddenStates, ResponseBatch, assemble
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models.actor_critic import ActorCritic
from rlaif_pl.models.precision import own_precision
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.models.sampled_policy import SampledPolicy
from rlaif_pl.types import Reward


class Rollout(NamedTuple):
    """``N = G * K`` sampled responses and what the update needs of them.

    A response in ``batch`` is what the policy drew: it ends in an end token where it finished, and in
    the last token drawn where the length limit cut it.
    """

    batch: ResponseBatch
    below: HiddenStates | None  # trunk states of the batch's inputs at least, shared by all roles
    texts: list[str]  # N responses
    finished: Tensor  # (N,) bool
    scores: Tensor  # (N,) reward of each text, before shaping
    ref_logprobs: Tensor  # (N, R)
    features: Tensor | None  # (N, R, D) last states of the reference, where the values need them
    sampler_logprobs: Tensor | None = None  # (N, R) by who drew them, where that is not the policy

    def part(self, groups: slice) -> Rollout:
        """Return the responses to some of the prompts."""
        rows = slice(groups.start * self.batch.per_prefix, groups.stop * self.batch.per_prefix)
        return Rollout(
            self.batch.part(groups),
            None if self.below is None else self.below.part(groups),
            self.texts[rows],
            self.finished[rows],
            self.scores[rows],
            self.ref_logprobs[rows],
            None if self.features is None else self.features[rows],
            None if self.sampler_logprobs is None else self.sampler_logprobs[rows],
        )

    @property
    def is_sampled(self) -> Tensor:
        """True at the tokens drawn ``(N, R)``."""
        return self.batch.is_response

    @property
    def lengths(self) -> Tensor:
        """Sampled tokens a row ``(N,)``."""
        return self.batch.lengths


@torch.no_grad()
def collect(
    actor: ActorCritic,
    reward: Reward,
    prompts: Sequence[str],
    *,
    params: SamplingParams,
    seeds: Sequence[int],
    generator: GenerationBackend | None = None,
    samples: Generated | None = None,
) -> Rollout:
    """Sample responses from the policy and score them.

    The trunk is run once, while sampling: its states serve policy, reference, value network and a
    reward model that holds the same trunk.

    Args:
        actor: Policy and reference.
        reward: Scores whole texts.
        prompts: ``G`` prompts.
        params: How to draw, ``n`` responses a prompt. Temperature and filters hold for policy and
            reference alike, so that their KL is exactly 0 before the first update.
        seeds: One a response.
        generator: Who draws; None draws in this process.
        samples: What was drawn already for these prompts; None draws now.
    """
    policy = actor.policy
    rows = policy.encode_prompts(prompts)
    reads_states = isinstance(reward, RewardModel) and reward.reads_states_of(policy)
    if samples is None:
        samples = (generator or LocalGenerator()).generate(
            SampledPolicy(policy),
            rows,
            params,
            seeds,
            keep_trunk=policy.share_prefix,
            close=reads_states,
        )
    texts = policy.texts(samples.tokens)
    batch = assemble(rows, samples.tokens, policy.pad, policy.device)
    read = batch.inputs
    if reads_states:  # a reward is read at EOS, drawn or not
        stops = policy.stop_token_ids
        written = [row[:-1] if row[-1] in stops else row for row in samples.tokens]
        closed = [[*row, policy.eos] for row in written]
        read = assemble(rows, closed, policy.pad, policy.device)
    below = samples.below or policy.trunk_states(read)
    ref_logprobs, last = actor.reference_pass(batch, below, params)
    features = last if actor.value_network == "reference_features" else None
    del last  # nothing else reads it: free it before the update
    scores = send(score_rollout(actor, reward, prompts, texts, read, below), policy.device)
    finished = send(torch.tensor(samples.finished), policy.device)
    drawn = None if samples.logprobs is None else padded(samples.logprobs, batch)
    return Rollout(batch, below, texts, finished, scores, ref_logprobs, features, drawn)


def padded(rows: Sequence[Sequence[float]], batch: ResponseBatch) -> Tensor:
    """Put numbers of response tokens where the tokens are; 0 at padding. ``(N, R)`` float32."""
    width = batch.response_ids.shape[1]
    full = torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows])
    return send(full, batch.device)


def score_rollout(
    actor: ActorCritic,
    reward: Reward,
    prompts: Sequence[str],
    texts: Sequence[str],
    batch: ResponseBatch,
    below: HiddenStates | None,
) -> Tensor:
    """Score every response. ``(N,)`` float32.

    A reward model on the policy's own trunk reads the sampled tokens from its states, and then every
    response of the batch ends in EOS; any other reward is given text, so it may have another
    tokenizer.
    """
    if isinstance(reward, RewardModel) and reward.reads_states_of(actor.policy):
        return reward.rewards(batch, below)
    num_generations = len(texts) // len(prompts)
    if isinstance(reward, RewardModel):
        groups = [texts[n : n + num_generations] for n in range(0, len(texts), num_generations)]
        return reward(prompts, groups).flatten()
    asked = [p for p in prompts for _ in range(num_generations)]
    if isinstance(reward, nn.Module):  # moved, cast and run by the trainer like the policy
        return reward.score(asked, texts).float()
    with own_precision(actor.policy.device.type):
        return reward.score(asked, texts).float()
