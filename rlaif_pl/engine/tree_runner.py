"""Score and continue token rows with what they begin with in common run once, at several depths."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rlaif_pl.engine.attention.segments import KVCache
from rlaif_pl.engine.batch import PackedBatch, Root, Segment, pack_segments, to_device
from rlaif_pl.engine.generation_state import LanguageModel, PackedState
from rlaif_pl.engine.sampling import SamplingParams
from rlaif_pl.engine.score import token_logprobs
from rlaif_pl.errors import at_least

LEAST_SHARED = 24  # tokens; a smaller segment costs more in calls than it saves
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


class Text(NamedTuple):
    """Tokens to be run, at least 1."""

    ids: tuple[int, ...]
    # leading tokens that may belong to a segment of several rows, below `len(ids)`; the states of
    # the others are wanted
    shareable: int


@dataclass(slots=True)
class Node:
    """Tokens that some rows have in common, after those of the node above."""

    start: int  # place of the first token in the rows
    ids: tuple[int, ...]
    members: list[int]  # rows that go through here; one for a leaf
    children: list[Node] = field(default_factory=list)  # nodes below; none for a leaf

    def num_tokens(self) -> int:
        """Tokens of this node and all below."""
        return len(self.ids) + sum(child.num_tokens() for child in self.children)


class PackedTree(NamedTuple):
    """Trees in one row."""

    batch: PackedBatch
    ids: Tensor  # `(T,)` int64
    leaves: list[tuple[Node, int]]  # leaves with the place of each one's first token
    rows: list[int]  # row of text of each segment of the last level, where leaves were carried down


def grow(
    texts: Sequence[Text], members: Sequence[int], start: int = 0, least: int = LEAST_SHARED
) -> list[Node]:
    """Group rows by what they have in common from ``start`` on; sibling nodes, each row below one.

    ``members`` are sorted by their tokens and the same before ``start``; ``least`` is the fewest
    tokens of a node that several rows share.
    """
    runs: list[list[int]] = []
    for member in members:
        if not runs or _shared(texts[runs[-1][-1]], texts[member]) < start + least:
            runs.append([])
        runs[-1].append(member)
    nodes = []
    for run in runs:
        ids = texts[run[0]].ids
        pairs = [_shared(texts[one], texts[other]) for one, other in pairwise(run)]
        stop = min(pairs, default=len(ids))
        below = grow(texts, run, stop, least) if pairs else []
        nodes.append(Node(start, ids[start:stop], run, below))
    return nodes


def pack_trees(
    trees: Sequence[Node],
    device: torch.device | str,
    root: Root = Root(),  # noqa: B008 - immutable
    *,
    to_the_end: bool = False,
) -> PackedTree:
    """Lay trees, which start where the root ends, out in one row, level by level.

    ``to_the_end`` carries leaves down as empty segments, so that the last level has every row.
    """
    levels: list[list[Segment]] = []
    ids: list[int] = []
    leaves: list[tuple[Node, int]] = []
    level = [(node, 0) for node in trees]
    rows: list[int] = []
    while level:
        levels.append([Segment(len(node.ids), parent) for node, parent in level])
        rows = [node.members[0] for node, _ in level]
        carries = to_the_end and any(node.children for node, _ in level)
        below: list[tuple[Node, int]] = []
        for place, (node, _) in enumerate(level):
            if node.ids and not node.children:
                leaves.append((node, len(ids)))
            ids += node.ids
            rest = [Node(0, (), node.members)] if carries else []
            below += [(child, place) for child in node.children or rest]
        level = below
    (moved,) = to_device([ids], device)
    return PackedTree(pack_segments(levels, device, root), moved, leaves, rows)


def common_start(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the tokens that two rows begin with alike."""
    both = zip(one, other, strict=False)
    least = min(len(one), len(other))
    return next((place for place, (a, b) in enumerate(both) if a != b), least)


