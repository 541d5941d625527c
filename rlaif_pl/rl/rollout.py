"""One on-policy batch: sample, score, and compare with the reference, without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlaif_pl.engine.batch import send
from rlaif_pl.engine.generate import Generated
from rlaif_pl.engine.response_batch import ResponseBatch, TrunkStates, assemble
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models.actor_critic import ActorCritic
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.device import own_precision
from rlaif_pl.models.reward import RewardModel
from rlaif_pl.models.sampled_policy import SampledPolicy
from rlaif_pl.rl.function_reward import WeightedRewards, as_scores, rewards_of
from rlaif_pl.rl.generate import GenerationBackend, LocalGenerator
from rlaif_pl.rl.reward_columns import NO_COLUMNS, Columns, name_of, repeated, score_with
from rlaif_pl.types import Reward


class Rollout(NamedTuple):
    """``N = G * K`` sampled responses and what the update needs of them."""

    batch: ResponseBatch  # responses as drawn: without an end token where the length limit cut them
    below: Tensor | None  # trunk states of the batch's inputs, shared by all roles
    texts: list[str]  # N responses
    finished: Tensor  # (N,) bool
    scores: Tensor  # (N,) reward of each text, before shaping
    ref_logprobs: Tensor  # (N, R)
    features: Tensor | None  # (tokens, D) last states of the reference, where the values need them
    sampler_logprobs: Tensor | None = None  # (N, R) by who drew them, where that is not the policy
    rewards: dict[str, Tensor] | None = None  # (N,) each, where the scores are their weighted sum

    def part(self, groups: slice) -> Rollout:
        """Return the responses to some of the prompts."""
        rows = slice(groups.start * self.batch.per_prefix, groups.stop * self.batch.per_prefix)
        inputs = self.batch.inputs
        _, own = inputs.packed_slices(groups)
        tokens = slice(own.start - inputs.starts[0], own.stop - inputs.starts[0])
        return Rollout(
            self.batch.part(groups),
            inputs.states_of(groups, self.below),
            self.texts[rows],
            self.finished[rows],
            self.scores[rows],
            self.ref_logprobs[rows],
            None if self.features is None else self.features[tokens],
            None if self.sampler_logprobs is None else self.sampler_logprobs[rows],
        )

    def means(self, kl: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Mean reward (and rewards), KL ``(N,)``, length and unfinished share of ``rows`` ``(N,)``."""
        quantities = {
            "reward": self.scores,
            "kl": kl,
            "length": self.batch.lengths.float(),
            "unfinished": (~self.finished).float(),
            **{f"reward/{name}": each for name, each in (self.rewards or {}).items()},
        }
        count = rows.sum().clamp(min=1)
        return {name: x.masked_fill(~rows, 0.0).sum() / count for name, x in quantities.items()}

    @property
    def is_sampled(self) -> Tensor:
        """True at the tokens drawn ``(N, R)``."""
        return self.batch.is_response


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
    columns: Columns = NO_COLUMNS,
    most_tokens: int | None = None,
) -> Rollout:
    """Sample responses and score them; the trunk is run once for all roles that share it.

    Args:
        actor: Policy and reference.
        reward: Scores whole texts.
        prompts: ``G`` prompts.
        params: How to draw, ``n`` responses a prompt, and how policy and reference are scored.
        seeds: One a response.
        generator: Who draws; None draws in this process.
        samples: What was drawn already for these prompts; None draws now.
        columns: Further columns of the prompts, for a reward that names them. ``G`` values each
        most_tokens: Tokens that the reference runs at a time, as ``Update`` does; None: all at once.
    """
    policy = actor.policy
    rows = policy.encode_prompts(prompts)
    by_name = rewards_of(reward)
    reads = [reads_samples(each, policy, params) for each in by_name.values()]
    reads_states = any(reads)
    if samples is None:
        samples = (generator or LocalGenerator()).generate(
            SampledPolicy(policy), rows, params, seeds, keep_trunk=True, close=reads_states
        )
    texts = policy.texts(samples.tokens, params)
    batch = assemble(rows, samples.tokens, policy.pad, policy.device)
    read = batch.inputs
    if reads_states:  # a reward is read at EOS, drawn or not
        stops = policy.stop_token_ids
        written = [row[:-1] if row[-1] in stops else row for row in samples.tokens]
        closed = [[*row, policy.eos] for row in written]
        read = assemble(rows, closed, policy.pad, policy.device)
    kept = samples.below
    if kept is None and (states := actor.trunk_states(read)) is not None:
        kept = TrunkStates(states, read.starts)
    below = None if kept is None else batch.inputs.gather(kept)
    ref_logprobs, features = _reference_in_parts(actor, batch, below, params, most_tokens)
    given = repeated(columns, params.n)
    found = []
    for each, reads_each in zip(by_name.values(), reads, strict=True):
        if isinstance(each, RewardModel) and reads_each:
            scores = each.rewards(read, None if kept is None else read.gather(kept))
        else:
            scores = _scores_of_texts(each, prompts, texts, given, policy.device.type)
        found.append(send(scores, policy.device))
    scores, rewards = found[0], None
    if isinstance(reward, WeightedRewards):
        scores, rewards = reward.total(found), dict(zip(by_name, found, strict=True))
    finished = send(torch.tensor(samples.finished), policy.device)
    drawn = None
    if samples.logprobs is not None:
        values = [value for row in samples.logprobs for value in row]
        drawn = batch.spread(send(torch.tensor(values, dtype=torch.float32), policy.device))
    return Rollout(batch, below, texts, finished, scores, ref_logprobs, features, drawn, rewards)


