"""Write trained roles as plain transformers folders, adapters folded in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.core_model_loading import revert_weight_conversion

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.models.adapters import has_adapters, merged
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.export_check import WrittenCheck
from rlaif_pl.models.model_folder import save_causal
from rlaif_pl.models.model_info import exported_generation_config
from rlaif_pl.models.text_format import TextFormat, model_card

PAD = "<|pad_{}|>"  # added where a tokenizer has no other token to pad with than EOS


def decoder_weights(model: CausalModel, *, fold: bool = True) -> dict[str, Tensor]:
    """Return the weights of the whole decoder under the names of the uncut architecture.

    Adapters are folded in, in a float32 copy; without ``fold`` they are left out, which is right for
    names and shapes alone. Where there are none, the weights are the model's own.
    """
    top = merged(model.top) if fold and has_adapters(model.top) else model.top
    weights: dict[str, Tensor] = {}
    if model.trunk is not None:
        weights |= model.trunk.decoder.state_dict()
    for name, value in top.decoder.state_dict().items():
        if ".lora_" not in name:
            weights[name_in_whole(model, name.replace(".base_layer.", "."))] = value
    return weights


def name_in_whole(model: CausalModel, name: str) -> str:
    """Name a weight of a model's top as in the whole, uncut decoder."""
    kind, _, rest = name.partition(".")
    if model.trunk is None or kind not in ("layers", "h"):
        return name
    index, _, leaf = rest.partition(".")
    return f"{kind}.{int(index) + model.trunk.num_layers}.{leaf}"


