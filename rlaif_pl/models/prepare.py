"""How a loaded model is made ready for a role: frozen, cast, with the head that makes its logits."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from rlaif_pl.engine.decoder_layers import decoder_of, keep_softcap
from rlaif_pl.engine.noise import FACTOR, error_in_noise, word_ids
from rlaif_pl.engine.score import CappedHead, head_logits


def note_tying(config: PreTrainedConfig, model: PreTrainedModel) -> None:
    """Let a config say of the embeddings what the weights are: one matrix, or two.

    transformers loads two different matrices beside ``tie_word_embeddings: true``; whoever goes by the
    flag afterwards would put one in the place of the other.
    """
    output = model.get_output_embeddings()
    if output is not None:
        is_tied = output.weight is model.get_input_embeddings().weight
        for each in (config, config.get_text_config()):
            each.tie_word_embeddings = is_tied


def freeze(model: PreTrainedModel, gradient_checkpointing: bool) -> None:
    """Freeze a model, in eval mode; dropout is off in train mode too, in which layers recompute."""
    drop_dropout(model.config)
    keep_softcap(model)
    for module in model.modules():
        drop_dropout(module)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if gradient_checkpointing:
        # transformers renames it from gradient_ to activation_; the argument stays the first
        old = model.gradient_checkpointing_enable
        getattr(model, "activation_checkpointing_enable", old)({"use_reentrant": False})
    model.eval().requires_grad_(False)


def drop_dropout(holder: PreTrainedConfig | nn.Module) -> None:
    """Turn dropout off: with it the log-ratio to the reference is not 0 at the first step."""
    own = holder.get_text_config() if isinstance(holder, PreTrainedConfig) else holder
    for name, value in list(vars(own).items()):
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(own, name, 0.0)


def cast_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Bring parameters to a type; buffers stay (rotary frequencies need float32)."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def output_head(model: PreTrainedModel) -> nn.Linear | CappedHead:
    """Return what turns the decoder's last hidden states, or some of them alone, into logits.

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
        try:
            error = error_in_noise(parts, whole(), whole, model)
        except ValueError as wrong:  # nothing can be told of it
            raise ValueError(
                f"expected {model.name_or_path or type(model).__name__} to tell texts apart, got that "
                f"{wrong}; its weights are damaged, diverged, or too large for {model.dtype}: take "
                "others, or dtype float32"
            ) from wrong
    if not error <= FACTOR:
        raise ValueError(
            f"expected {type(model).__name__}'s decoder and output embedding to reproduce its "
            f"logits, got some off by {error:.1e} times its rounding; use a model of another "
            "architecture"
        )
    return head
