"""A causal language model as trunk and top, with log-probabilities that never hold (N, T, V)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from rlaif_pl.models.backbone import CappedHead
from rlaif_pl.models.encoding import PrefixBatch, encode, pad_of
from rlaif_pl.models.shared_prefix import States, run
from rlaif_pl.models.stack import Stack
from rlaif_pl.text import Template

LOGIT_ROWS = 256  # rows of logits alive at once: 256 x 49,152 float32 is 48 MiB


class CausalModel(nn.Module):
    """A policy: trunk (frozen, shareable), top and output embedding.

    Args:
        trunk: Lower layers, or None where the top holds them all.
        top: Upper layers with the final norm.
        unembedding: Output embedding ``(V, D)``; frozen unless the top embeds the ids itself.
        tokenizer: Tokenizer of the model.
        template: How prompts and responses are written.
        config: Configuration of the whole, uncut model.
    """

    def __init__(
        self,
        trunk: Stack | None,
        top: Stack,
        unembedding: nn.Linear | CappedHead,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        config: PreTrainedConfig,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.top = top
        self.unembedding = unembedding
        self.tokenizer = tokenizer
        self.template = template
        self.config = config
        self.pad = pad_of(tokenizer)
        self.eos = int(tokenizer.eos_token_id)  # type: ignore[arg-type]
        self.share_prefix = True
        self.fingerprint = "unnamed"  # of the loaded weights; who loads them says which they are

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.unembedding.weight.device

    @property
    def stacks(self) -> list[Stack]:
        """Stacks in the order they run."""
        return [self.top] if self.trunk is None else [self.trunk, self.top]

    @property
    def is_tied(self) -> bool:
        """Whether the model's input and output embeddings are one weight by its config."""
        return bool(getattr(self.config.get_text_config(), "tie_word_embeddings", False))

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits of hidden states, float32. ``(..., D)`` to ``(..., V)``."""
        logits: Tensor = self.unembedding(hidden.to(self.unembedding.weight.dtype))
        return logits.float()

    def encode(
        self,
        prompts: Sequence[str],
        responses: Sequence[Sequence[str]],
        max_response_tokens: int | None = None,
    ) -> PrefixBatch:
        """Encode ``G`` prompts with ``K`` responses each, on this model's device."""
        batch = encode(self.tokenizer, self.template, prompts, responses, max_response_tokens)
        return batch.to(self.device)

    def trunk_states(self, batch: PrefixBatch) -> States | None:
        """Run the frozen trunk, if there is one; several roles can start from its result."""
        if self.trunk is None:
            return None
        with torch.no_grad():
            return run(self.trunk, batch, share_prefix=self.share_prefix)

    def hidden(self, batch: PrefixBatch, below: States | None = None) -> Tensor:
        """Final hidden states of the continuations ``(N, 1 + R, D)``."""
        below = self.trunk_states(batch) if below is None else below
        return run(self.top, batch, below, self.share_prefix).continuation

    def logprobs(
        self, batch: PrefixBatch, below: States | None = None, temperature: float = 1.0
    ) -> Tensor:
        """Log-probability of each response token, 0 at padding. ``(N, R)`` float32.

        Args:
            batch: Texts to score.
            below: Trunk states of the batch where they are known.
            temperature: Divides the logits, as in sampling.
        """
        return self.logprobs_of(self.hidden(batch, below), batch, temperature)

    def logprobs_of(self, hidden: Tensor, batch: PrefixBatch, temperature: float = 1.0) -> Tensor:
        """Log-probability of each response token from final states ``(N, 1 + R, D)``. ``(N, R)``."""
        return taken_logprobs(
            hidden[:, :-1], self.unembedding, batch.response_ids, batch.is_response, temperature
        )


def taken_logprobs(
    hidden: Tensor,
    unembedding: nn.Linear | CappedHead,
    tokens: Tensor,
    is_real: Tensor,
    temperature: float,
) -> Tensor:
    """Log-probabilities of given tokens, a few hundred rows of logits at a time.

    Args:
        hidden: State before each token. ``(N, R, D)``
        unembedding: Output embedding.
        tokens: Token taken at each place. ``(N, R)`` int64
        is_real: Where to compute; elsewhere the result is 0. ``(N, R)`` bool
        temperature: Divides the logits, above 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0 to score tokens, got {temperature}")
    states, taken = hidden[is_real], tokens[is_real]
    parts = []
    for rows, picks in zip(states.split(LOGIT_ROWS), taken.split(LOGIT_ROWS), strict=True):
        if torch.is_grad_enabled():
            parts.append(
                checkpoint(
                    _logprob_rows, rows, unembedding, picks, temperature, use_reentrant=False
                )
            )
        else:
            parts.append(_logprob_rows(rows, unembedding, picks, temperature))
    result = hidden.new_zeros(tokens.shape, dtype=torch.float32)
    return result.masked_scatter(is_real, torch.cat(parts)) if parts else result


def _logprob_rows(
    rows: Tensor, unembedding: nn.Linear | CappedHead, picks: Tensor, temperature: float
) -> Tensor:
    logits = unembedding(rows.to(unembedding.weight.dtype)).float() / temperature
    return -nn.functional.cross_entropy(logits, picks, reduction="none")
