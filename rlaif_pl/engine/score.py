"""Log-probabilities of given tokens, without the logits of all of them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlaif_pl import ops
from rlaif_pl.engine.batch import to_device
from rlaif_pl.engine.sampling import SamplingParams, filter_logits

# Held at a time where all of a row are needed; on CUDA a 128th of the memory if more.
LOGITS = 1 << 24


class CappedHead(nn.Module):
    """Output embedding ``(V, D)`` followed by ``cap * tanh(logits / cap)``, as Gemma 2 has it."""

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


def _parts(head: nn.Linear | CappedHead) -> tuple[nn.Linear, float | None]:
    return (head.linear, head.cap) if isinstance(head, CappedHead) else (head, None)


def head_logits(head: nn.Linear | CappedHead, hidden: Tensor) -> Tensor:
    """Vocabulary logits ``(..., V)`` of final states ``(..., D)``; float32, or float64 of such."""
    linear, cap = _parts(head)
    rows = hidden.flatten(0, -2).to(linear.weight.dtype)
    logits = ops.linear_logits(rows, linear.weight, linear.bias).unflatten(0, hidden.shape[:-1])
    return logits if cap is None else cap * torch.tanh(logits / cap)


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
        (unused,) = to_device([vocabulary.unused_token_ids], logits.device)
        logits = logits.index_fill(-1, unused, -torch.inf)
    return logits


class TokenLogprobs(NamedTuple):
    """What a policy says of tokens taken, in nats; ``(tokens,)``, or ``(N, R)`` with 0 at padding."""

    logprobs: Tensor  # float32, of the token taken
    entropy: Tensor  # float32, of the whole distribution


class Drawer(NamedTuple):
    """What decides which tokens could be drawn."""

    hidden: Tensor  # (tokens, D) the drawing policy's state before each token
    head: nn.Linear | CappedHead


def token_logprobs(
    hidden: Tensor,
    unembedding: nn.Linear | CappedHead,
    tokens: Tensor,
    params: SamplingParams,
    *,
    entropy_gradient: bool = False,
    info: Vocabulary | None = None,
    drawn_from: Drawer | None = None,
) -> TokenLogprobs:
    """Log-probabilities of given tokens and entropies, without the logits of all of them.

    The distribution is that which sampling draws from: over the ids that the tokenizer has, at the
    sampling temperature, and with filters only over the tokens that they keep.

    Args:
        hidden: State before each token. ``(tokens, D)``
        unembedding: Output embedding, capped or not.
        tokens: Tokens taken. ``(tokens,)`` int64
        params: How the tokens were drawn, at a temperature above 0.
        entropy_gradient: Whether the entropy is differentiable, which costs the logits once more.
        info: Says which ids the tokenizer has; None for all.
        drawn_from: Who drew the tokens, where it is another: its filters decide what is scored over.
    """
    if params.temperature <= 0:
        raise ValueError(f"temperature must be above 0 to score tokens, got {params.temperature}")
    if params.filters:
        return _over_kept(hidden, unembedding, tokens, params, info, drawn_from)
    linear, cap = _parts(unembedding)
    weight: Tensor = linear.weight
    bias: Tensor | None = linear.bias
    if info is not None and info.unused_token_ids:
        # Rare: a copy of the rows that are read, since a mask would have to go into the kernel.
        kept = sorted({*range(info.vocab_size)}.difference(info.unused_token_ids))
        (rows,) = to_device([kept], weight.device)
        weight = weight.index_select(0, rows)
        bias = None if bias is None else bias.index_select(0, rows)
        tokens = torch.searchsorted(rows, tokens)
    elif info is not None and info.vocab_size < len(weight):
        weight = weight[: info.vocab_size]
        bias = None if bias is None else bias[: info.vocab_size]
    found = ops.linear_logprob(
        hidden.to(weight.dtype),
        weight,
        tokens,
        params.temperature,
        bias=bias,
        softcap=cap,
        entropy_gradient=entropy_gradient,
    )
    return TokenLogprobs(*found)


def _over_kept(
    hidden: Tensor,
    head: nn.Linear | CappedHead,
    tokens: Tensor,
    params: SamplingParams,
    info: Vocabulary | None,
    drawn_from: Drawer | None,
) -> TokenLogprobs:
    drawer = Drawer(hidden, head) if drawn_from is None else drawn_from

    def logits_of(head: nn.Linear | CappedHead, states: Tensor) -> Tensor:
        logits = head_logits(head, states)
        return logits if info is None else mask_unused(logits, info)

    def part(states: Tensor, drawing: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits_of(head, states)
        with torch.no_grad():
            own = logits if drawn_from is None else logits_of(drawer.head, drawing)
            kept = filter_logits(own, params).isfinite()
            # What was drawn was kept, whatever the rounding of another pass says at the border.
            kept.scatter_(1, taken[:, None], True)
        logprobs = (logits / params.temperature).masked_fill(~kept, -torch.inf).log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs.masked_fill(~kept, 0.0)).sum(-1)
        return logprobs.gather(1, taken[:, None])[:, 0], entropy

    most = max(LOGITS, ops.device_memory(hidden.device) >> 9)
    size = max(1, most // (head.weight.shape[0] if info is None else info.vocab_size))
    cut = (rows.split(size) for rows in (hidden, drawer.hidden, tokens))
    found = [checkpoint(part, *rows, use_reentrant=False) for rows in zip(*cut, strict=True)]
    return TokenLogprobs(*(torch.cat(parts) for parts in zip(*found, strict=True)))
