"""One update on a rollout, however many parts memory cuts it into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rlaif_pl import ops
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.models.actor_critic import ActorCritic, Evaluation
from rlaif_pl.rl.losses import explained_variance
from rlaif_pl.rl.objective import Objective
from rlaif_pl.rl.rollout import Rollout


class Update:
    """The loss of a rollout as a sum over parts, each a share of the mean over all tokens.

    Advantages are whitened over the whole rollout. What they are is known only once every part was
    evaluated, so in several parts whitening takes one more pass, without gradients.

    Args:
        actor: Policy and value network.
        objective: What is maximized.
        rollout: Sampled batch.
        is_counted: Response tokens that count. ``(N, R)`` bool
        params: How the policy drew the responses.
        most_tokens: Tokens of a part; whole prompts with their responses. None for one part.

    Attributes:
        kl: Log-ratio of each response, see ``sequence_kl``; once all losses were computed. ``(N,)``
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
        self.rollout = rollout
        self.is_counted = is_counted
        self.params = params
        self.count = is_counted.sum()
        self._cuts = rollout.batch.cut(most_tokens)
        self._targets: ops.ShapedGae | None = None
        self._advantages: Tensor | None = None
        self._done: list[tuple[ops.ShapedGae, Tensor | None, dict[str, Tensor]]] = []
        if len(self._cuts) > 1 and objective.whiten_advantages:
            with torch.no_grad():
                each = [self._targets_of(cut, self._evaluate(cut)) for cut in self._cuts]
            names = ("advantages", "returns", "kl", "moments")
            self._targets = ops.ShapedGae(
                *(torch.cat([getattr(one, name) for one in each]) for name in names)
            )
            self._advantages = objective.advantages(self._targets, is_counted)

    def losses(self) -> list[Callable[[], Tensor]]:
        """Return functions that run a part forward and give its share of the loss."""
        return [partial(self._loss, cut) for cut in self._cuts]

    @property
    def kl(self) -> Tensor:
        """Log-ratio of each response. ``(N,)``."""
        return torch.cat([targets.kl for targets, _, _ in self._done])

    def logged(self) -> dict[str, Tensor]:
        """Return the loss and its parts (unweighted) of the whole rollout, by name."""
        names = self._done[0][2]
        means = {name: sum_of([part[name] for _, _, part in self._done]) for name in names}
        if "explained_variance" in means and len(self._done) > 1:
            values = torch.cat([values for _, values, _ in self._done if values is not None])
            returns = torch.cat([targets.returns for targets, _, _ in self._done])
            means["explained_variance"] = explained_variance(values, returns, self.is_counted)
        return means

    def _loss(self, cut: slice) -> Tensor:
        found, rows = self._evaluate(cut), self._rows(cut)
        is_counted = self.is_counted[rows]
        if self._targets is None or self._advantages is None:
            targets = self._targets_of(cut, found)
            advantages = self.objective.advantages(targets, is_counted)
        else:
            whole = self._targets
            targets = replace(
                whole,
                advantages=whole.advantages[rows],
                returns=whole.returns[rows],
                kl=whole.kl[rows],
                moments=whole.moments[rows],
            )
            advantages = self._advantages[rows]
        part = self.rollout.part(cut)
        loss, logs = self.objective.loss(part, found, advantages, targets.returns, is_counted)
        share = is_counted.sum() / self.count.clamp(min=1)
        values = None if found.values is None else found.values.detach()
        logs = {name: value.detach() * share for name, value in logs.items()}
        self._done.append((targets, values, logs))
        return loss * share

    def _rows(self, cut: slice) -> slice:
        repeat = self.rollout.batch.per_prefix
        return slice(cut.start * repeat, cut.stop * repeat)

    def _evaluate(self, cut: slice) -> Evaluation:
        part = self.rollout.part(cut)
        gradient = self.objective.ent_coef > 0
        return self.actor.evaluate(
            part.batch, part.below, part.features, self.params, entropy_gradient=gradient
        )

    def _targets_of(self, cut: slice, found: Evaluation) -> ops.ShapedGae:
        return self.objective.targets(self.rollout.part(cut), found)


def sum_of(values: list[Tensor]) -> Tensor:
    """Return the sum of scalars."""
    return torch.stack(values).sum()
