"""Load causal language models: the embedded one, a folder, or one of the hub's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from rlaif_pl.models.adapter_folder import (
    AdapterSource,
    adapter_identity,
    adapter_source,
    merge_adapter,
)
from rlaif_pl.models.device import fast_dtype, resolve_device
from rlaif_pl.models.embedded import embedded_model_folder
from rlaif_pl.models.identity import weights_identity
from rlaif_pl.models.model_info import ModelInfo, model_info
from rlaif_pl.models.prepare import drop_dropout, recompute_activations
from rlaif_pl.models.suited import (
    refuse_classifier,
    refuse_incomplete,
    require_decoder,
)

EMBEDDED = "smollm2-135m"
Precision = Literal["float32", "bfloat16", "auto"]


@dataclass(frozen=True, slots=True)
class Backbone:
    """A loaded causal language model."""

    model: PreTrainedModel  # frozen, in eval mode, without dropout
    tokenizer: PreTrainedTokenizerBase  # its tokenizer; it may have no pad token
    fingerprint: str  # identity of the weights, layers and precision; equal on every machine
    info: ModelInfo  # its end tokens, padding, vocabulary and longest text


def load_backbone(
    name: str = EMBEDDED,
    *,
    num_layers: int | None = None,
    dtype: Precision = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
    gradient_checkpointing: bool = False,
    decoder_only: bool = False,
    device: torch.device | None = None,
) -> Backbone:
    """Load a causal language model and its tokenizer.

    Args:
        name: ``smollm2-135m`` (embedded), a local transformers folder, one of PEFT adapters (its base
            is loaded and they are folded in), or a hub name.
        num_layers: Keep only the first layers, at least 1; None keeps them all.
        dtype: Type of the weights; ``auto`` is bfloat16 where the model's device computes it fast.
        revision: Branch, tag or commit of a hub model.
        trust_remote_code: Run Python code that comes with the model.
        gradient_checkpointing: Recompute activations in the backward pass (in train mode only).
        decoder_only: Refuse encoders and encoder-decoders, which only labelers take.
        device: Where to put it; None leaves it on the CPU for whoever moves it, and ``auto`` is then
            the type for the device that ``resolve_device("auto")`` names.

    Raises:
        OSError: There is no such model, or it cannot be reached.
        ValueError: ``num_layers`` is out of range, the model suits no such role, or the files lack
            weights of the architecture.
    """
    adapters = adapter_source(name)
    if adapters is not None:
        return _with_adapters(
            adapters,
            num_layers,
            dtype,
            device,
            trust_remote_code=trust_remote_code,
            gradient_checkpointing=gradient_checkpointing,
            decoder_only=decoder_only,
        )
    source = str(embedded_model_folder()) if name == EMBEDDED else name
    config, tokenizer = _load_config(name, source, revision, trust_remote_code)
    refuse_classifier(name, config)
    if decoder_only:
        require_decoder(name, config)
    torch_dtype = resolve_dtype(dtype, device)
    identity = _full_identity(name, source, config, revision, num_layers, torch_dtype)
    drop_dropout(config)
    model = _load_weights(source, config, torch_dtype, revision, trust_remote_code)
    if gradient_checkpointing:
        recompute_activations(model)
    written, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
    info = model_info(name, tokenizer, config, written, _rows(model), model.generation_config)
    model = model.eval().requires_grad_(False)
    if device is not None:
        model.to(device)  # type: ignore[arg-type]
    return Backbone(model, tokenizer, identity, info)


def fingerprint_of(
    name: str = EMBEDDED,
    *,
    num_layers: int | None = None,
    dtype: Precision = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: torch.device | None = None,
) -> str:
    """Return the fingerprint that ``load_backbone`` would give, without reading weights into memory."""
    adapters = adapter_source(name)
    if adapters is not None:
        below = fingerprint_of(
            adapters.base,
            dtype=dtype,
            revision=adapters.revision,
            trust_remote_code=trust_remote_code,
            device=device,
        )
        return f"{adapter_identity(adapters.folder)}:{below}"
    source = str(embedded_model_folder()) if name == EMBEDDED else name
    config, _ = _load_config(name, source, revision, trust_remote_code)
    torch_dtype = resolve_dtype(dtype, device)
    return _full_identity(name, source, config, revision, num_layers, torch_dtype)


def _with_adapters(
    adapters: AdapterSource,
    num_layers: int | None,
    dtype: Precision,
    device: torch.device | None,
    *,
    trust_remote_code: bool,
    gradient_checkpointing: bool,
    decoder_only: bool,
) -> Backbone:
    """Load the base of an adapter folder in float32, fold the adapters in, and then round."""
    if num_layers is not None:
        raise ValueError(
            f"expected num_layers=null with the adapters in {adapters.folder}, got {num_layers}; they "
            "belong to all layers of their base"
        )
    base = load_backbone(
        adapters.base,
        revision=adapters.revision,
        trust_remote_code=trust_remote_code,
        gradient_checkpointing=gradient_checkpointing,
        decoder_only=decoder_only,
    )
    model = merge_adapter(base.model, adapters.folder).eval().requires_grad_(False)
    model.to(dtype=resolve_dtype(dtype, device), device=device)  # type: ignore[call-overload]
    tokenizer, info = base.tokenizer, base.info
    if (adapters.folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(
            adapters.folder, trust_remote_code=trust_remote_code
        )
        info = _info_with(tokenizer, str(adapters.folder), model, base.info)
    identity = fingerprint_of(
        str(adapters.folder), dtype=dtype, trust_remote_code=trust_remote_code, device=device
    )
    return Backbone(model, tokenizer, identity, info)


def _info_with(
    tokenizer: PreTrainedTokenizerBase, name: str, model: PreTrainedModel, base: ModelInfo
) -> ModelInfo:
    """Gather the facts about a model of adapters with a tokenizer of their own.

    They may have been trained to end texts otherwise than their base, whose ends are ends still.
    """
    ends = [base.eos_token_id, *sorted(base.stop_token_ids - {base.eos_token_id})]
    written = {"eos_token_id": ends}
    return model_info(name, tokenizer, model.config, written, _rows(model), base.generation_config)


def _rows(model: PreTrainedModel) -> int:
    """Tokens that a model has a row for."""
    head = model.get_output_embeddings() or model.get_input_embeddings()
    return int(cast(Tensor, head.weight).shape[0])


def resolve_dtype(dtype: Precision, device: torch.device | None = None) -> torch.dtype:
    """Return the torch type for a precision.

    Args:
        dtype: The precision.
        device: What ``auto`` depends on: where the weights go; None for ``resolve_device("auto")``.

    Raises:
        ValueError: The precision is unknown.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype == "auto":
        return fast_dtype(resolve_device() if device is None else device)
    if dtype not in known:
        raise ValueError(f"dtype must be one of {[*known, 'auto']}, got {dtype!r}")
    return known[dtype]


