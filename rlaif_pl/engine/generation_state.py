"""Texts while they are being written: what was run of them, and the next token's logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from rlaif_pl.engine.attention.segments import KVCache
from rlaif_pl.engine.batch import PackedBatch
from rlaif_pl.engine.response_batch import TrunkStates

if TYPE_CHECKING:
    from rlaif_pl.engine.runner import DecoderRunner
    from rlaif_pl.engine.score import CappedHead


class LanguageModel(Protocol):
    """What the engine needs to know of a model."""

    trunk: DecoderRunner | None  # lower layers; None where `top` holds all

    @property
    def top(self) -> DecoderRunner:
        """Upper layers with the final norm."""

    @property
    def unembedding(self) -> nn.Linear | CappedHead:
        """Output embedding."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of what can be drawn ``(..., V)``, of final hidden states ``(..., D)``, float32."""


class GenerationState(Protocol):
    """Texts whose prompts were run."""

    def forward_trunk(self, tokens: Tensor) -> Tensor:
        """Take in one token a text ``(n,)``; returns what ``next_logits`` goes on from."""

    def next_logits(self, below: Tensor) -> Tensor:
        """Return the next token's logits ``(n, V)``."""

    def select_rows(self, rows: Sequence[int], index: Tensor) -> None:
        """Go on with these texts only; ``index`` holds the same on the device."""

    def trunk_states(self) -> TrunkStates | None:
        """Return the trunk's states of all tokens taken in, if they were kept."""


class PackedState:
    """Texts over one copy of their prompts' keys; a ``GenerationState``.

    ``ids`` ``(T,)`` are the tokens of the prompts but the last of each, ``leaves`` the segments of the
    last level of their ``batch`` that texts continue, ascending; a text takes in ``capacity`` tokens at
    most. ``keep_trunk`` keeps the trunk's states, for a batch of one level.
    """

    def __init__(
        self,
        model: LanguageModel | Any,
        ids: Tensor,
        batch: PackedBatch,
        leaves: Sequence[int],
        capacity: int,
        *,
        keep_trunk: bool = False,
    ) -> None:
        self.model = model
        self.caches: list[KVCache] = []
        self._columns: list[Tensor] | None = [] if keep_trunk and model.trunk is not None else None
        self._rows = torch.arange(len(leaves), device=ids.device)
        self._count = len(leaves)
        hidden = self._prefix = ids
        for runner in runners_of(model):
            cache = KVCache(batch)
            # Of the last layers no state is read, only keys and values.
            places = self._rows[:0] if runner is model.top else None
            if len(ids):
                hidden = runner.packed_forward(hidden, batch, places, cache=cache)
            cache.fork(leaves, capacity)
            if runner is model.trunk:
                self._prefix = hidden
            self.caches.append(cache)
        self.positions = cache.step.positions[:, None] - 1

    def forward_trunk(self, tokens: Tensor) -> Tensor:
        """Run the trunk; states ``(n, 1, D)``, or the ids without one."""
        self.positions = self.positions + 1
        if self.model.trunk is None:
            return tokens[:, None]
        states = self.model.trunk.decode_step(tokens[:, None], self.positions, self.caches[0])
        if self._columns is not None:
            empty = states.new_zeros(self._count, states.shape[-1])
            self._columns.append(empty.index_copy(0, self._rows, states[:, 0]))
        return states

    def next_logits(self, below: Tensor) -> Tensor:
        """See ``GenerationState``."""
        hidden = self.model.top.decode_step(below, self.positions, self.caches[-1])
        return self.model.logits(hidden[:, -1])

    def select_rows(self, rows: Sequence[int], index: Tensor) -> None:
        """See ``GenerationState``."""
        self.positions, self._rows = self.positions[index], self._rows[index]
        for cache in self.caches:
            cache.select_rows(rows, index)

    def trunk_states(self) -> TrunkStates | None:
        """See ``GenerationState``; a column a token taken in, whether the text went on or not."""
        if self._columns is None:
            return None
        steps, start = len(self._columns), len(self._prefix)
        states = torch.stack(self._columns, 1).flatten(0, 1)
        states = torch.cat([self._prefix, states]) if start else states
        return TrunkStates(states, [start + n * steps for n in range(self._count)])


class EqualLengthState:
    """Texts of prompts ``(n, P)`` of one length, by the model's own cache, or run whole each time.

    For layers that are not packed: no text is padded, so that none depends on its neighbors. Of each
    prompt all tokens but the last are given.
    """

    def __init__(self, model: LanguageModel | Any, prompts: Tensor) -> None:
        self.model = model
        self.runners = runners_of(model)
        self.ids = prompts
        self._alive = torch.arange(len(prompts), device=prompts.device)
        self.caches: list[DynamicCache] | None = None
        if all(runner.capabilities.caches for runner in self.runners):
            self.caches = [DynamicCache(config=each.decoder.config) for each in self.runners]
            if prompts.shape[1]:
                self._run(prompts)

    def _run(self, new: Tensor) -> Tensor:
        """Run tokens ``(n, t)`` after those before them; returns final states ``(n, t, D)``."""
        is_real = torch.ones(self.ids.shape[:2], dtype=torch.bool, device=new.device)
        positions = torch.arange(is_real.shape[1], device=new.device)[-new.shape[1] :]
        hidden = new
        for n, runner in enumerate(self.runners):
            cache = None if self.caches is None else self.caches[n]
            hidden = runner(hidden, is_real, positions.expand(len(new), -1), cache)
        return hidden

    def forward_trunk(self, tokens: Tensor) -> Tensor:
        """See ``GenerationState``; final states ``(n, D)``."""
        column = self.ids.new_zeros(len(self.ids), *tokens.shape[1:])
        column = column.index_copy(0, self._alive, tokens)[:, None]
        self.ids = torch.cat([self.ids, column], 1)
        states = self._run(self.ids if self.caches is None else column)
        return states[self._alive, -1]

    def next_logits(self, below: Tensor) -> Tensor:
        """See ``GenerationState``."""
        return self.model.logits(below)

    def select_rows(self, rows: Sequence[int], index: Tensor) -> None:  # noqa: ARG002
        """See ``GenerationState``; texts that ended stay, for caches that cannot leave one out."""
        self._alive = self._alive[index]

    def trunk_states(self) -> TrunkStates | None:
        """Return None: no states are kept."""


def runners_of(model: LanguageModel | Any) -> list[DecoderRunner]:
    """Return a model's layers in the order they run."""
    return [model.top] if model.trunk is None else [model.trunk, model.top]
