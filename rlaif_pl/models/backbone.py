"""Load causal language models: the embedded one, a folder, or one of the hub's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast

import torch
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

from rlaif_pl.errors import one_of
from rlaif_pl.models import prepare, suited
from rlaif_pl.models.adapters import (
    CONFIG,
    AdapterSource,
    adapter_identity,
    adapter_source,
    merge_adapter,
)
from rlaif_pl.models.device import fast_dtype, resolve_device
from rlaif_pl.models.embedded import embedded_model_folder, embedded_source
from rlaif_pl.models.model_info import UNNAMED, ModelInfo, model_info, weights_identity

EMBEDDED = "smollm2-135m"
CONFIGS = ("config.json", CONFIG)  # of which a model's folder has one
Precision = Literal["float32", "bfloat16", "auto"]


@dataclass(frozen=True)
class BackboneOptions:
    """Which model to load and how it is cut.

    Attributes:
        name: ``smollm2-135m`` (embedded), a transformers folder, one of PEFT adapters (its base is
            loaded and they are folded in), or a hub name.
        num_layers: Keep only the first layers of the model, at least 1; None keeps all.
        trunk_layers: First layers that stay frozen and can be shared by several roles; 0 for none.
        dtype: Type of the frozen weights; ``auto`` is bfloat16 where the model's device computes it
            fast. Weights that are trained are float32 whatever this says, and so is the reference of
            a policy that is trained whole.
        gradient_checkpointing: Recompute layers in the backward pass (in train mode only): less memory,
            more time.
        revision: Branch, tag or commit of a hub model.
        trust_remote_code: Run Python code that comes with a hub model.
        create_with: Command that makes the folder; named in the error where the folder is absent.
    """

    name: str = EMBEDDED
    num_layers: int | None = None
    trunk_layers: int = 0
    dtype: Precision = "float32"
    gradient_checkpointing: bool = False
    revision: str | None = None
    trust_remote_code: bool = False
    create_with: str | None = None

    def check_exists(self) -> None:
        """Refuse a model that is not there, as far as the hub need not be asked (FileNotFoundError)."""
        if self.create_with is not None and not Path(self.name).is_dir():
            raise FileNotFoundError(
                f"expected a model folder at {self.name}, there is none; make it with: "
                f"{self.create_with}"
            )
        folder = Path(self.name)
        if self.name == EMBEDDED:
            embedded_source()
        elif folder.is_file():
            do = "name the folder that has config.json, weights and tokenizer"
            if folder.suffix == ".gguf":
                do = (
                    "make a folder of it with transformers: from_pretrained(..., gguf_file=...), then "
                    "save_pretrained, of model and tokenizer"
                )
            raise FileNotFoundError(f"expected a model folder, got the file {folder}; {do}")
        elif folder.is_dir() and not any((folder / name).is_file() for name in CONFIGS):
            raise FileNotFoundError(
                f"expected a model in the folder {folder}, got one without config.json; name the "
                "folder that has config.json, weights and tokenizer"
            )
        elif not folder.exists() and (self.name[0] in "/.~" or self.name.count("/") > 1):
            raise FileNotFoundError(
                f"expected a model folder at {folder.absolute()}, there is none; check the name"
            )
        elif (
            "/" not in self.name
            and not folder.exists()
            and get_close_matches(self.name.lower(), [EMBEDDED])
        ):
            raise FileNotFoundError(
                f"expected a model folder or a name on the hub, got {self.name!r}; did you mean "
                f"{EMBEDDED}, the embedded model?"
            )


@dataclass(frozen=True, slots=True)
class Backbone:
    """A loaded causal language model."""

    model: PreTrainedModel  # frozen, in eval mode, without dropout
    tokenizer: PreTrainedTokenizerBase  # its tokenizer; it may have no pad token
    fingerprint: str  # identity of the weights, layers and precision; equal on every machine
    info: ModelInfo  # its end tokens, padding, vocabulary and longest text


def load_backbone(
    options: BackboneOptions = BackboneOptions(),  # noqa: B008 - frozen
    *,
    decoder_only: bool = False,
    device: torch.device | None = None,
) -> Backbone:
    """Load a causal language model and its tokenizer, whole: ``trunk_layers`` is for others to read.

    ``decoder_only`` refuses encoders and encoder-decoders, which only labelers take. Without ``device``
    it stays on the CPU for whoever moves it, and ``auto`` is the type for ``resolve_device("auto")``.

    Raises:
        OSError: There is no such model, or it cannot be reached.
        ValueError: ``num_layers`` is out of range, the model suits no such role, or files lack weights.
    """
    adapters = adapter_source(options.name)
    if adapters is not None:
        return _with_adapters(adapters, options, decoder_only, device)
    name = options.name
    config, tokenizer = load_config(options)
    suited.refuse_classifier(name, config)
    if decoder_only:
        suited.require_decoder(name, config)
    dtype = resolve_dtype(options.dtype, device)
    identity = _full_identity(options, config, dtype)
    prepare.drop_dropout(config)
    is_encoder_decoder = getattr(config, "is_encoder_decoder", False)
    kind = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    model = read_weights(kind, options, config, dtype)
    prepare.freeze(model, options.gradient_checkpointing)
    written, _ = PreTrainedConfig.get_config_dict(_source(options)[0], revision=options.revision)
    info = model_info(name, tokenizer, model, written)
    if device is not None:
        model.to(device)  # type: ignore[arg-type]
    return Backbone(model, tokenizer, identity, info)


def loaded_backbone(
    loaded: suited.LoadedModel,
    dtype: Precision | None = None,
    gradient_checkpointing: bool = False,
    written: dict[str, Any] | None = None,
) -> Backbone:
    """Take over a loaded model, which no one else uses any longer: freeze it, without dropout.

    ``dtype`` None keeps the model's own; ``written`` is its config.json, where that is known.
    ``ValueError``: it is no decoder.
    """
    model = loaded.model
    suited.require_decoder(loaded.name, model.config)
    if dtype is not None:
        prepare.cast_weights(model, resolve_dtype(dtype, model.device))
    prepare.freeze(model, gradient_checkpointing)
    if written is None:  # without the class's defaults, which are not the model's
        written = model.config.to_diff_dict()
    info = model_info(loaded.name, loaded.tokenizer, model, written)
    return Backbone(model, loaded.tokenizer, UNNAMED, info)


def fingerprint_of(options: BackboneOptions, device: torch.device | None = None) -> str:
    """Return the fingerprint that ``load_backbone`` would give, without reading weights into memory."""
    options.check_exists()
    adapters = adapter_source(options.name)
    if adapters is not None:
        below = fingerprint_of(_base_of(adapters, options), device)
        return f"{adapter_identity(adapters.folder)}:{below}"
    config, _ = load_config(options)
    return _full_identity(options, config, resolve_dtype(options.dtype, device))


def _with_adapters(
    adapters: AdapterSource,
    options: BackboneOptions,
    decoder_only: bool,
    device: torch.device | None,
) -> Backbone:
    """Load the base of an adapter folder in float32, fold the adapters in, and then round."""
    if options.num_layers is not None:
        raise ValueError(
            f"expected num_layers=null with the adapters in {adapters.folder}, got "
            f"{options.num_layers}; they belong to all layers of their base"
        )
    below = replace(_base_of(adapters, options), dtype="float32")
    base = load_backbone(below, decoder_only=decoder_only)
    folder, tokenizer, info = str(adapters.folder), base.tokenizer, base.info
    model = merge_adapter(base.model, adapters.folder).eval().requires_grad_(False)
    model.to(dtype=resolve_dtype(options.dtype, device), device=device)  # type: ignore[call-overload]
    if (adapters.folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=options.trust_remote_code
        )
        # Trained to end texts otherwise than their base, perhaps, whose ends are ends still.
        ends = [info.eos_token_id, *sorted(info.stop_token_ids - {info.eos_token_id})]
        info = model_info(folder, tokenizer, model, {"eos_token_id": ends})
    return Backbone(model, tokenizer, fingerprint_of(options, device), info)


def _base_of(adapters: AdapterSource, options: BackboneOptions) -> BackboneOptions:
    """Name the model that adapters belong to; ``create_with`` makes the adapters, not their base."""
    base = replace(options, name=adapters.base, revision=adapters.revision)
    return replace(base, num_layers=None, create_with=None)


def resolve_dtype(dtype: Precision, device: torch.device | None = None) -> torch.dtype:
    """Return the torch type for a precision; ``ValueError`` for an unknown one.

    ``auto`` depends on the device that weights go to; None is that of ``resolve_device("auto")``.
    """
    one_of(Precision, dtype=dtype)
    if dtype == "auto":
        return fast_dtype(resolve_device() if device is None else device)
    return torch.float32 if dtype == "float32" else torch.bfloat16


def _source(options: BackboneOptions) -> tuple[str, dict[str, Any]]:
    """Where transformers finds a model, a folder or a hub name, and what else it has to know of it."""
    name = str(embedded_model_folder()) if options.name == EMBEDDED else options.name
    return name, {"revision": options.revision, "trust_remote_code": options.trust_remote_code}


def load_config(options: BackboneOptions) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Load the small files first, so that a wrong name fails at once and with one message."""
    options.check_exists()
    source, how = _source(options)
    try:
        config = AutoConfig.from_pretrained(source, **how)
        tokenizer = _read_tokenizer(options.name, source, how)
    except OSError as error:
        raise OSError(
            f"expected a model named {options.name!r}: looked for the embedded model ({EMBEDDED!r}), a "
            f"transformers folder at {Path(options.name).resolve()}, and the hub (cache and network); "
            f"check the name, or give the path of a folder with config.json, weights and "
            f"tokenizer. Cause: {str(error).splitlines()[0]}"
        ) from error
    return config, cast(PreTrainedTokenizerBase, tokenizer)


