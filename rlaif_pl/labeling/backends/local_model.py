"""A language model on this machine, as labelers use it: loaded on first use, read in batches."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.runner import DecoderRunner
from rlaif_pl.engine.score import CappedHead, head_logits, mask_unused
from rlaif_pl.models.backbone import EMBEDDED, Backbone, fingerprint_of, load_backbone
from rlaif_pl.models.device import resolve_device
from rlaif_pl.models.model_info import ModelInfo
from rlaif_pl.models.output_head import output_head


class LocalModel:
    """A frozen causal language model, loaded on first use.

    Args:
        name: See ``rlaif_pl.models.backbone.load_backbone``, as for ``options``.
        device: See ``LocalBackend``.
        options: Layers, type, revision and the like.
    """

    def __init__(self, name: str = EMBEDDED, device: str = "auto", **options: Any) -> None:
        self.name, self.options = name, options
        self.device = resolve_device(device)

    @cached_property
    def backbone(self) -> Backbone:
        """Model and tokenizer."""
        return load_backbone(self.name, device=self.device, **self.options)

    @cached_property
    def fingerprint(self) -> str:
        """Identity of weights, layers and precision; known without loading the model."""
        return fingerprint_of(self.name, device=self.device, **self.options)

    trunk: DecoderRunner | None = None

    @cached_property
    def top(self) -> DecoderRunner:
        """All layers with the final norm."""
        return DecoderRunner(decoder_of(self.backbone.model))

    @cached_property
    def unembedding(self) -> nn.Linear | CappedHead:
        """What turns hidden states into logits."""
        return output_head(self.backbone.model)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of the tokenizer's tokens, float32. ``(..., D)`` to ``(..., V)``."""
        return mask_unused(head_logits(self.unembedding, hidden), self.info)

    @property
    def info(self) -> ModelInfo:
        """End tokens, padding, vocabulary and longest text."""
        return self.backbone.info

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether prompts are read by an encoder and answers written by a decoder."""
        return bool(getattr(self.backbone.model.config, "is_encoder_decoder", False))

    @property
    def decoder_start(self) -> int | None:
        """First token of an encoder-decoder's decoder; None for other models."""
        config = self.backbone.model.config
        return int(config.decoder_start_token_id) if self.is_encoder_decoder else None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Tokenizer of the model."""
        return self.backbone.tokenizer