def _shared(one: Text, other: Text) -> int:
    return min(common_start(one.ids, other.ids), one.shareable, other.shareable)


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
        for root, trees in self._parts(texts, list(users)):
            tree = pack_trees(trees, self.model.top.device, root)
            spans = [
                (row, start - node.start + rows[row].first - 1, rows[row].ids[rows[row].first :])
                for node, start in tree.leaves
                for row in users[node.members[0]]
            ]
            places = [place for _, at, scored in spans for place in range(at, at + len(scored))]
            picks = [token for *_, scored in spans for token in scored]
            hidden = self.model.top.packed_forward(tree.ids, tree.batch)
            index, taken = to_device([places, picks], hidden.device)
            found = token_logprobs(hidden[index], self.model.unembedding, taken, SamplingParams())
            values = iter(found.logprobs.clamp(max=0).tolist())  # above 0 by rounding alone
            yield [(row, [next(values) for _ in scored]) for row, _, scored in spans]

    @torch.no_grad()
    def states(
        self, prompts: Sequence[ScoredRow], copies: Sequence[int], max_new_tokens: int
    ) -> Iterator[tuple[PackedState, list[int]]]:
        """Run prompts of at least one token and yield texts to be continued, batch by batch.

        Of each prompt there are so many ``copies``, which get at most ``max_new_tokens``. Yields
        the state of a batch, which wants each prompt's last token first, and its texts' prompts.
        """
        texts = [Text(row.ids[:-1], max(len(row.ids) - 2, 0)) for row in prompts]
        extra = max_new_tokens * max(copies, default=1)
        for root, trees in self._parts(texts, list(range(len(texts))), extra):
            tree = pack_trees(trees, self.model.top.device, root, to_the_end=True)
            leaves = [leaf for leaf, row in enumerate(tree.rows) for _ in range(copies[row])]
            yield PackedState(self.model, tree.ids, tree.batch, leaves, max_new_tokens), tree.rows

    def _parts(
        self,
        texts: Sequence[Text],
        members: Sequence[int],
        extra: int = 0,
        root: Root = Root(),  # noqa: B008 - immutable
    ) -> Iterator[tuple[Root, list[Node]]]:
        """Cut texts, each with ``extra`` tokens to write, into batches after what they begin with."""
        small: list[Node] = []
        costs: list[int] = []
        members = sorted(members, key=lambda n: texts[n].ids)
        for tree in grow(texts, members, len(root.ids), self.least_shared):
            cost = tree.num_tokens() + len(tree.members) * extra // ROWS_PER_TOKEN
            longer = self._known(tree, root) if tree.children else None
            # a beginning that more than a pair has is likely to come again in later calls
            lasts = tree.start == 0 and len(tree.members) > 2
            if tree.children and longer is None and (lasts or cost > self.batch_tokens):
                longer = self._extend(root, tree.ids)
            if longer is None:
                small.append(tree)
                costs.append(cost)
            else:
                yield from self._parts(texts, tree.members, extra, longer)
        for group in buckets(costs, self.batch_tokens):
            yield root, [small[n] for n in group]

    def _known(self, tree: Node, root: Root) -> Root | None:
        """Return a kept root, longer than ``root``, that all rows of a tree below it begin with."""
        whole = root.ids + tree.ids
        for ids, longer in reversed(self._roots.items()):
            # all of it: a post's tokens may stand as far into two prompts that differ before it
            if len(root.ids) < len(ids) and ids == whole[: len(ids)]:
                self._roots.move_to_end(ids)
                return longer
        return None

    def _extend(self, root: Root, ids: tuple[int, ...]) -> Root:
        """Compute a longer root and keep it for later calls, the newest within ``batch_tokens``."""
        device = self.model.top.device
        batch = pack_segments([[Segment(len(ids))]], device, root)
        cache = KVCache(batch)
        (moved,) = to_device([ids], device)
        self.model.top.packed_forward(moved, batch, moved[:0], cache=cache)
        keys = cache.prefilled
        for layer, before in root.keys.items():
            k, v = map(torch.cat, zip(before, keys[layer], strict=True))
            keys[layer] = k, v
        longer = self._roots[(*root.ids, *ids)] = Root((*root.ids, *ids), keys)
        while len(self._roots) > 1 and sum(map(len, self._roots)) > self.batch_tokens:
            self._roots.popitem(last=False)
        return longer


def merge(rows: Sequence[ScoredRow]) -> tuple[list[Text], list[int]]:
    """Return a text a row, and for each row the one, as long or longer, in whose text it is run.

    The last token of a row is scored, never run: "1" and "2" after one question make one text.
    """
    texts = [Text(row.ids[:-1], row.first - 1) for row in rows]
    owners = list(range(len(rows)))
    order = sorted(owners, key=lambda n: texts[n].ids)
    for shorter, after in reversed(list(pairwise(order))):
        longer = owners[after]
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
