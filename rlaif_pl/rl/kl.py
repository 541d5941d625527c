"""KL to the reference: estimators that can be differentiated, and a coefficient that adapts.

The sampled log-ratio ``k1 = log pi - log ref`` estimates ``KL(pi || ref)`` without bias, but its
gradient is 0 on average. Two can be a loss (names after Schulman,
http://joschu.net/blog/kl-approx.html), averaged over tokens drawn from ``pi``:

- ``k2 = (log pi - log ref)^2 / 2`` has the gradient of ``KL(pi || ref)``;
- ``k3 = ref / pi - 1 + log pi - log ref`` is an unbiased value of ``KL(pi || ref)``, at least 0, but
  has the gradient of ``KL(ref || pi)``. The two gradients agree near ``pi = ref``.

Either is the KL of the next token alone: it leaves out that a token decides which states follow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rlaif_pl import ops
from rlaif_pl.engine.response_batch import ResponseBatch, assemble
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.engine.score import Drawer
from rlaif_pl.errors import above
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.types import Prompt

KLPlacement = Literal["reward", "loss"]
KL_ROWS = 8  # prompts scored at once; on CUDA for every 16 GiB of memory
STATE = "kl_beta"  # key in a checkpoint
KLEstimator = Literal["k2", "k3"]


def token_kl(logprobs: Tensor, ref_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """Estimate the KL at each token taken, differentiable in ``logprobs``, in nats. ``(N, R)``."""
    ratio = logprobs - ref_logprobs
    return 0.5 * ratio.square() if estimator == "k2" else torch.expm1(-ratio) + ratio


@dataclass(frozen=True)
class AdaptiveKL:
    """A KL coefficient that follows a target (Ziegler et al. 2019, arXiv 1909.08593, section 2.2).

    After each batch ``kl_coef <- kl_coef (1 + gain clip(KL / target - 1, -limit, limit))``, with KL
    the mean over responses, and held at 1 or below.

    Attributes:
        target: KL to aim at, in nats a response, above 0.
        gain: How fast the coefficient follows, above 0; the source has 0.1.
        limit: Bound of the relative error, above 0; the source has 0.2.
    """

    target: float
    gain: float = 0.1
    limit: float = 0.2

    def __post_init__(self) -> None:
        above(0, **{f"adaptive_kl.{name}": number for name, number in vars(self).items()})
        if not self.gain * self.limit < 1:
            raise ValueError(
                "expected adaptive_kl.gain * adaptive_kl.limit below 1, got "
                f"{self.gain} * {self.limit}; the coefficient would become negative"
            )


class KLController:
    """Holds the KL coefficient of the next batch; ``rule`` says how it adapts, None keeps it."""

    def __init__(self, kl_coef: float, rule: AdaptiveKL | None = None) -> None:
        if rule is not None and kl_coef == 0:
            raise ValueError(
                "expected shaping.kl_coef above 0 with adaptive_kl, got 0; it only scales"
            )
        self.kl_coef = kl_coef
        self.rule = rule
        self._sums: list[Tensor] = []  # of the parts of a step

    def observe(self, kl: Tensor, rows: Tensor) -> None:
        """Note the log-ratio in nats of each response ``(N,)`` that counts, of a part of a step."""
        if self.rule is not None:
            self._sums.append(torch.stack([kl.masked_fill(~rows, 0.0).sum(), rows.sum()]))

    def take(self) -> Tensor | None:
        """Return sum and number of what was noted since, ``(2,)``; None where nothing was."""
        sums, self._sums = self._sums, []
        return torch.stack(sums).sum(0) if sums else None

    def state_dict(self) -> dict[str, float]:
        """Return the coefficient by its key in a checkpoint, if it adapts."""
        return {} if self.rule is None else {STATE: self.kl_coef}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's coefficient, if it adapts; ValueError where there is none."""
        if self.rule is None:
            return
        if STATE not in state:
            raise ValueError(
                "expected the KL coefficient in the checkpoint of a run with adaptive_kl, found none; "
                "use the config the checkpoint was written with"
            )
        self.kl_coef = state[STATE]

    def update(self, kl: float) -> None:
        """Take in the mean KL of a batch, in nats a response; one that is not finite is left out."""
        if self.rule is not None and math.isfinite(kl):
            error = min(max(kl / self.rule.target - 1, -self.rule.limit), self.rule.limit)
            self.kl_coef = min(self.kl_coef * (1 + self.rule.gain * error), 1.0)


def log_ratio(
    policy: CausalModel, reference: CausalModel, batch: ResponseBatch, params: SamplingParams
) -> Tensor:
    """Log-ratio of each token that the policy drew, over what its filters kept. ``(N, R)`` float32."""
    hidden = policy.hidden(batch)
    own = policy.token_logprobs(hidden, batch, params).logprobs
    drawer = Drawer(hidden, policy.unembedding)
    other = reference.hidden(batch)
    return own - reference.token_logprobs(other, batch, params, drawn_from=drawer).logprobs


@torch.no_grad()
def kl_by_prompt(
    policy: CausalModel,
    reference: CausalModel,
    prompts: Sequence[Prompt],
    tokens_of: Sequence[Sequence[Sequence[int]]],
    params: SamplingParams,
) -> list[float] | None:
    """Mean ``log_ratio`` in nats of each prompt's responses, which estimates the KL.

    None of greedy texts, which are not drawn from a distribution: theirs estimates no KL.
    """
    if params.temperature == 0:
        return None
    result: list[float] = []
    most = KL_ROWS * max(1, ops.device_memory(policy.device) >> 34)
    for start in range(0, len(prompts), most):
        part = slice(start, start + most)
        rows = policy.encode_prompts([prompt.text for prompt in prompts[part]])
        tokens = [row for group in tokens_of[part] for row in group]
        batch = assemble(rows, tokens, policy.pad).to(policy.device)
        ratio = log_ratio(policy, reference, batch, params)
        result += ratio.sum(1).view(len(rows), -1).mean(1).tolist()
    return result
