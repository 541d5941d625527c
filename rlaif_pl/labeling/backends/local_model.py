"""A language model on this machine, loaded on first use, and the plain way to run it.

Plain: whole texts through the whole model, padded on the right. For encoder-decoders and models whose
layers or logits the engine does not reproduce; right for any model that heeds its attention mask, slow.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlaif_pl.engine.decoder_layers import decoder_of
from rlaif_pl.engine.response_batch import TrunkStates, pad_right
from rlaif_pl.engine.runner import DecoderRunner
from rlaif_pl.engine.score import CappedHead, head_logits, mask_unused
from rlaif_pl.engine.tree_runner import Scores, buckets
from rlaif_pl.labeling.backends.local_rows import Row
from rlaif_pl.models.backbone import Backbone, BackboneOptions, fingerprint_of, load_backbone
from rlaif_pl.models.device import resolve_device
from rlaif_pl.models.model_info import ModelInfo
from rlaif_pl.models.prepare import output_head


class LocalModel:
    """A frozen causal language model, loaded on first use."""

    trunk: DecoderRunner | None = None

    def __init__(self, options: BackboneOptions, device: str = "auto") -> None:
        self.name, self.options = options.name, options
        self.device = resolve_device(device)

    @cached_property
    def backbone(self) -> Backbone:
        """Model and tokenizer."""
        return load_backbone(self.options, device=self.device)

    @cached_property
    def fingerprint(self) -> str:
        """Identity of weights, layers and precision; known without loading the model."""
        return fingerprint_of(self.options, self.device)

    def unload(self) -> None:
        """Let the weights go; they are read again on the next use."""
        for name in ("backbone", "top", "unembedding"):
            vars(self).pop(name, None)
        gc.collect()  # modules refer to one another in circles

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


LOGITS = 2**28  # numbers of one batch's logits, 1 GiB of float32


class PlainRunner:
    """Scores tokens by full forward passes of at most ``batch_tokens``, padding included."""

    def __init__(self, model: LocalModel, batch_tokens: int) -> None:
        self.model = model
        vocabulary = model.backbone.model.get_output_embeddings().weight.shape[0]
        self.batch_tokens = max(1, min(batch_tokens, LOGITS // vocabulary))
        # Where padding changes a text, rows of unlike length run one by one.
        self.pads = model.is_encoder_decoder or model.top.capabilities.pads

    @torch.no_grad()
    def score(self, rows: Sequence[Row]) -> Iterator[Scores]:
        """Yield places of rows with the log-probabilities of their scored tokens, batch by batch."""
        sizes = [row.size for row in rows]
        for group in buckets(sizes, self.batch_tokens, padded=True):
            chosen = [rows[n] for n in group]
            logits = self.logits([row.ids for row in chosen], [row.source for row in chosen])
            found = []
            for place, row, table in zip(group, chosen, logits, strict=True):
                scored = table[row.first - 1 : len(row.ids) - 1].float().log_softmax(-1)
                picks = torch.tensor(row.ids[row.first :], device=scored.device)[:, None]
                found.append((place, scored.clamp(max=0).gather(1, picks).squeeze(1).tolist()))
            yield found

    @torch.no_grad()
    def states(
        self, rows: Sequence[Row], copies: Sequence[int], max_new_tokens: int
    ) -> Iterator[tuple[PlainState, list[int]]]:
        """Yield batches of texts to be continued; see ``PrefixTreeRunner.states``."""
        counts = zip(rows, copies, strict=True)
        sizes = [(row.size + max_new_tokens) * count for row, count in counts]
        for group in buckets(sizes, self.batch_tokens, padded=True):
            yield PlainState(self, [rows[n] for n in group for _ in range(copies[n])]), group

    def logits(self, rows: Sequence[Sequence[int]], sources: Sequence[Sequence[int]]) -> Tensor:
        """Logits after every token of every row. ``(N, T, V)``."""
        if not self.pads and len({len(row) for row in rows}) > 1:
            pairs = zip(rows, sources, strict=True)
            alone = [self.logits([row], [source])[0] for row, source in pairs]
            return torch.nn.utils.rnn.pad_sequence(alone, batch_first=True)
        ids, mask = self._padded(rows)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.model.is_encoder_decoder:
            inputs = {"decoder_input_ids": ids, "decoder_attention_mask": mask}
            inputs["input_ids"], inputs["attention_mask"] = self._padded(sources)
        logits: Tensor = self.model.backbone.model(**inputs, use_cache=False).logits
        return logits

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        ids, is_real = pad_right(rows, self.model.info.pad_token_id)
        return ids.to(self.model.device), is_real.long().to(self.model.device)


class PlainState:
    """Texts that are run again whole for every token; an engine ``GenerationState``."""

    def __init__(self, runner: PlainRunner, rows: Sequence[Row]) -> None:
        self.runner = runner
        self.texts = [list(row.ids[:-1]) for row in rows]
        self.sources = [row.source for row in rows]

    def forward_trunk(self, tokens: Tensor) -> Tensor:
        """Take in one token a text; logits ``(n, V)`` after it."""
        for text, token in zip(self.texts, tokens.tolist(), strict=True):
            text.append(token)
        logits = self.runner.logits(self.texts, self.sources)
        ends = torch.tensor([len(text) - 1 for text in self.texts], device=logits.device)
        last = logits[torch.arange(len(ends), device=logits.device), ends].float()
        return mask_unused(last, self.runner.model.info)

    def next_logits(self, below: Tensor) -> Tensor:
        """Return the logits that ``forward_trunk`` found."""
        return below

    def select_rows(self, rows: Sequence[int], index: Tensor) -> None:  # noqa: ARG002
        """Go on with these texts only."""
        self.texts = [self.texts[row] for row in rows]
        self.sources = [self.sources[row] for row in rows]

    def trunk_states(self) -> TrunkStates | None:
        """Return None: there is no trunk."""
