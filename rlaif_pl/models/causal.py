"""A causal language model as trunk and top, with log-probabilities that never hold (N, T, V)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from rlaif_pl import ops
from rlaif_pl.models.backbone import CappedHead, head_logits
from rlaif_pl.models.encoding import PrefixBatch, encode, pad_of
from rlaif_pl.models.shared_prefix import States, run, states_before
from rlaif_pl.models.stack import Stack
from rlaif_pl.text import Template

LOGIT_ROWS = 256  # rows that a reader of whole logits takes at once: 48 MiB at 49,152 tokens


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
        # Of the loaded weights; who loads them says which they are.
        self.fingerprint, self.base = "unnamed", "unnamed"

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
        return head_logits(self.unembedding, hidden)

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
        """Final state before each response token ``(N, R, D)``; at padding it means nothing.

        Args:
            batch: Texts.
            below: Trunk states of the batch, or of its inputs, where they are known.
        """
        below = self.trunk_states(batch.inputs) if below is None else below
        return states_before(self.top, batch, below, self.share_prefix)

    def logprobs(
        self, batch: PrefixBatch, below: States | None = None, temperature: float = 1.0
    ) -> Tensor:
        """Log-probability of each response token, 0 at padding. ``(N, R)`` float32.

        Args:
            batch: Texts to score.
            below: Trunk states of the batch, or of its inputs, where they are known.
            temperature: Divides the logits, as in sampling.
        """
        return self.logprobs_of(self.hidden(batch, below), batch, temperature)

    def logprobs_of(self, hidden: Tensor, batch: PrefixBatch, temperature: float = 1.0) -> Tensor:
        """Log-probability of each response token from the states before them. ``(N, R)``."""
        return self.token_facts(hidden, batch, temperature).logprobs

    def token_facts(
        self,
        hidden: Tensor,
        batch: PrefixBatch,
        temperature: float = 1.0,
        *,
        entropy_gradient: bool = False,
    ) -> TokenFacts:
        """Log-probability and entropy at each response token from the states before them."""
        return token_facts(
            hidden,
            self.unembedding,
            batch.response_ids,
            batch.is_response,
            temperature,
            entropy_gradient=entropy_gradient,
        )


class TokenFacts(NamedTuple):
    """What a policy says at each place of a response, in nats; 0 at padding."""

    logprobs: Tensor  # (N, R) float32, of the token taken
    entropy: Tensor  # (N, R) float32, of the whole distribution


def token_facts(
    hidden: Tensor,
    unembedding: nn.Linear | CappedHead,
    tokens: Tensor,
    is_real: Tensor,
    temperature: float,
    *,
    entropy_gradient: bool = False,
) -> TokenFacts:
    """Log-probabilities of given tokens and entropies, without the logits of all of them.

    Args:
        hidden: State before each token. ``(N, R, D)``
        unembedding: Output embedding, capped or not.
        tokens: Token taken at each place. ``(N, R)`` int64
        is_real: Where to compute; elsewhere the results are 0. ``(N, R)`` bool
        temperature: Divides the logits, above 0.
        entropy_gradient: Whether the entropy is differentiable; it costs the logits a second time
            in the backward pass where the output embedding is frozen.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0 to score tokens, got {temperature}")
    capped = unembedding if isinstance(unembedding, CappedHead) else None
    linear = unembedding if isinstance(unembedding, nn.Linear) else unembedding.linear
    found = ops.linear_logprob(
        hidden[is_real].to(linear.weight.dtype),
        linear.weight,
        tokens[is_real],
        temperature,
        bias=linear.bias,
        softcap=None if capped is None else capped.cap,
        entropy_gradient=entropy_gradient,
    )
    empty = found[0].new_zeros(tokens.shape)
    return TokenFacts(*(empty.masked_scatter(is_real, part) for part in found))