def load_into(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give a module weights in float32, those that are so without a copy; all must fit (ValueError)."""
    exact = {n: w.float() if w.is_floating_point() else w for n, w in weights.items()}
    missing, unexpected = module.load_state_dict(exact, strict=False, assign=True)
    if missing or unexpected:
        raise ValueError(
            f"expected the weights of {type(module).__name__}, missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}"
        )


@torch.no_grad()
def save_policy(folder: str | Path, model: CausalModel) -> Path:
    """Write a policy, adapters folded in, as a causal LM that transformers loads; weights in float32.

    The folder is read again before it takes its place, whole or not at all (ValueError where it does
    not compute what the policy does). generation_config.json is kept, with all tokens that end a text.
    """
    check = WrittenCheck(model, model.unembedding)
    whole = _filled_policy(model)
    kept = exported_generation_config(model.info)
    if kept is not None:
        whole.generation_config = kept
    ends = model.tokenizer.convert_ids_to_tokens(sorted(model.info.stop_token_ids))
    return save_causal(
        folder,
        whole,
        model.tokenizer,
        model_card("policy", model.base, model.template, list(map(str, ends))),
        write_more=TextFormat(model.template).save,
        revision=commit_of(model),
        check=check.policy,
    )


@torch.no_grad()
def exported_weights(model: CausalModel) -> dict[str, Tensor]:
    """Return what ``save_policy`` writes by name; the model's own where nothing is folded in."""
    whole = _filled_policy(model)
    kept = {name for name, _ in whole.named_parameters()}  # a tied head stands once
    weights = {name: value for name, value in whole.state_dict().items() if name in kept}
    return dict(revert_weight_conversion(whole, weights))


def _filled_policy(model: CausalModel) -> PreTrainedModel:
    whole = _empty_policy(model)
    load_into(decoder_of(whole), decoder_weights(model))
    head = getattr(model.unembedding, "linear", model.unembedding)
    load_into(whole.get_output_embeddings(), head.state_dict())
    whole.tie_weights()
    return whole


@torch.no_grad()
def save_reward(
    folder: str | Path,
    model: CausalModel,
    head: nn.Linear,
    shift: float,
    pooling: str = "eos",
    max_response_tokens: int | None = None,
) -> Path:
    """Write a reward model as a one-label sequence classifier that transformers loads.

    Such a classifier reads the last token that is not padding, so its pad token must differ from
    EOS, where our reward stands; its logit is the reward before the shift (``config.reward_shift``).
    With ``config.reward_pooling`` "mean" the head reads the mean state of the response instead, which
    only this package's loader knows. The folder is read again before it takes its place.
    """
    check = WrittenCheck(model, head)
    whole = _empty_classifier(model)
    load_into(decoder_of(whole), decoder_weights(model))
    load_into(cast(nn.Linear, whole.score), head.state_dict())
    tokenizer = copy.deepcopy(model.tokenizer)
    pad = _pad_apart_from_eos(whole, tokenizer)
    for config in (whole.config, whole.config.get_text_config()):
        config.pad_token_id = pad
    whole.config.reward_shift = shift
    whole.config.reward_pooling = pooling
    return save_causal(
        folder,
        whole,
        tokenizer,
        model_card("mean" if pooling == "mean" else "eos", model.base, model.template),
        write_more=TextFormat(model.template, max_response_tokens).save,
        revision=commit_of(model),
        check=check.reward,
    )


def check_policy_export(model: CausalModel) -> int:
    """Refuse (ValueError) before training what ``save_policy`` could not write; bytes it will take."""
    return _check_shapes(model, _empty_policy)


def check_reward_export(model: CausalModel) -> int:
    """Refuse, before training, what ``save_reward`` could not write; see ``check_policy_export``."""
    return _check_shapes(model, _empty_classifier)


def _empty_policy(model: CausalModel) -> PreTrainedModel:
    """Return a causal LM of the model's architecture without weights: drawing them takes minutes."""
    config = copy.deepcopy(model.config)
    config.dtype = torch.float32
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _empty_classifier(model: CausalModel) -> PreTrainedModel:
    """Return a one-label classifier of the model's architecture without weights."""
    config = copy.deepcopy(model.config)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        kind = type(config).__name__.removesuffix("Config")
        raise ValueError(
            f"expected an architecture that transformers has a sequence classifier for, to export a "
            f"reward model, got {kind} ({model.base}): nothing could read its rewards again; start "
            "the reward model from a backbone that has one (Llama, Qwen, Mistral, Gemma, GPT-2, "
            "GPT-NeoX and most others); its policy may stay of this architecture"
        )
    config.num_labels = 1
    config.dtype = torch.float32
    with torch.device("meta"):
        whole = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    if not isinstance(getattr(whole, "score", None), nn.Linear):
        raise ValueError(
            f"expected a sequence classifier with one linear score, got {type(whole).__name__}; start "
            "the reward model from another backbone"
        )
    return whole


def _check_shapes(model: CausalModel, empty: Callable[[CausalModel], PreTrainedModel]) -> int:
    whole = empty(model)
    ours = {name: value.shape for name, value in decoder_weights(model, fold=False).items()}
    theirs = {name: value.shape for name, value in decoder_of(whole).state_dict().items()}
    if ours != theirs:
        odd = sorted(name for name in ours.keys() | theirs if ours.get(name) != theirs.get(name))
        raise ValueError(
            f"expected {type(whole).__name__} to take the weights of {model.base} for an export, it "
            f"differs in {odd[:3]}; start from another backbone"
        )
    return sum(weight.numel() * weight.element_size() for weight in whole.parameters())


def _pad_apart_from_eos(whole: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id to pad a reward model's texts with; named in the tokenizer, a row of the model.

    Tokenizers with one special token for everything (GPT-2, Pythia) get a token of their own, and
    the model a row for it, which is never attended to.
    """
    rows = cast(nn.Embedding, whole.get_input_embeddings()).num_embeddings
    pad = tokenizer.pad_token_id
    if pad is None or pad == tokenizer.eos_token_id:
        ids = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        usable = [token for token, n in ids.items() if n != tokenizer.eos_token_id and n < rows]
        named = [getattr(tokenizer, name, None) for name in ("unk_token", "bos_token")]
        other = next((token for token in [*named, *usable] if token in usable), None)
        if other is None:
            known = tokenizer.get_vocab()
            names = (PAD.format(number) for number in range(len(known) + 1))
            other = next(name for name in names if name not in known)
            tokenizer.add_special_tokens({"pad_token": other})
        tokenizer.pad_token = other
        pad = tokenizer.pad_token_id
    number = int(pad)  # type: ignore[arg-type]
    if number >= rows:
        whole.resize_token_embeddings(number + 1, mean_resizing=False)
        table = cast(nn.Embedding, whole.get_input_embeddings())
        table.weight[rows:] = 0.0  # not at random: it is in the file
    return number


def commit_of(model: CausalModel) -> str | None:
    """Commit of the hub model that config and tokenizer came from."""
    return getattr(model.config, "_commit_hash", None)
