"""Score and continue token rows with what they begin with in common run once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch

from rlaif_pl.engine.batch import Segment, pack_segments, to_device
from rlaif_pl.engine.generation_state import LanguageModel, PackedState
from rlaif_pl.engine.kv_cache import KVCache
from rlaif_pl.engine.prefix_tree import LEAST_SHARED, Node, Text, common_start, grow, pack_trees
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.engine.score import token_logprobs
from rlaif_pl.errors import at_least

ROWS_PER_TOKEN = 4  # places for tokens to be written that weigh as much as one token to be computed
Scores = list[tuple[int, list[float]]]


class ScoredRow(Protocol):
    """Tokens to be run, some of which are to be scored."""

    @property
    def ids(self) -> tuple[int, ...]:
        """All of them."""

    @property
    def first(self) -> int:
        """Tokens from here on are scored, each by those before it; at least 1."""


class Root(NamedTuple):
    """Keys and values of what many rows begin with, computed once; by default nothing."""

    ids: tuple[int, ...] = ()
    cache: KVCache | None = None


class PrefixTreeRunner:
    """Runs rows by as few computed tokens as are needed, and makes logits only where they are read.

    The model can be packed and has no trunk; a forward pass has at most ``batch_tokens``, and fewer
    than ``least_shared`` tokens are computed for each row anew.
    """

    def __init__(
        self, model: LanguageModel, batch_tokens: int, least_shared: int = LEAST_SHARED
    ) -> None:
        self.model = model
        self.batch_tokens = batch_tokens
        self.least_shared = least_shared
        self._roots: OrderedDict[tuple[int, ...], Root] = OrderedDict()

    @torch.no_grad()
    def score(self, rows: Sequence[ScoredRow]) -> Iterator[Scores]:
        """Yield places of rows with the log-probabilities of their scored tokens, batch by batch."""
        texts, owners = merge(rows)
        users: dict[int, list[int]] = {}
        for place, owner in enumerate(owners):
            users.setdefault(owner, []).append(place)
        order = sorted(users, key=lambda n: texts[n].ids)
        for root, trees in self._parts(texts, order, Root(), 0):
            yield self._score_part(rows, users, root, trees)

    @torch.no_grad()
    def states(
        self, prompts: Sequence[ScoredRow], copies: Sequence[int], max_new_tokens: int
    ) -> Iterator[tuple[PackedState, list[int]]]:
        """Run prompts of at least one token and yield texts to be continued, batch by batch.

        Of each prompt there are so many ``copies``, which get at most ``max_new_tokens``. Yields
        the state of a batch, which wants each prompt's last token first, and its texts' prompts.
        """
        texts = [Text(row.ids[:-1], max(len(row.ids) - 2, 0)) for row in prompts]
        order = sorted(range(len(texts)), key=lambda n: texts[n].ids)
        extra = max_new_tokens * max(copies, default=1)
        for root, trees in self._parts(texts, order, Root(), extra):
            tree = pack_trees(trees, self.model.top.device, root.cache, to_the_end=True)
            leaves = [leaf for leaf, row in enumerate(tree.rows) for _ in range(copies[row])]
            yield PackedState(self.model, tree.ids, tree.batch, leaves, max_new_tokens), tree.rows

    def _parts(
        self, texts: Sequence[Text], members: Sequence[int], root: Root, extra: int
    ) -> Iterator[tuple[Root, list[Node]]]:
        """Cut texts into parts that fit into a batch, each after what it begins with."""
        start = len(root.ids)
        small: list[Node] = []
        for tree in grow(texts, members, start, self.least_shared):
            known = self._known(tree, root)
            if known is not None:
                yield from self._parts(texts, tree.members, known, extra)
                continue
            # a beginning that more than a pair has is likely to come again in later calls
            lasts = tree.start == 0 and len(tree.members) > 2
            if tree.children and (lasts or self._cost(tree, extra) > self.batch_tokens):
                yield from self._parts(texts, tree.members, self._extend(root, tree.ids), extra)
            else:
                small.append(tree)
        for group in buckets([self._cost(tree, extra) for tree in small], self.batch_tokens):
            yield root, [small[n] for n in group]

    def _cost(self, tree: Node, extra: int) -> int:
        """Tokens to compute, or their equal in places to be written."""
        return tree.num_tokens() + len(tree.members) * extra // ROWS_PER_TOKEN

    def _known(self, tree: Node, root: Root) -> Root | None:
        """Return a kept root, longer than ``root``, that all rows of a tree below it begin with."""
        if not tree.children:
            return None
        start = len(root.ids)
        for ids, longer in reversed(self._roots.items()):
            is_within = start < len(ids) <= tree.stop
            # all of it: a post's tokens may stand as far into two prompts that differ before it
            if is_within and ids == root.ids + tree.ids[: len(ids) - start]:
                self._roots.move_to_end(ids)
                return longer
        return None

    def _extend(self, root: Root, ids: tuple[int, ...]) -> Root:
        """Compute a longer root and keep it for later calls, the newest within ``batch_tokens``."""
        device = self.model.top.device
        batch = pack_segments([[Segment(len(ids))]], device, root.cache)
        cache = KVCache(batch)
        (moved,) = to_device([ids], device)
        self.model.top.packed_forward(moved, batch, moved[:0], cache=cache)
        longer = self._roots[(*root.ids, *ids)] = Root((*root.ids, *ids), cache.joined())
        while len(self._roots) > 1 and sum(map(len, self._roots)) > self.batch_tokens:
            self._roots.popitem(last=False)
        return longer

    def _score_part(
        self,
        rows: Sequence[ScoredRow],
        users: dict[int, list[int]],
        root: Root,
        trees: Sequence[Node],
    ) -> Scores:
        tree = pack_trees(trees, self.model.top.device, root.cache)
        counts: list[tuple[int, int]] = []
        places: list[int] = []
        picks: list[int] = []
        for node, start in tree.leaves:
            for row in users[node.members[0]]:
                ids, first = rows[row].ids, rows[row].first
                at = start + first - 1 - node.start
                counts.append((row, len(ids) - first))
                places += range(at, at + len(ids) - first)
                picks += ids[first:]
        hidden = self.model.top.packed_forward(tree.ids, tree.batch)
        index, taken = to_device([places, picks], hidden.device)
        scored = token_logprobs(hidden[index], self.model.unembedding, taken, SamplingParams())
        values = iter(scored.logprobs.clamp(max=0).tolist())  # above 0 by rounding alone
        return [(row, [next(values) for _ in range(count)]) for row, count in counts]


def merge(rows: Sequence[ScoredRow]) -> tuple[list[Text], list[int]]:
    """Return a text a row, and for each row the one, as long or longer, in whose text it is run.

    The last token of a row is scored, never run: "1" and "2" after one question make one text.
    """
    texts = [Text(row.ids[:-1], row.first - 1) for row in rows]
    owners = list(range(len(rows)))
    order = sorted(owners, key=lambda n: texts[n].ids)
    for place in range(len(order) - 2, -1, -1):
        shorter, longer = order[place], owners[order[place + 1]]
        if common_start(texts[shorter].ids, texts[longer].ids) == len(texts[shorter].ids):
            owners[shorter] = longer
            least = min(texts[shorter].shareable, texts[longer].shareable)
            texts[longer] = Text(texts[longer].ids, least)
    return texts, owners


def buckets(lengths: Sequence[int], budget: int, *, padded: bool = False) -> Iterator[list[int]]:
    """Yield indices of items of like length, longest group first (memory runs out at once or never).

    A group has at most ``budget`` tokens, or one item; ``padded`` items cost as much as their longest.
    """
    at_least(1, batch_tokens=budget)
    group: list[int] = []
    used = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        cost = lengths[group[0]] if padded and group else lengths[index]
        if group and used + cost > budget:
            yield group
            group, used, cost = [], 0, lengths[index]
        group.append(index)
        used += cost
    if group:
        yield group
