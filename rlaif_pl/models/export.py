"""Write trained roles as plain transformers folders, adapters folded in."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.models.adapters import merged
from rlaif_pl.models.backbone import save_causal
from rlaif_pl.models.card import policy_card, reward_card
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.model_info import exported_generation_config


def decoder_weights(model: CausalModel) -> dict[str, Tensor]:
    """Return the weights of the whole decoder under the names of the uncut architecture."""
    top = merged(model.top).decoder
    if model.trunk is None:
        return dict(top.state_dict())
    lower = model.trunk.decoder.state_dict()
    weights = dict(lower)
    for name, value in top.state_dict().items():
        kind, _, rest = name.partition(".")
        if kind in ("layers", "h"):
            index, _, leaf = rest.partition(".")
            name = f"{kind}.{int(index) + model.trunk.num_layers}.{leaf}"
        weights[name] = value
    return weights


def load_into(decoder: PreTrainedModel, weights: dict[str, Tensor]) -> None:
    """Fill a decoder; a weight without a place, or a place without a weight, is an error."""
    missing, unexpected = decoder.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise ValueError(
            f"expected the weights of {type(decoder).__name__}, missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}"
        )


@torch.no_grad()
def save_policy(folder: str | Path, model: CausalModel) -> Path:
    """Write a policy as a causal LM that transformers loads; weights in float32.

    generation_config.json is kept, with all tokens that end a text.

    Args:
        folder: Where to; replaced whole or not at all.
        model: Policy, with or without adapters.
    """
    config = copy.deepcopy(model.config)
    config.dtype = torch.float32
    whole = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    load_into(decoder_of(whole), decoder_weights(model))
    if not model.is_tied:
        head = getattr(model.unembedding, "linear", model.unembedding)
        whole.get_output_embeddings().load_state_dict(head.state_dict())
    whole.tie_weights()
    kept = exported_generation_config(model.info)
    if kept is not None:
        whole.generation_config = kept
    ends = model.tokenizer.convert_ids_to_tokens(sorted(model.info.stop_token_ids))
    card = policy_card(model.base, model.template, list(map(str, ends)))
    return save_causal(folder, whole, model.tokenizer, card)


@torch.no_grad()
def save_reward(
    folder: str | Path, model: CausalModel, head: nn.Linear, shift: float, pooling: str = "eos"
) -> Path:
    """Write a reward model as a one-label sequence classifier that transformers loads.

    Such a classifier reads the last token that is not padding, so its pad token must differ from
    EOS, where our reward stands; its logit is the reward before the shift (``config.reward_shift``).
    With ``config.reward_pooling`` "mean" the head reads the mean state of the response instead, which
    only this package's loader knows.
    """
    config = copy.deepcopy(model.config)
    tokenizer = copy.deepcopy(model.tokenizer)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = other_special_token(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    config.num_labels = 1
    config.reward_shift = shift
    config.reward_pooling = pooling
    config.dtype = torch.float32
    whole = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    load_into(decoder_of(whole), decoder_weights(model))
    whole.score.load_state_dict(head.state_dict())
    card = reward_card(model.base, model.template, pooling)
    return save_causal(folder, whole, tokenizer, card)


def other_special_token(tokenizer: object) -> str:
    """Return a special token that is not EOS, to pad with.

    Raises:
        ValueError: The tokenizer has none; a reward could not be told from padding.
    """
    tokens = [t for t in tokenizer.all_special_tokens if t != tokenizer.eos_token]  # type: ignore[attr-defined]
    for name in ("unk_token", "bos_token"):
        token = getattr(tokenizer, name, None)
        if token in tokens:
            return str(token)
    if tokens:
        return str(tokens[0])
    raise ValueError(
        "expected a special token besides EOS to pad with, got none; add one with "
        "tokenizer.add_special_tokens({'pad_token': ...}) and resize the embeddings"
    )