def _read_tokenizer(name: str, source: str, how: dict[str, Any]) -> Any:
    """Read a model's tokenizer; ValueError where there is none beside it, or none that can be read."""
    try:
        return AutoTokenizer.from_pretrained(source, **how)
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise
        raise ValueError(
            f"expected a tokenizer beside the weights of {name}, found none that can be read "
            f"({type(error).__name__}: {' '.join(str(error).split())}); put the files of its own there "
            "(tokenizer.json, tokenizer_config.json), as tokenizer.save_pretrained(FOLDER) writes them"
        ) from error


def read_weights(
    kind: Any, options: BackboneOptions, config: PreTrainedConfig, dtype: torch.dtype
) -> PreTrainedModel:
    """Read the weights of a class that the config asks for; one that is not there is an error."""
    source, how = _source(options)
    with quiet_loading():
        how |= {"config": config, "dtype": dtype, "output_loading_info": True}
        loaded = kind.from_pretrained(source, **how)
    model, info = cast("tuple[PreTrainedModel, dict[str, set[str]]]", loaded)
    missing, unexpected = (sorted(info[f"{how}_keys"])[:5] for how in ("missing", "unexpected"))
    if missing:  # transformers filled random ones in
        stray = f", found {unexpected} in their place" if unexpected else ""
        raise ValueError(
            f"expected every weight of {type(model).__name__} in {source}, missing {missing}{stray}; "
            "the files belong to another architecture, or were saved without their head: save them "
            "whole (with PEFT, name the head in modules_to_save and merge)"
        )
    return model


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


def _full_identity(options: BackboneOptions, config: PreTrainedConfig, dtype: torch.dtype) -> str:
    """Name weights, layers and precision; also cut layers off in the config: they are never read."""
    text, count = config.get_text_config(), options.num_layers
    if count is not None:
        if not 1 <= count <= text.num_hidden_layers:
            raise ValueError(
                f"num_layers must be in [1, {text.num_hidden_layers}] for this model, got {count}"
            )
        text.num_hidden_layers = count
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:count]
    label = EMBEDDED if options.name == EMBEDDED else None
    weights = weights_identity(_source(options)[0], config, options.revision, label)
    return f"{weights}:layers={count or 'all'}:{str(dtype).removeprefix('torch.')}"
