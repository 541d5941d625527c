"""Keys and values of texts that are being written: what they begin with once, whatever their number.

The prompts stay as they were computed, in one packed batch, and each text has room for its own tokens
from the start. Attention is computed in parts and joined, as in ``attention.segments``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlaif_pl.engine.attention.leaf import QKV, Scoring, leaf_for, merge_attention_states
from rlaif_pl.engine.attention.segments import attend_masked, is_supported
from rlaif_pl.engine.batch import Keys, PackedBatch, Segment, pack_segments


class KVCache:
    """Cache of one stack of layers, over a layout of prompts or a prefix tree, after its root if any.

    ``prefilled`` has keys and values of the packed batch by layer, each ``(T, key heads, size)``;
    ``length`` counts the tokens that each text has got since ``fork``.
    """

    def __init__(self, batch: PackedBatch) -> None:
        self.batch = batch
        self.length = 0
        self.prefilled: dict[int, Keys] = {}
        self._own: dict[int, Keys] = {}  # by layer, each (n, capacity, key heads, size)

    def fork(self, leaves: Sequence[int], capacity: int) -> None:
        """Begin texts of at most ``capacity`` tokens that go on from ``leaves`` of the last level.

        They are in ascending order; a prompt that ends higher has an empty segment there.
        """
        self._leaves, self._capacity = list(leaves), capacity
        levels, root, device = self.batch.levels, self.batch.root, self.batch.positions.device
        step = [Segment(1, leaf) for leaf in self._leaves]
        # The batch with the next token of each text, which alone ask.
        self.step = pack_segments([*levels, step], device, root, first=len(levels))

    def append(self, layer: int, qkv: QKV, scoring: Scoring) -> Tensor:
        """Take in one token a text and attend from it; ``(n, heads, size)``, of keys ``key heads``."""
        query, key, value = qkv
        if layer not in self._own:
            k, v = (t.new_empty(len(t), self._capacity, *t.shape[1:]) for t in (key, value))
            self._own[layer] = k, v
        keys, values = (t[:, : self.length + 1] for t in self._own[layer])
        keys[:, -1], values[:, -1] = key, value
        # Without a prompt nothing was prefilled, and no block or chain names a piece.
        prompts = self.prefilled.get(layer, (key[:0], value[:0]))
        root = self.batch.root.keys.get(layer)
        longest = max(self.step.ends, default=0) + self.length
        if not is_supported(qkv, longest, scoring):
            pieces = [part.split(self.batch.lengths) for part in prompts]
            results = []
            for row, chain in enumerate(self.step.chains[-len(query) :]):
                parts = [] if root is None else [root]
                parts += [*((pieces[0][n], pieces[1][n]) for n in chain), (keys[row], values[row])]
                seen = slice(-(scoring.window or 0), None)
                k, v = (torch.cat(part)[seen] for part in zip(*parts, strict=True))
                mask = torch.ones(1, len(k), dtype=torch.bool, device=k.device)
                results.append(attend_masked((query[row : row + 1], k, v), mask, scoring))
            return torch.cat(results)
        leaf, scale = leaf_for(query), scoring.scale_for(query)
        joint = leaf.dense((query, keys, values), scale)
        for block in self.step.blocks[1:]:  # the first is a token's to itself
            k, v = root if root is not None and block is self.step.blocks[-1] else prompts
            found = leaf.forward((query, k[block.keys], v[block.keys]), block, scale)
            joint = merge_attention_states(joint, found)
        return joint.output

    def select_rows(self, rows: Sequence[int], index: Tensor) -> None:
        """Go on with these texts only, in ascending order; ``index`` is the same on the device."""
        for layer in self._own:  # one after the other: each frees what it was before the next
            keys, values = self._own[layer]
            self._own[layer] = keys[index], values[index]
        self.fork([self._leaves[row] for row in rows], self._capacity)
