"""One update on a rollout, however many parts memory cuts it into."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from rlaif_pl import ops
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models.actor_critic import ActorCritic, Evaluation
from rlaif_pl.rl.losses import explained_variance, response_mean
from rlaif_pl.rl.objective import Objective
from rlaif_pl.rl.rollout import Rollout


class Update:
    """The loss of a rollout as a sum over parts, each a share of the mean over all of it.

    Args:
        actor: Policy and value network.
        objective: What is maximized.
        rollout: Sampled batch.
        is_counted: Response tokens that count. ``(N, R)`` bool
        params: How the policy drew the responses.
        most_tokens: Tokens of a part; whole prompts with their responses. None for one part.
    """

    def __init__(
        self,
        actor: ActorCritic,
        objective: Objective,
        rollout: Rollout,
        is_counted: Tensor,
        params: SamplingParams,
        most_tokens: int | None = None,
    ) -> None:
        self.actor = actor
        self.objective = objective
        self.is_counted = is_counted
        self.params = params
        self.count = objective.token_weights(is_counted)[1]  # what the loss is a mean over
        cuts, repeat = rollout.batch.cut(most_tokens), rollout.batch.per_prefix
        self._parts = [rollout.part(cut) for cut in cuts]
        self._rows = [slice(cut.start * repeat, cut.stop * repeat) for cut in cuts]
        self._targets: list[ops.KLGae] = []
        self._values: list[Tensor] = []
        self._logs: list[dict[str, Tensor]] = []
        self._ratios: list[Tensor] = []

    def losses(self) -> list[Callable[[], Tensor]]:
        """Return functions that run a part forward and give its share of the loss.

        What advantages are whitened over is known only once every part was evaluated, so in several
        parts whitening takes one more pass, without gradients.
        """
        whitened = None
        if len(self._parts) > 1 and self.objective.advantages.whiten:
            with torch.no_grad():
                known = [self.objective.targets(p, self._evaluate(p)) for p in self._parts]
            whitened = self.objective.scaled_advantages(known, self.is_counted)
        return [partial(self._loss, n, whitened) for n in range(len(self._parts))]

    @property
    def kl(self) -> Tensor:
        """Log-ratio of each response (see ``sequence_kl``), once all losses were computed. ``(N,)``."""
        return torch.cat([targets.kl for targets in self._targets])

    def logged(self) -> dict[str, Tensor]:
        """Return the loss and its parts (unweighted) of the whole rollout, by name."""
        means = {
            name: torch.stack([part[name] for part in self._logs]).sum() for name in self._logs[0]
        }
        if self._values and len(self._parts) > 1:  # the one that is no mean over tokens
            values = torch.cat(self._values)
            returns = torch.cat([targets.returns for targets in self._targets])
            means["explained_variance"] = explained_variance(values, returns, self.is_counted)
        return means

    def sampler_gap(self) -> dict[str, Tensor]:
        """Return how far the policy is from who drew the tokens; empty where it drew them itself.

        Mean and maximum of the absolute log-ratio in nats a token, and the share of tokens whose weight
        was truncated, once all losses were computed.
        """
        if not self._ratios:
            return {}
        ratio = torch.cat(self._ratios)
        is_clipped = ratio > math.log(self.objective.importance_cap)
        return {
            "log_ratio_mean": response_mean(ratio.abs(), self.is_counted),
            "log_ratio_max": ratio.abs().max(),
            "share_clipped": response_mean(is_clipped.float(), self.is_counted),
        }

    def _loss(self, n: int, whitened: Tensor | None) -> Tensor:
        part, rows = self._parts[n], self._rows[n]
        is_counted, found = self.is_counted[rows], self._evaluate(part)
        targets = self.objective.targets(part, found)
        if whitened is None:
            advantages = self.objective.scaled_advantages([targets], is_counted)
        else:
            advantages = whitened[rows]
        loss, logs = self.objective.loss(part, found, advantages, targets.returns, is_counted)
        ratio = self.objective.log_ratio(part, found, is_counted)
        if ratio is not None:
            self._ratios.append(ratio)
        counted = self.objective.token_weights(is_counted)[1].float()
        share = counted / self.count.clamp(min=1)
        self._targets.append(targets)
        self._logs.append({name: value.detach() * share for name, value in logs.items()})
        if found.values is not None:
            self._values.append(found.values.detach())
        return loss * share

    def _evaluate(self, part: Rollout) -> Evaluation:
        gradient = self.objective.ent_coef > 0
        return self.actor.evaluate(
            part.batch, part.below, part.features, self.params, entropy_gradient=gradient
        )
