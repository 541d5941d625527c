"""The plain way of ``labeling.py``, and what counts the tokens of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from rlaif_pl.labeling import LocalBackend
from rlaif_pl.labeling.backends.local_rows import Row
from rlaif_pl.labeling.calls import Call, ChoiceRequest, Response


class PlainBackend:
    """Answers choices with full prompts, padded batches and all logits.

    Args:
        backend: Whose model and tokenizer to use.
        batch_size: Prompts in a forward pass.
    """

    fingerprint = "plain"

    def __init__(self, backend: LocalBackend, batch_size: int = 4) -> None:
        self.model = backend.model.backbone.model
        self.tokenizer = backend.model.tokenizer
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.batch_size = batch_size

    @torch.no_grad()
    def answer(self, calls: Sequence[Call], done: Callable[[int, Response], None]) -> None:
        """Answer ``ChoiceRequest`` calls whose options are one token each."""
        asked = [call for call in calls if isinstance(call, ChoiceRequest)]
        for start in range(0, len(asked), self.batch_size):
            part = asked[start : start + self.batch_size]
            texts = [call.question.text + call.question.assistant_prefix for call in part]
            batch = self.tokenizer(texts, return_tensors="pt", padding=True).to(self.model.device)
            logits = self.model(**batch).logits
            logprobs = logits[:, -1].float().log_softmax(-1)
            for n, call in enumerate(part):
                ids = [self.tokenizer(texts[n] + option).input_ids[-1] for option in call.options]
                done(start + n, Response(logprobs=tuple(logprobs[n, ids].tolist())))


class Recorder:
    """Passes calls on and keeps their rows, to count what they need.

    Args:
        backend: Who answers.
    """

    def __init__(self, backend: LocalBackend) -> None:
        self.backend = backend
        self.fingerprint = backend.fingerprint
        self.rows: list[Row] = []

    def answer(self, calls: Sequence[Call], done: Callable[[int, Response], None]) -> None:
        """Answer through the back end."""
        for call in calls:
            if isinstance(call, ChoiceRequest):
                self.rows += self.backend.encoder.rows(call)
        self.backend.answer(calls, done)
