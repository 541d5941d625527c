"""Run rows the plain way: whole texts through the whole model, padded on the right.

For encoder-decoders and for models whose layers or logits the engine does not reproduce; right for any
model that heeds its attention mask, and slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rlaif_pl.engine.response_batch import TrunkStates, pad_right
from rlaif_pl.engine.score import mask_unused
from rlaif_pl.engine.tree_runner import Scores, buckets
from rlaif_pl.labeling.backends.local_model import LocalModel
from rlaif_pl.labeling.backends.local_rows import Row

LOGITS = 2**28  # numbers of one batch's logits, 1 GiB of float32


class PlainRunner:
    """Scores tokens by full forward passes.

    Args:
        model: Model to run.
        batch_tokens: Most tokens in one forward pass, padding included.
    """

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
                scored = (
                    table[row.first - 1 : len(row.ids) - 1].float().log_softmax(-1).clamp(max=0)
                )
                picks = torch.tensor(row.ids[row.first :], device=scored.device)
                found.append((place, scored.gather(1, picks[:, None]).squeeze(1).tolist()))
            yield found

    @torch.no_grad()
    def states(
        self, rows: Sequence[Row], copies: Sequence[int], max_new_tokens: int
    ) -> Iterator[tuple[PlainState, list[int]]]:
        """Yield batches of texts to be continued; see ``PrefixTreeRunner.states``."""
        sizes = [
            (row.size + max_new_tokens) * count for row, count in zip(rows, copies, strict=True)
        ]
        for group in buckets(sizes, self.batch_tokens, padded=True):
            yield PlainState(self, [rows[n] for n in group for _ in range(copies[n])]), group

    def logits(self, rows: Sequence[Sequence[int]], sources: Sequence[Sequence[int]]) -> Tensor:
        """Logits after every token of every row. ``(N, T, V)``."""
        if not self.pads and len({len(row) for row in rows}) > 1:
            alone = [
                self.logits([row], [source])[0] for row, source in zip(rows, sources, strict=True)
            ]
            return torch.nn.utils.rnn.pad_sequence(alone, batch_first=True)
        ids, is_real = self._padded(rows)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": is_real.long()}
        if self.model.is_encoder_decoder:
            read, is_read = self._padded(sources)
            inputs = {
                "input_ids": read,
                "attention_mask": is_read.long(),
                "decoder_input_ids": ids,
                "decoder_attention_mask": is_real.long(),
            }
        logits: Tensor = self.model.backbone.model(**inputs, use_cache=False).logits
        return logits

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        ids, is_real = pad_right(rows, self.model.info.pad_token_id)
        return ids.to(self.model.device), is_real.to(self.model.device)


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
