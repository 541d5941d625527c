"""From one score a response to a reward a token: the KL penalty and where the score goes.

Objective (arXiv 2309.00267v2, appendix A.3): ``E[(1 - beta) r(x, y) - beta KL(pi || pi_SFT)]``. The
KL enters as ``-beta (log pi - log pi_SFT)`` at each token, an unbiased estimate once summed; the score
at the last token. The KL can be a term of the loss instead (``kl.py``): ``(1 - beta) L_PG + beta KL``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch import distributed as dist

from rlaif_pl.errors import at_least, one_of, within
from rlaif_pl.rl.kl import AdaptiveKL, KLEstimator, KLPlacement

Baseline = Literal["rloo", "group_mean"]
Scale = Literal["group_std"]
STD_EPSILON = 1e-4  # TRL's
NGRAM = 3
ID_BITS = 21  # of a token id: three fit into 63 bits


@dataclass(frozen=True)
class RewardShaping:
    """How scores and KL become token rewards.

    Attributes:
        kl_coef: Weight of the KL penalty, in [0, 1]; the first one where it adapts.
        scale_score: Multiply the score (with the KL in the loss: the policy-gradient loss) by
            ``1 - kl_coef`` as the paper does.
        kl_placement: ``reward``: a penalty in the reward of each token; ``loss``: a term of the loss.
        kl_estimator: What that term is, ``k2`` or ``k3``; see ``kl.py``.
        missing_eos_penalty: Subtracted from the score of a response that the length limit cut.
        min_length: Tokens, the end token included, below which a response is too short: a reward model
            has seen few such texts.
        min_length_penalty: Times ``1 - n / min_length``, subtracted from the score of a response of
            ``n`` tokens (1 in an empty one that ended).
        repetition_penalty: Times the share of a response's token 3-grams that stood in it before,
            subtracted from its score. This and the other penalties are rules, not feedback.
        adaptive_kl: Lets the KL coefficient follow a target, from ``kl_coef`` on; None keeps it.
    """

    kl_coef: float = 0.05
    scale_score: bool = True
    kl_placement: KLPlacement = "reward"
    kl_estimator: KLEstimator = "k2"
    missing_eos_penalty: float = 0.0
    min_length: int = 0
    min_length_penalty: float = 0.0
    repetition_penalty: float = 0.0
    adaptive_kl: AdaptiveKL | None = None

    def __post_init__(self) -> None:
        within(0, 1, kl_coef=self.kl_coef)
        one_of(KLPlacement, kl_placement=self.kl_placement)
        one_of(KLEstimator, kl_estimator=self.kl_estimator)
        names = ("missing_eos_penalty", "min_length", "min_length_penalty", "repetition_penalty")
        at_least(0, **{name: getattr(self, name) for name in names})

    @property
    def reward_kl_coef(self) -> float:
        """Weight of the KL in the token rewards: 0 where it is in the loss."""
        return self.kl_coef if self.kl_placement == "reward" else 0.0

    @property
    def policy_weight(self) -> float:
        """Weight of the policy-gradient loss: the ``1 - beta`` that is not in the score."""
        in_loss = self.scale_score and self.kl_placement == "loss"
        return 1 - self.kl_coef if in_loss else 1.0


def final_scores(
    scores: Tensor,
    lengths: Tensor,
    finished: Tensor,
    shaping: RewardShaping,
    repeated: Tensor | None = None,
) -> Tensor:
    """What the last token of each response is rewarded with: scaled score minus penalties. ``(N,)``."""
    is_scaled = shaping.scale_score and shaping.kl_placement == "reward"
    final = scores * (1 - shaping.kl_coef) if is_scaled else scores
    final = final - shaping.missing_eos_penalty * (~finished).to(final.dtype)
    if shaping.min_length > 0:
        missing = (1 - lengths.float() / shaping.min_length).clamp(min=0)
        final = final - shaping.min_length_penalty * missing.to(final.dtype)
    if repeated is not None:
        final = final - shaping.repetition_penalty * repeated.to(final.dtype)
    return final


def repeated_share(tokens: Tensor, is_response: Tensor) -> Tensor:
    """Share of each response's token 3-grams that stood in it before, in [0, 1). ``(N,)`` float32.

    ``1 - distinct / all`` (seq-rep-3 of Welleck et al. 2020, arXiv 1908.04319, section 6.1); 0 of
    responses shorter than 3 tokens. Token ids ``(N, R)`` are below 2^21; ``is_response`` is True at a
    prefix of each row ``(N, R)``.
    """
    if tokens.shape[1] < NGRAM:
        return torch.zeros(len(tokens), dtype=torch.float32, device=tokens.device)
    real = is_response[:, NGRAM - 1 :]
    width = real.shape[1]
    first, second, third = (tokens[:, place : place + width].long() for place in range(NGRAM))
    grams = (first << 2 * ID_BITS) | (second << ID_BITS) | third
    # Padding gets keys of its own, so that none of it repeats.
    own = -1 - torch.arange(width, device=tokens.device)
    keys = torch.where(real, grams, own).sort(1).values
    repeats = (keys[:, 1:] == keys[:, :-1]).sum(1)
    return repeats.float() / real.sum(1).clamp(min=1)


def relative_scores(
    scores: Tensor, num_generations: int, baseline: Baseline = "rloo", scale: Scale | None = None
) -> Tensor:
    """Subtract from each score a baseline of its prompt's ``K`` responses, and scale. ``(G * K,)``.

    ``rloo`` is the mean of the others, which leaves the gradient unbiased (Kool et al. 2019, "Buy
    4 REINFORCE samples, get a baseline for free!"). ``group_mean`` is that of all ``K``, which gives
    ``(K - 1) / K`` times as much; over their standard deviation (that of a sample, plus 1e-4 as in TRL)
    it is GRPO's advantage (arXiv 2402.03300, section 4.1.2), which Dr. GRPO (arXiv 2503.20783) leaves
    out. ValueError: ``K`` is below 2.
    """
    if num_generations < 2:
        raise ValueError(
            f"expected at least 2 responses a prompt, got {num_generations}, for baseline={baseline}; "
            "raise sampling.n"
        )
    groups = scores.view(-1, num_generations)
    if baseline == "rloo":
        found = groups - (groups.sum(1, keepdim=True) - groups) / (num_generations - 1)
    else:
        found = groups - groups.mean(1, keepdim=True)
    if scale == "group_std":
        found = found / (groups.std(1, keepdim=True) + STD_EPSILON)
    return found.flatten()


def sequence_kl(logprobs: Tensor, ref_logprobs: Tensor, is_response: Tensor) -> Tensor:
    """Estimate ``KL(pi || reference)`` of each response by its sampled log-ratio, in nats. ``(N,)``."""
    return ((logprobs - ref_logprobs) * is_response).sum(1)


def whiten(values: Tensor, is_real: Tensor, moments: Tensor) -> Tensor:
    """Scale ``(N, R)`` to mean 0, variance 1 over all ranks, given sums of values, squares ``(2,)``."""
    sums = torch.cat([is_real.sum()[None].to(moments), moments])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
    count, total, squares = sums
    mean = total / count.clamp(min=1)
    variance = (squares / count.clamp(min=1) - mean * mean).clamp(min=0)
    scale = torch.rsqrt(variance + 1e-8).to(values.dtype)
    return (values - mean.to(values.dtype)) * scale * is_real
