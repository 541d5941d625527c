"""What is logged and shown of a rollout."""

from __future__ import annotations

from torch import Tensor

from rlaif_pl.rl.rollout import Rollout
from rlaif_pl.types import PromptBatch, SampledResponse


def batch_means(rollout: Rollout, kl: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """Return mean reward, KL ``(N,)``, length and unfinished share of ``rows`` that count ``(N,)``."""
    quantities = {
        "reward": rollout.scores,
        "kl": kl,
        "length": rollout.lengths.float(),
        "unfinished": (~rollout.finished).float(),
    }
    count = rows.sum().clamp(min=1)
    return {name: value.masked_fill(~rows, 0.0).sum() / count for name, value in quantities.items()}


def sampled_responses(
    step: int, batch: PromptBatch, rollout: Rollout, num_generations: int
) -> list[SampledResponse]:
    """Pair every sampled text with its prompt and score, for tables."""
    prompts = [prompt for prompt in batch.prompts for _ in range(num_generations)]
    rows = zip(prompts, rollout.texts, rollout.scores.tolist(), strict=True)
    return [SampledResponse(step, prompt, text, score) for prompt, text, score in rows]
