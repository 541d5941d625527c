"""From one score a response to a reward a token: the KL penalty and where the score goes.

Objective (arXiv 2309.00267v2, appendix A.3): ``E[(1 - beta) r(x, y) - beta KL(pi || pi_SFT)]``. The
KL enters as ``-beta (log pi - log pi_SFT)`` at each token, whose sum over a sampled text is an unbiased
estimate of the sequence KL; the score enters at the last token and gamma is 1 in the paper. The KL can
be a term of the loss instead (``kl.py``): ``(1 - beta) L_PG + beta KL``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from rlaif_pl.ops import wide_dtype
from rlaif_pl.rl.kl import AdaptiveKL, KLEstimator, KLPlacement

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
        min_length: Tokens below which a response is too short. A reward model has seen few such
            texts and may score them high; a policy finds that out.
        min_length_penalty: Subtracted from the score of an empty response; one of ``n`` tokens loses
            the share ``1 - n / min_length`` of it.
        repetition_penalty: Times the share of a response's token 3-grams that stood in it before,
            subtracted from its score. A reward model trained on texts without much repetition does not
            see it; this and the other penalties are rules, not feedback.
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
        """Refuse a KL coefficient outside [0, 1] and a reward for repetition."""
        if not self.repetition_penalty >= 0:
            raise ValueError(
                f"repetition_penalty must be at least 0, got {self.repetition_penalty}; it is "
                "subtracted"
            )
        if not 0 <= self.kl_coef <= 1:
            raise ValueError(f"kl_coef must be in [0, 1], got {self.kl_coef}")

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
    """What the last token of each response is rewarded with: scaled score minus penalties. ``(N,)``.

    Args:
        scores: Reward of each whole response. ``(N,)``
        lengths: Tokens of each response. ``(N,)``
        finished: False where the length limit cut the response. ``(N,)`` bool
        shaping: Coefficients.
        repeated: Share of repeated 3-grams of each response ``(N,)``; see ``repeated_share``. None
            where nothing is subtracted for it.
    """
    is_scaled = shaping.scale_score and shaping.kl_placement == "reward"
    final = scores * (1 - shaping.kl_coef) if is_scaled else scores
    final = final - shaping.missing_eos_penalty * (~finished).to(final.dtype)
    if shaping.min_length > 0:
        missing = (1 - lengths / shaping.min_length).clamp(min=0)
        final = final - shaping.min_length_penalty * missing.to(final.dtype)
    if repeated is not None:
        final = final - shaping.repetition_penalty * repeated.to(final.dtype)
    return final


def repeated_share(tokens: Tensor, is_response: Tensor) -> Tensor:
    """Share of each response's token 3-grams that stood in it before, in [0, 1). ``(N,)`` float32.

    ``1 - distinct / all`` (seq-rep-3 of Welleck et al. 2020, arXiv 1908.04319, section 6.1); 0 of
    responses shorter than 3 tokens.

    Args:
        tokens: Response tokens, ids below 2^21. ``(N, R)``
        is_response: True at response tokens, a prefix of each row. ``(N, R)`` bool
    """
    if tokens.shape[1] < NGRAM:
        return torch.zeros(len(tokens), device=tokens.device)
    real = is_response[:, NGRAM - 1 :]
    first, second, third = (
        tokens[:, place : place + real.shape[1]].long() for place in range(NGRAM)
    )
    grams = (first << 2 * ID_BITS) | (second << ID_BITS) | third
    # Padding gets keys of its own, so that none of it repeats.
    own = -1 - torch.arange(real.shape[1], device=tokens.device)
    keys = torch.where(real, grams, own).sort(1).values
    repeats = (keys[:, 1:] == keys[:, :-1]).sum(1)
    return repeats / real.sum(1).clamp(min=1)


def token_rewards(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    is_response: Tensor,
    finished: Tensor,
    shaping: RewardShaping,
) -> Tensor:
    """Spread score and KL penalty over the tokens of each response.

    This is the plain definition; training takes ``ops.kl_gae``, which does it and the advantages in
    one pass.

    Args:
        scores: Reward of each whole response. ``(N,)``
        logprobs: Policy's log-probability of each token taken. ``(N, R)``
        ref_logprobs: Reference's, of the same tokens. ``(N, R)``
        is_response: True at response tokens, a prefix of each row. ``(N, R)`` bool
        finished: False where the length limit cut the response. ``(N,)`` bool
        shaping: Coefficients.

    Returns:
        Rewards ``(N, R)``, 0 at padding; an empty response has nowhere to put its score.
    """
    rewards = -shaping.reward_kl_coef * (logprobs - ref_logprobs) * is_response
    lengths = is_response.sum(1)
    final = final_scores(scores, lengths, finished, shaping)
    rows = (lengths > 0).nonzero().squeeze(1)
    rewards[rows, lengths[rows] - 1] += final[rows].to(rewards.dtype)
    return rewards


def leave_one_out(scores: Tensor, num_generations: int) -> Tensor:
    """Subtract from each score the mean of the other responses to its prompt.

    A baseline that does not depend on the response itself leaves the policy gradient unbiased (Kool
    et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!").

    Args:
        scores: Those of a prompt next to each other. ``(G * K,)``
        num_generations: Responses a prompt, ``K``, at least 2.

    Raises:
        ValueError: ``K`` is below 2.
    """
    if num_generations < 2:
        raise ValueError(
            f"leave-one-out needs at least 2 responses a prompt, got {num_generations}"
        )
    groups = scores.view(-1, num_generations)
    others = (groups.sum(1, keepdim=True) - groups) / (num_generations - 1)
    return (groups - others).flatten()


def sequence_kl(logprobs: Tensor, ref_logprobs: Tensor, is_response: Tensor) -> Tensor:
    """Estimate ``KL(pi || reference)`` of each response by its sampled log-ratio, in nats. ``(N,)``."""
    return ((logprobs - ref_logprobs) * is_response).sum(1)


def whiten(
    values: Tensor, is_real: Tensor, shift_mean: bool = True, moments: Tensor | None = None
) -> Tensor:
    """Scale to variance 1 (and mean 0) over the real entries of all ranks; 0 elsewhere.

    Args:
        values: ``(N, R)``
        is_real: Which entries count. ``(N, R)`` bool
        shift_mean: Also subtract the mean; False keeps it.
        moments: Sums of the real entries and of their squares, where they are known. ``(2,)`` in
            ``wide_dtype``
    """
    wide = wide_dtype(values.device)
    if moments is None:
        kept = values.to(wide) * is_real
        moments = torch.stack([kept.sum(), (kept * kept).sum()])
    sums = torch.cat([is_real.sum().to(wide)[None], moments])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
    count, total, squares = sums
    mean = total / count.clamp(min=1)
    variance = (squares / count.clamp(min=1) - mean * mean).clamp(min=0)
    centered = values - mean.to(values.dtype) if shift_mean else values
    return centered * torch.rsqrt(variance + 1e-8).to(values.dtype) * is_real
