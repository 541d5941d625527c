"""What turns a decoder's hidden states into logits, tried on the model itself."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.noise import FACTOR, error_in_noise, word_ids
from rlaif_pl.engine.score import CappedHead, head_logits


def output_head(model: PreTrainedModel) -> nn.Linear | CappedHead:
    """Return what turns the decoder's last hidden states into logits.

    Calling it on chosen rows saves the logits of all others. Architectures that do more there than
    multiply and cap (Cohere and Granite scale) are caught by a self-test, not guessed.

    Raises:
        ValueError: The head and the decoder do not reproduce the model's own logits.
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
