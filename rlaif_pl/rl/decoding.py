"""Texts that are being written, one token at a time: prompts are read once, then each text goes on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.encoding import PrefixBatch, pad_right
from rlaif_pl.models.pair_layout import pack
from rlaif_pl.models.shared_cache import SharedCache
from rlaif_pl.models.shared_prefix import positions_of, spread_cache


class Decoding:
    """Texts whose keys and values lie in the caches of transformers, a row a text.

    Args:
        model: Policy.
        prompts: Token ids of each prompt, ``G`` rows; computed once for all samples of a prompt.
        per_prompt: Samples a prompt, ``K``.
    """

    def __init__(
        self, model: CausalModel, prompts: Sequence[Sequence[int]], per_prompt: int
    ) -> None:
        self.trunk, self.top = model.trunk, model.top
        padded = pad_right([prompt[:-1] for prompt in prompts], model.pad)
        ids, is_real = (tensor.to(model.device) for tensor in padded)
        self.prefix: Tensor | None = None  # (G, P, D) trunk states of the prompts, if P > 0
        self.caches = self.read(model, ids, is_real, per_prompt)
        self.is_real = is_real.repeat_interleave(per_prompt, 0)
        self.position = self.is_real.sum(1)

    def read(
        self, model: CausalModel, ids: Tensor, is_real: Tensor, per_prompt: int
    ) -> Sequence[DynamicCache | SharedCache]:
        """Read the prompts without their last tokens ``(G, P)``; returns a cache a stack."""
        caches = [stack.new_cache() for stack in model.stacks]
        hidden = ids
        for stack, cache in zip(model.stacks, caches, strict=True):
            if ids.shape[1]:
                hidden = stack(hidden, is_real, positions_of(is_real), cache)
                spread_cache(cache, per_prompt)
                if stack is model.trunk:
                    self.prefix = hidden
        return caches

    def lower(self, token: Tensor) -> Tensor:
        """Take in one token a row; returns trunk states ``(n, 1, D)``, or the ids without one."""
        self.is_real = torch.cat([self.is_real, self.is_real.new_ones(len(token), 1)], 1)
        if self.trunk is None:
            return token[:, None]
        return self.trunk(token[:, None], self.is_real, self.position[:, None], self.caches[0])

    def upper(self, below: Tensor) -> Tensor:
        """Go on from ``lower``; returns final states ``(n, D)``."""
        hidden = self.top(below, self.is_real, self.position[:, None], self.caches[-1])
        self.position = self.position + 1
        return hidden[:, -1]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.is_real, self.position = self.is_real[rows], self.position[rows]
        for cache in self.caches:
            if isinstance(cache, SharedCache):
                cache.keep(rows)
            elif cache.get_seq_length():
                cache.batch_select_indices(rows)


class SharedDecoding(Decoding):
    """Texts that share the keys and values of their prompt; see ``SharedCache``.

    Args:
        model: Policy, all of whose stacks write.
        prompts: Token ids of each prompt.
        per_prompt: Samples a prompt.
        room: Tokens that a text can get, its prompt's last one included.
    """

    def __init__(
        self, model: CausalModel, prompts: Sequence[Sequence[int]], per_prompt: int, room: int
    ) -> None:
        self.room = room
        super().__init__(model, prompts, per_prompt)

    def read(
        self, model: CausalModel, ids: Tensor, is_real: Tensor, per_prompt: int
    ) -> Sequence[SharedCache]:
        """Read the prompts without padding, and in the last layer no more than keys and values."""
        nothing = ids[:0]
        row = pack(PrefixBatch(ids, is_real, nothing, is_real[:0]))
        caches, hidden = [], row.gather(ids, nothing)
        for stack in model.stacks:
            caches.append(SharedCache(row, per_prompt, self.room))
            needed = None if stack is model.trunk else row.sources[:0]
            hidden = stack.packed(hidden, row, needed, caches[-1])
            if stack is model.trunk:
                self.prefix, _ = row.scatter(hidden)
        return caches


def decoding_of(
    model: CausalModel, prompts: Sequence[Sequence[int]], per_prompt: int, room: int
) -> Decoding:
    """Read prompts, sharing them among their samples where the model can.

    Args:
        model: Policy, in eval mode.
        prompts: Token ids of each prompt, ``G`` rows.
        per_prompt: Samples a prompt, ``K``.
        room: Tokens that a text can get, its prompt's last one included.
    """
    can_share = model.share_prefix and max(map(len, prompts)) > 1
    if can_share and all(stack.writes for stack in model.stacks):
        return SharedDecoding(model, prompts, per_prompt, room)
    return Decoding(model, prompts, per_prompt)
