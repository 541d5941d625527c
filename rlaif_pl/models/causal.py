"""A causal language model as trunk and top, with log-probabilities that never hold (N, T, V)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from rlaif_pl.engine.hidden_states import hidden_states, states_before
from rlaif_pl.engine.response_batch import HiddenStates, ResponseBatch
from rlaif_pl.engine.runner import DecoderRunner
from rlaif_pl.engine.score import CappedHead, TokenLogprobs, head_logits, token_logprobs
from rlaif_pl.models.encoding import encode, pad_of
from rlaif_pl.text import Template


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
        trunk: DecoderRunner | None,
        top: DecoderRunner,
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
        self.end_ids: frozenset[int] = frozenset({self.eos})
        self.share_prefix = True
        # Of the loaded weights; who loads them says which they are.
        self.fingerprint, self.base = "unnamed", "unnamed"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.unembedding.weight.device

    @property
    def stacks(self) -> list[DecoderRunner]:
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
    ) -> ResponseBatch:
        """Encode ``G`` prompts with ``K`` responses each, on this model's device."""
        batch = encode(self.tokenizer, self.template, prompts, responses, max_response_tokens)
        return batch.to(self.device)

    def trunk_states(self, batch: ResponseBatch) -> HiddenStates | None:
        """Run the frozen trunk, if there is one; several roles can start from its result."""
        if self.trunk is None:
            return None
        with torch.no_grad():
            return hidden_states(self.trunk, batch, share_prefix=self.share_prefix)

    def hidden(self, batch: ResponseBatch, below: HiddenStates | None = None) -> Tensor:
        """Final state before each response token ``(N, R, D)``; at padding it means nothing.

        Args:
            batch: Texts.
            below: Trunk states of the batch, or of its inputs, where they are known.
        """
        below = self.trunk_states(batch.inputs) if below is None else below
        return states_before(self.top, batch, below, self.share_prefix)

    def logprobs(
        self, batch: ResponseBatch, below: HiddenStates | None = None, temperature: float = 1.0
    ) -> Tensor:
        """Log-probability of each response token, 0 at padding. ``(N, R)`` float32.

        Args:
            batch: Texts to score.
            below: Trunk states of the batch, or of its inputs, where they are known.
            temperature: Divides the logits, as in sampling.
        """
        return self.logprobs_of(self.hidden(batch, below), batch, temperature)

    def logprobs_of(self, hidden: Tensor, batch: ResponseBatch, temperature: float = 1.0) -> Tensor:
        """Log-probability of each response token from the states before them. ``(N, R)``."""
        return self.token_logprobs(hidden, batch, temperature).logprobs

    def token_logprobs(
        self,
        hidden: Tensor,
        batch: ResponseBatch,
        temperature: float = 1.0,
        *,
        entropy_gradient: bool = False,
    ) -> TokenLogprobs:
        """Log-probability and entropy at each response token from the states before them."""
        return token_logprobs(
            hidden,
            self.unembedding,
            batch.response_ids,
            batch.is_response,
            temperature,
            entropy_gradient=entropy_gradient,
        )

    def texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Decode responses, without special tokens and surrounding white space."""
        texts = self.tokenizer.batch_decode([list(row) for row in tokens], skip_special_tokens=True)
        return [text.strip() for text in texts]
