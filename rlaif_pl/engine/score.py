"""Log-probabilities of given tokens, without the logits of all of them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from rlaif_pl import ops


class CappedHead(nn.Module):
    """Output embedding followed by ``cap * tanh(logits / cap)``, as Gemma 2 has it.

    Args:
        linear: Output embedding ``(V, D)``.
        cap: Bound of the logits, above 0.
    """

    def __init__(self, linear: nn.Linear, cap: float) -> None:
        super().__init__()
        self.linear = linear
        self.cap = cap

    @property
    def weight(self) -> Tensor:
        """Weight of the output embedding."""
        return self.linear.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits ``(..., V)`` of hidden states ``(..., D)``."""
        return self.cap * torch.tanh(self.linear(hidden) / self.cap)


def head_logits(head: nn.Linear | CappedHead, hidden: Tensor) -> Tensor:
    """Vocabulary logits of final hidden states, never rounded to 16 bits.

    Args:
        head: Output embedding, capped or not.
        hidden: ``(..., D)``

    Returns:
        ``(..., V)`` float32, or float64 where the head is.
    """
    linear = head.linear if isinstance(head, CappedHead) else head
    weight = linear.weight
    rows = hidden.flatten(0, -2).to(weight.dtype)
    logits = ops.linear_logits(rows, weight, linear.bias).unflatten(0, hidden.shape[:-1])
    return head.cap * torch.tanh(logits / head.cap) if isinstance(head, CappedHead) else logits


class Vocabulary(Protocol):
    """Which rows of an output embedding stand for tokens."""

    @property
    def vocab_size(self) -> int:
        """Rows up to the last token."""

    @property
    def unused_token_ids(self) -> tuple[int, ...]:
        """Rows before it that no token has."""


def mask_unused(logits: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Leave out the logits of ids that no token has. ``(..., rows)`` to ``(..., vocab_size)``."""
    logits = logits[..., : vocabulary.vocab_size]
    if vocabulary.unused_token_ids:
        unused = torch.tensor(vocabulary.unused_token_ids, device=logits.device)
        logits = logits.index_fill(-1, unused, -torch.inf)
    return logits


class TokenLogprobs(NamedTuple):
    """What a policy says at each place of a response, in nats; 0 at padding."""

    logprobs: Tensor  # (N, R) float32, of the token taken
    entropy: Tensor  # (N, R) float32, of the whole distribution


def token_logprobs(
    hidden: Tensor,
    unembedding: nn.Linear | CappedHead,
    tokens: Tensor,
    is_real: Tensor,
    temperature: float,
    *,
    entropy_gradient: bool = False,
    info: Vocabulary | None = None,
) -> TokenLogprobs:
    """Log-probabilities of given tokens and entropies, without the logits of all of them.

    The distribution is that which sampling draws from: over the ids that the tokenizer has.

    Args:
        hidden: State before each token. ``(N, R, D)``
        unembedding: Output embedding, capped or not.
        tokens: Token taken at each place. ``(N, R)`` int64
        is_real: Where to compute; elsewhere the results are 0. ``(N, R)`` bool
        temperature: Divides the logits, above 0.
        entropy_gradient: Whether the entropy is differentiable; it costs the logits a second time
            in the backward pass where the output embedding is frozen.
        info: Says which ids the tokenizer has; None for all.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0 to score tokens, got {temperature}")
    capped = unembedding if isinstance(unembedding, CappedHead) else None
    linear = unembedding if isinstance(unembedding, nn.Linear) else unembedding.linear
    taken = tokens[is_real]
    weight: Tensor = linear.weight
    bias: Tensor | None = linear.bias
    if info is not None and info.unused_token_ids:
        # Rare: a copy of the rows that are read, since a mask would have to go into the kernel.
        used = torch.ones(info.vocab_size, dtype=torch.bool, device=weight.device)
        used[torch.tensor(info.unused_token_ids, device=weight.device)] = False
        weight = weight[: info.vocab_size][used]
        bias = None if bias is None else bias[: info.vocab_size][used]
        taken = (used.cumsum(0) - 1)[taken]
    elif info is not None and info.vocab_size < len(weight):
        weight = weight[: info.vocab_size]
        bias = None if bias is None else bias[: info.vocab_size]
    found = ops.linear_logprob(
        hidden[is_real].to(weight.dtype),
        weight,
        taken,
        temperature,
        bias=bias,
        softcap=None if capped is None else capped.cap,
        entropy_gradient=entropy_gradient,
    )
    empty = found[0].new_zeros(tokens.shape)
    return TokenLogprobs(*(empty.masked_scatter(is_real, part) for part in found))
