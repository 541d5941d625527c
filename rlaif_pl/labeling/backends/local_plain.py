"""Read rows the plain way: whole texts through the whole model, padded on the right.

For architectures that cannot be read piece by piece (encoder-decoders, unknown ones); right for any
model that heeds its attention mask, and slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rlaif_pl.labeling.backends.local_model import LocalModel, buckets
from rlaif_pl.labeling.backends.local_rows import Row
from rlaif_pl.models.encoding import pad_right

LOGITS = 2**28  # numbers of one batch's logits, 1 GiB of float32


class PlainReader:
    """Judges tokens by full forward passes.

    Args:
        model: Who reads.
        batch_tokens: Most tokens in one forward pass, padding included.
    """

    def __init__(self, model: LocalModel, batch_tokens: int) -> None:
        self.model = model
        vocabulary = model.backbone.model.get_output_embeddings().weight.shape[0]
        self.batch_tokens = max(1, min(batch_tokens, LOGITS // vocabulary))

    @torch.no_grad()
    def read(self, rows: Sequence[Row]) -> Iterator[list[tuple[int, list[float]]]]:
        """Yield places of rows with the log-probabilities of their judged tokens, batch by batch."""
        sizes = [len(row.ids) + len(row.source) for row in rows]
        for group in buckets(sizes, self.batch_tokens):
            chosen = [rows[n] for n in group]
            logits = self.logits([row.ids for row in chosen], [row.source for row in chosen])
            found = []
            for place, row, table in zip(group, chosen, logits, strict=True):
                judged = table[row.first - 1 : len(row.ids) - 1].float().log_softmax(-1)
                picks = torch.tensor(row.ids[row.first :], device=judged.device)
                found.append((place, judged.gather(1, picks[:, None]).squeeze(1).tolist()))
            yield found

    def logits(self, rows: Sequence[Sequence[int]], sources: Sequence[Sequence[int]]) -> Tensor:
        """Logits after every token of every row. ``(N, T, V)``."""
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
        ids, is_real = pad_right(rows, self.model.pad)
        return ids.to(self.model.device), is_real.to(self.model.device)
