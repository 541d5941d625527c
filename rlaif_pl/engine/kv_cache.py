"""Keys and values of texts that are being written: what they begin with once, whatever their number.

A cache with a row a text would hold each prompt once a sample, and every new token would copy all of
it to make room. Here the prompts stay as they were computed, in one packed batch, and each text has
room for its own tokens from the start. A token's attention is computed in all parts and joined by
log-sum-exp, as in ``attention.segments``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlaif_pl.engine.attention.leaf import leaf_for, merge_attention_states
from rlaif_pl.engine.attention.reference import attend_masked
from rlaif_pl.engine.attention.segments import Keys, is_supported
from rlaif_pl.engine.batch import (
    AttentionBlock,
    PackedBatch,
    Segment,
    make_blocks,
    pack_segments,
    plan_ancestors,
    plan_root,
)


class KVCache:
    """Cache of one stack of layers, over a layout of prompts or a prefix tree, after its root if any.

    ``length`` counts the tokens that each text has got since ``fork``.
    """

    def __init__(self, batch: PackedBatch) -> None:
        self.batch = batch
        self.length = 0
        self._prefilled: dict[int, Keys] = {}  # by layer, each (T, key heads, size)
        self._own: dict[int, Keys] = {}  # by layer, each (n, capacity, key heads, size)
        self._capacity = 0
        self._leaves: list[int] = []  # by text, its segment in the last level
        self._blocks: list[AttentionBlock] = []
        self._root_block: AttentionBlock | None = None

    def prefill(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Keep a layer's keys and values of the packed batch. ``(T, key heads, size)``."""
        self._prefilled[layer] = key, value

    def prefilled(self, layer: int) -> Keys:
        """Return a layer's keys and values of root and packed batch, the root's first."""
        own, root = self._prefilled[layer], self.batch.root
        if root is None:
            return own
        keys, values = map(torch.cat, zip(root.prefilled(layer), own, strict=True))
        return keys, values

    def joined(self) -> KVCache:
        """Return a cache of one text, whose root and tokens are laid end to end."""
        batch = pack_segments([[Segment(self.batch.longest)]], self.batch.positions.device)
        cache = KVCache(batch)
        cache._prefilled = {layer: self.prefilled(layer) for layer in self._prefilled}
        return cache

    def fork(self, leaves: Sequence[int], capacity: int) -> None:
        """Begin texts of at most ``capacity`` tokens.

        ``leaves`` are the segments of the last level that they continue, in ascending order; a prompt
        that ends higher has an empty segment there.
        """
        self._leaves, self._capacity = list(leaves), capacity
        self._plan()

    def append(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float | None,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        """Take in one token a text and attend from it. ``(n, heads, size)``.

        Args:
            layer: Number of the layer.
            query: ``(n, heads, size)``
            key: ``(n, key heads, size)``
            value: Like ``key``.
            scale: Factor of the scores.
            window: Latest tokens that a token sees, itself included; None for all.
            softcap: Bound of the scores; None for none.
        """
        if layer not in self._own:
            self._own[layer] = tuple(  # type: ignore[assignment]
                t.new_empty(len(t), self._capacity, *t.shape[1:]) for t in (key, value)
            )
        keys, values = self._own[layer]
        keys[:, self.length], values[:, self.length] = key, value
        own = slice(0, self.length + 1)
        if not is_supported(query, key, value, self._longest + own.stop, window, softcap):
            return self._append_masked(layer, query, scale, window, softcap)
        leaf, scale = leaf_for(query), query.shape[-1] ** -0.5 if scale is None else scale
        joint = leaf.dense((query, keys[:, own], values[:, own]), scale)
        for block in self._blocks:
            k, v = (part[block.keys] for part in self._prefilled[layer])
            joint = merge_attention_states(joint, leaf.forward((query, k, v), block, scale))
        root = self.batch.root
        if root is not None and self._root_block is not None:
            k, v = root.prefilled(layer)
            found = leaf.forward((query, k, v), self._root_block, scale)
            joint = merge_attention_states(joint, found)
        return joint.output

    def select_rows(self, rows: Sequence[int], index: Tensor) -> None:
        """Go on with these texts only, in ascending order; ``index`` is the same on the device."""
        self._leaves = [self._leaves[row] for row in rows]
        for layer in self._own:  # one after the other: each frees what it was before the next
            keys, values = self._own[layer]
            self._own[layer] = keys[index], values[index]
        self._plan()

    def _plan(self) -> None:
        levels, lengths = self.batch.levels, self.batch.lengths
        first, chains = len(lengths) - len(levels[-1]), self.batch.chains()
        self._chains = [
            [*chains[first + leaf], *([first + leaf] if lengths[first + leaf] else [])]
            for leaf in self._leaves
        ]
        self._longest = max((self.batch.ends[leaf] for leaf in self._leaves), default=0)
        count = len(self._leaves)
        plans = plan_ancestors(levels, [1] * count, self._leaves, slice(0, count), len(self.batch))
        root = self.batch.root
        if root is not None:
            plans.append(plan_root(count, root.batch.longest))
        self._blocks, _ = make_blocks(plans, self.batch.positions.device)
        self._root_block = None if root is None else self._blocks.pop()

    def _append_masked(
        self,
        layer: int,
        query: Tensor,
        scale: float | None,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        keys, values = self._own[layer]
        # Without a prompt nothing was prefilled, and no chain names a piece.
        prompts = self._prefilled.get(layer, (keys[:0, 0], values[:0, 0]))
        pieces = [part.split(self.batch.lengths) for part in prompts]
        root = self.batch.root
        results = []
        for row, chain in enumerate(self._chains):
            parts = [] if root is None else [root.prefilled(layer)]
            parts += [(pieces[0][n], pieces[1][n]) for n in chain]
            parts.append((keys[row, : self.length + 1], values[row, : self.length + 1]))
            key, value = (torch.cat(part) for part in zip(*parts, strict=True))
            first = 0 if window is None else max(0, len(key) - window)
            mask = torch.ones(1, len(key) - first, dtype=torch.bool, device=query.device)
            q, k, v = query[row : row + 1], key[first:], value[first:]
            results.append(attend_masked(q, k, v, mask, scale, softcap))
        return torch.cat(results)