def _load_config(
    name: str, source: str, revision: str | None, trust_remote_code: bool
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Load the small files first, so that a wrong name fails at once and with one message."""
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(source, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except OSError as error:
        raise OSError(
            f"expected a model named {name!r}: looked for the embedded model ({EMBEDDED!r}), a "
            f"transformers folder at {Path(name).resolve()}, and the hub (cache and network); "
            f"check the name, or give the path of a folder with config.json, weights and "
            f"tokenizer. Cause: {str(error).splitlines()[0]}"
        ) from error
    return config, cast(PreTrainedTokenizerBase, tokenizer)


def _load_weights(
    source: str,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    revision: str | None,
    trust_remote_code: bool,
) -> PreTrainedModel:
    """Read the weights that the config asks for; one that is not there is an error."""
    is_encoder_decoder = getattr(config, "is_encoder_decoder", False)
    kind = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    with quiet_loading():
        loaded = kind.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    model, info = cast("tuple[PreTrainedModel, dict[str, set[str]]]", loaded)
    refuse_incomplete(source, model, info["missing_keys"], info["unexpected_keys"])
    return model


def _prune(config: PreTrainedConfig, num_layers: int) -> None:
    """Keep the first layers; the others are then never read from disk."""
    text = config.get_text_config()
    if not 1 <= num_layers <= text.num_hidden_layers:
        raise ValueError(
            f"num_layers must be in [1, {text.num_hidden_layers}] for this model, got {num_layers}"
        )
    text.num_hidden_layers = num_layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:num_layers]


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Hide progress bars and the report on layers left out on purpose; missing ones are checked."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _full_identity(
    name: str,
    source: str,
    config: PreTrainedConfig,
    revision: str | None,
    num_layers: int | None,
    dtype: torch.dtype,
) -> str:
    """Name weights, layers and precision; also cuts the layers off in the config."""
    if num_layers is not None:
        _prune(config, num_layers)
    label = EMBEDDED if name == EMBEDDED else None
    kept = "all" if num_layers is None else str(num_layers)
    precision = str(dtype).removeprefix("torch.")
    return f"{weights_identity(source, config, revision, label)}:layers={kept}:{precision}"
