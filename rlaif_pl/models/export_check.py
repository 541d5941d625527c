"""Read a written folder again, before it takes its place: it must compute what was trained."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlaif_pl.engine.generation_state import runners_of
from rlaif_pl.engine.response_batch import pad_right
from rlaif_pl.models.backbone import quiet_loading
from rlaif_pl.models.causal import CausalModel

PROMPT = "The tap in the kitchen drips all night."
RESPONSES = ("It drips.", "The tap drips, and two new washers did not help.")
TOLERANCE = 1e-4  # of the largest value, at least 1; float32 sums in another order are below
CODE = "transformers_modules"  # package of code that came with a model
NOISE = 10.0  # times what the model's own values move by when the batch has another shape


class WrittenCheck:
    """What a trained model says of two short texts, to hold a written folder against.

    Computed in float32, before the weights are copied; ``head`` makes the values of the last states.
    """

    def __init__(self, model: CausalModel, head: nn.Module) -> None:
        self.model = model
        # Code of the model's own has run already, and the written folder has the same.
        kinds = (type(model.config), type(model.tokenizer))
        self.has_code = any(kind.__module__.startswith(CODE) for kind in kinds)
        self.rows = sample_rows(model, model.tokenizer)
        with torch.no_grad(), exact_products():
            states = [own_states(model, row) for row in self.rows]
            again = own_states(model, self.rows[0], copies=3)
            exact = copy.deepcopy(head).float()
            self.values = [exact(state).float().cpu() for state in states]
            moved = exact(again).float().cpu() - self.values[0]
        self.allowed = NOISE * moved.abs().max().item()

    @torch.no_grad()
    def policy(self, folder: Path) -> None:
        """Refuse (ValueError) a causal LM whose logits or tokenizer are not the trained model's."""
        self._same_tokens(folder)
        model = self._read(AutoModelForCausalLM, folder)
        with exact_products():
            for row, values in zip(self.rows, self.values, strict=True):
                ids = torch.tensor([row], device=self.model.device)
                self._same(model(input_ids=ids).logits[0].float().cpu(), values, "logits")

    @torch.no_grad()
    def reward(self, folder: Path) -> None:
        """Refuse (ValueError) a classifier that scores a padded batch otherwise than we each text."""
        tokenizer = self._same_tokens(folder)
        model = self._read(AutoModelForSequenceClassification, folder)
        ids, is_real = pad_right(self.rows, int(tokenizer.pad_token_id))  # type: ignore[arg-type]
        device = self.model.device
        with exact_products():
            found = model(input_ids=ids.to(device), attention_mask=is_real.long().to(device)).logits
        expected = torch.stack([values.flatten()[-1] for values in self.values])
        self._same(found.float().cpu().squeeze(-1), expected, "rewards")

    def _same_tokens(self, folder: Path) -> PreTrainedTokenizerBase:
        """Return the folder's tokenizer, which must give the ids that were trained on."""
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=self.has_code
        )
        if sample_rows(self.model, tokenizer) != self.rows:
            raise ValueError(
                "expected the tokenizer written to give the ids of the one trained with, got others; "
                "nothing was exported, and the last checkpoint holds the weights"
            )
        return tokenizer

    def _read(self, kind: Any, folder: Path) -> PreTrainedModel:
        with quiet_loading():
            model: PreTrainedModel = kind.from_pretrained(
                folder, dtype=torch.float32, trust_remote_code=self.has_code
            )
        return model.eval().to(self.model.device)  # type: ignore[arg-type]

    def _same(self, found: Tensor, expected: Tensor, what: str) -> None:
        gap = (found - expected).abs().max().item()
        allowed = max(TOLERANCE * max(1.0, expected.abs().max().item()), self.allowed)
        if not gap <= allowed:
            raise ValueError(
                f"expected the model read again to give the trained model's {what} within "
                f"{allowed:.1e}, got {gap:.1e}; nothing was exported, and the last checkpoint holds "
                "the weights: report this with the name of the base model"
            )


def sample_rows(model: CausalModel, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Tokenize two short texts as the model reads them, no longer than it was made for."""
    encoding = model.encoding._replace(tokenizer=tokenizer)
    prompt, responses = encoding.prompts([PROMPT])[0], encoding.responses(RESPONSES)
    return [[*prompt, *row][-(model.info.max_model_len or sys.maxsize) :] for row in responses]


def own_states(model: CausalModel, row: Sequence[int], copies: int = 1) -> Tensor:
    """Last states of one text, with copies in its batch, in float32 by our own layers. ``(T, D)``."""
    hidden = torch.tensor([list(row)] * copies, device=model.device)
    is_real = torch.ones_like(hidden, dtype=torch.bool)
    places = torch.arange(hidden.shape[1], device=model.device).expand_as(hidden)
    for stack in runners_of(model):
        is_exact = all(p.dtype == torch.float32 for p in stack.parameters())
        hidden = (stack if is_exact else copy.deepcopy(stack).float())(hidden, is_real, places)
    return hidden[0].float()


@contextmanager
def exact_products() -> Iterator[None]:
    """Multiply float32 matrices in float32, whatever the run allows, and outside of autocast."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
