"""What reads a decoder's states: a head of logits, tried on the model itself, or of one number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from typing_extensions import override

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.noise import FACTOR, error_in_noise, word_ids
from rlaif_pl.engine.score import CappedHead, head_logits
from rlaif_pl.models.device import HALVES


class ScalarHead(nn.Linear):
    """Linear map from a state ``(D,)`` to a reward or a value, in float32.

    Margins and returns need all 24 bits: the weights stay float32 where a trainer casts the module to
    16 bits (``bf16-true``), and the product is made outside autocast.
    """

    def __init__(self, width: int, bias: bool = True) -> None:
        super().__init__(width, 1, bias)

    @override
    def forward(self, states: Tensor) -> Tensor:
        """One number a state. ``(..., D)`` to ``(...)``."""
        with torch.autocast(states.device.type, enabled=False):
            return F.linear(states.to(self.weight.dtype), self.weight, self.bias).squeeze(-1)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in HALVES else moved

        return super()._apply(kept, recurse)


def output_head(model: PreTrainedModel) -> nn.Linear | CappedHead:
    """Return what turns the decoder's last hidden states into logits, and may be called on some alone.

    Architectures that do more there than multiply and cap (Cohere and Granite scale) are caught by a
    self-test (ValueError), not guessed.
    """
    linear = cast(nn.Linear, model.get_output_embeddings())
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    head = linear if cap is None else CappedHead(linear, float(cap))
    ids = word_ids(linear.weight.shape[0], 8, linear.weight.device)[None]

    def whole() -> Tensor:
        return cast(Tensor, model(input_ids=ids).logits[0])

    with torch.no_grad():
        parts = head_logits(head, decoder_of(model)(input_ids=ids).last_hidden_state[0])
        error = error_in_noise(parts, whole(), whole, model)
    if not error <= FACTOR:
        raise ValueError(
            f"expected {type(model).__name__}'s decoder and output embedding to reproduce its "
            f"logits, got some off by {error:.1e} times its rounding; use a model of another "
            "architecture"
        )
    return head
