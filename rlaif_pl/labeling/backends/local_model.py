"""A language model on this machine, as labelers use it: loaded on first use, read in batches."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.runner import DecoderRunner
from rlaif_pl.engine.score import CappedHead, head_logits
from rlaif_pl.models.backbone import EMBEDDED, Backbone, Precision, fingerprint_of, load_backbone
from rlaif_pl.models.device import resolve_device
from rlaif_pl.models.model_info import ModelInfo
from rlaif_pl.models.output_head import output_head


class LocalModel:
    """A frozen causal language model, loaded on first use.

    Args:
        name: See ``rlaif_pl.models.backbone.load_backbone``.
        num_layers: Keep only the first layers; None keeps them all.
        dtype: Type of the weights.
        device: Where to run: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; ``auto`` is the command's
            device, a GPU where there is one.
        revision: Branch, tag or commit of a hub model.
        trust_remote_code: Run Python code that comes with the model.
    """

    def __init__(
        self,
        name: str = EMBEDDED,
        *,
        num_layers: int | None = None,
        dtype: Precision = "float32",
        device: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.name = name
        self.num_layers = num_layers
        self.dtype: Precision = dtype
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.device = resolve_device(device)

    @cached_property
    def backbone(self) -> Backbone:
        """Model and tokenizer."""
        return load_backbone(
            self.name,
            num_layers=self.num_layers,
            dtype=self.dtype,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            device=self.device,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Identity of weights, layers and precision; known without loading the model."""
        return fingerprint_of(
            self.name,
            num_layers=self.num_layers,
            dtype=self.dtype,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            device=self.device,
        )

    trunk: DecoderRunner | None = None
    share_prefix = True

    @cached_property
    def top(self) -> DecoderRunner:
        """All layers with the final norm."""
        return DecoderRunner(decoder_of(self.backbone.model))

    @cached_property
    def head(self) -> nn.Linear | CappedHead:
        """What turns hidden states into logits."""
        return output_head(self.backbone.model)

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits of final hidden states, float32. ``(..., D)`` to ``(..., V)``."""
        return head_logits(self.head, hidden)

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