def _reference_in_parts(
    actor: ActorCritic,
    batch: ResponseBatch,
    below: Tensor | None,
    params: SamplingParams,
    most_tokens: int | None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities, and last states where values need them, by the parts of the update."""
    # A GPU's products round by how many rows they have: only equal parts give a first KL of exactly 0.
    cuts = batch.cut(most_tokens)
    keeps = actor.value_network == "reference_features"
    logprobs, features = [], []
    for cut in cuts:
        part = (batch, below)
        if len(cuts) > 1:
            part = batch.part(cut), batch.inputs.states_of(cut, below)
        found, last = actor.reference_pass(*part, params)
        logprobs.append(found)
        if keeps:  # nothing else reads them: freed before the next part
            features.append(last)
    if len(cuts) == 1:
        return logprobs[0], features[0] if keeps else None
    return torch.cat(logprobs), torch.cat(features) if keeps else None


def reads_samples(reward: Reward, policy: CausalModel, params: SamplingParams) -> bool:
    """Whether a reward reads the drawn tokens, on the states of the policy's trunk, instead of text.

    The states that sampling keeps do not reach to an EOS in place of the caller's stop strings and
    tokens, nor to the EOS of a text that the reward cuts.
    """
    return (
        isinstance(reward, RewardModel)
        and reward.reads_states_of(policy)
        and not params.stop
        and not params.stop_token_ids
        and params.max_new_tokens + 1 <= reward.max_response_tokens
    )


def _scores_of_texts(
    reward: Reward, prompts: Sequence[str], texts: Sequence[str], columns: Columns, device_type: str
) -> Tensor:
    """Score responses ``(N,)`` float32 by their text, and by the columns that the reward asks for."""
    num_generations = len(texts) // len(prompts)
    if isinstance(reward, RewardModel):
        groups = [texts[n : n + num_generations] for n in range(0, len(texts), num_generations)]
        return reward(prompts, groups).flatten()
    asked = [p for p in prompts for _ in range(num_generations)]
    # a module is moved, cast and run by the trainer like the policy
    is_module = isinstance(reward, nn.Module)
    with nullcontext() if is_module else own_precision(device_type):
        scores = score_with(reward, asked, texts, columns)
        return as_scores(scores, len(texts), name_of(reward))
