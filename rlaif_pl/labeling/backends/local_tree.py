"""Read rows with what they begin with in common computed once, and logits only where needed."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlaif_pl.labeling.backends.local_model import LocalModel, buckets
from rlaif_pl.labeling.backends.local_rows import Row
from rlaif_pl.models.causal import LOGIT_ROWS
from rlaif_pl.models.encoding import pad_right
from rlaif_pl.models.forest import read_forest
from rlaif_pl.models.prefix_tree import (
    LEAST_SHARED,
    Node,
    Text,
    common_start,
    grow,
    levels,
)
from rlaif_pl.models.tree_run import Root, RowCache, extend

KEYS_PER_TOKEN = 4  # cached places that weigh as much as one token to be computed
Found = list[tuple[int, list[float]]]


class Part(NamedTuple):
    """Trees that are read together, after the same root."""

    root: Root | None
    trees: list[Node]

    def width(self) -> int:
        """Places of a row in the cache, padding included."""
        start = 0 if self.root is None else len(self.root.ids)
        return start + sum(
            max(len(placed.node.ids) for placed in level) for level in levels(self.trees)
        )


def whole(texts: Sequence[Text], members: Sequence[int]) -> Part:
    """Return a part in which nothing is shared."""
    return Part(None, [Node(0, texts[member].ids, [member]) for member in members])


class TreeReader:
    """Judges tokens by as few computed tokens as are needed.

    Args:
        model: Who reads.
        batch_tokens: Most tokens in one forward pass.
        least_shared: Fewest tokens that are worth computing once for several rows.
        packs: Read all levels of a batch in one pass without padding; else level by level, which
            suits more architectures.
    """

    def __init__(
        self,
        model: LocalModel,
        batch_tokens: int,
        least_shared: int = LEAST_SHARED,
        packs: bool = True,
    ) -> None:
        self.model = model
        self.batch_tokens = batch_tokens
        self.least_shared = least_shared
        self.packs = packs
        self._roots: OrderedDict[tuple[int, ...], Root] = OrderedDict()
        self._warned = False

    def read(self, rows: Sequence[Row]) -> Iterator[Found]:
        """Yield places of rows with the log-probabilities of their judged tokens, batch by batch."""
        with torch.no_grad():
            yield from self._read(rows)

    def _read(self, rows: Sequence[Row]) -> Iterator[Found]:
        texts, owners = merge(rows)
        users: dict[int, list[int]] = {}
        for place, owner in enumerate(owners):
            users.setdefault(owner, []).append(place)
        short: list[int] = []
        long: list[int] = []
        for owner in sorted(users, key=lambda n: texts[n].ids):
            (short if self.fits(len(texts[owner].ids)) else long).append(owner)
        for group in buckets([len(texts[owner].ids) for owner in long], self.batch_tokens):
            yield self._read_part(rows, users, whole(texts, [long[n] for n in group]))
        for part in self.parts(texts, short):
            if not self.packs and not self.fits(part.width()):
                part = whole(texts, [n for tree in part.trees for n in tree.members])
            yield self._read_part(rows, users, part)

    def fits(self, width: int) -> bool:
        """Whether rows of this width, padding included, can be read piece by piece.

        A sliding window counts padding as tokens, so beyond it whole texts are read, padded on the
        right only.
        """
        window = self.model.window
        if window is None or width <= window:
            return True
        if not self._warned:
            warnings.warn(
                f"texts outgrow {self.model.name}'s sliding window of {window} tokens: what they "
                "have in common is computed for each",
                stacklevel=2,
            )
            self._warned = True
        return False

    def parts(
        self, texts: Sequence[Text], members: Sequence[int], extra: int = 0, copies: int = 1
    ) -> Iterator[Part]:
        """Cut texts into parts that fit into a batch, each with what it begins with already computed.

        Args:
            texts: All texts.
            members: Those to read, sorted by their tokens.
            extra: Tokens that each will grow by.
            copies: Times that each will go on by itself.
        """
        yield from self._parts(texts, members, None, extra, copies)

    def _parts(
        self,
        texts: Sequence[Text],
        members: Sequence[int],
        root: Root | None,
        extra: int,
        copies: int,
    ) -> Iterator[Part]:
        start = 0 if root is None else len(root.ids)
        small: list[Node] = []
        for tree in grow(texts, members, start, self.least_shared):
            known = self._known(tree, start)
            if known is not None:
                yield from self._parts(texts, tree.members, known, extra, copies)
            elif tree.children and (
                self._cost(tree, extra, copies) > self.batch_tokens or self._lasts(tree)
            ):
                longer = self._keep(extend(self.model.stack, self.model.pad, root, tree.ids))
                yield from self._parts(texts, tree.members, longer, extra, copies)
            else:
                small.append(tree)
        costs = [self._cost(tree, extra, copies) for tree in small]
        for group in buckets(costs, self.batch_tokens):
            yield Part(root, [small[n] for n in group])

    def _lasts(self, tree: Node) -> bool:
        """Whether a beginning is likely to come again in later calls: more than a pair has it.

        With levels a root costs a batch of its own and copies, so there only full batches have one.
        """
        return self.packs and tree.start == 0 and len(tree.members) > 2

    def _cost(self, tree: Node, extra: int, copies: int) -> int:
        """Tokens to compute, or their equal in cached places."""
        if self.packs and not extra:
            return tree.tokens()
        cached = len(tree.members) * copies * (tree.longest() + extra)
        return max(tree.tokens(), cached // KEYS_PER_TOKEN)

    def _known(self, tree: Node, start: int) -> Root | None:
        """Return a kept root that all rows of a tree begin with and that is longer than ``start``."""
        if not tree.children:
            return None
        for ids, root in reversed(self._roots.items()):
            if start < len(ids) <= tree.stop and tuple(tree.ids[: len(ids) - start]) == ids[start:]:
                self._roots.move_to_end(ids)
                return root
        return None

    def _keep(self, root: Root) -> Root:
        """Keep a root for later calls, the newest ones within ``batch_tokens`` in all."""
        self._roots[root.ids] = root
        while len(self._roots) > 1 and sum(map(len, self._roots)) > self.batch_tokens:
            self._roots.popitem(last=False)
        return root

    def _read_part(
        self,
        rows: Sequence[Row],
        users: dict[int, list[int]],
        part: Part,
    ) -> Found:
        """Judge the rows of a batch of trees."""
        found: Found = []
        for nodes, starts, hidden in self._hidden(*part):
            places: list[tuple[int, int]] = []
            states: list[int] = []
            picks: list[int] = []
            for node, start in zip(nodes, starts, strict=True):
                for place in users[node.members[0]] if not node.children else ():
                    row = rows[place]
                    at = start + row.first - 1 - node.start
                    count = len(row.ids) - row.first
                    places.append((place, count))
                    states += range(at, at + count)
                    picks += row.ids[row.first :]
            values = iter(self._logprobs(hidden, states, picks))
            found += [(place, [next(values) for _ in range(count)]) for place, count in places]
        return found

    def _hidden(
        self, root: Root | None, trees: Sequence[Node]
    ) -> Iterator[tuple[list[Node], Sequence[int], Tensor]]:
        """Yield nodes, the place of each one's first state, and the states ``(places, D)``."""
        stack, pad = self.model.stack, self.model.pad
        if self.packs and self.fits(max(tree.longest() for tree in trees)):
            forest, hidden = read_forest(stack, root, trees)
            yield forest.nodes, forest.starts, hidden
            return
        if root is None and not any(tree.children for tree in trees):
            ids, is_real = (
                each.to(self.model.device) for each in pad_right([tree.ids for tree in trees], pad)
            )
            hidden = stack(ids, is_real, (is_real.long().cumsum(1) - 1).clamp(min=0))
            yield list(trees), range(0, ids.numel(), ids.shape[1]), hidden.flatten(0, 1)
            return
        cache = RowCache(stack, pad, root)
        for level in levels(trees):
            nodes = [placed.node for placed in level]
            hidden = cache.advance(
                [placed.parent for placed in level], [node.ids for node in nodes]
            )
            yield (
                nodes,
                range(0, hidden.shape[0] * hidden.shape[1], hidden.shape[1]),
                hidden.flatten(0, 1),
            )

    def _logprobs(self, hidden: Tensor, states: list[int], picks: list[int]) -> list[float]:
        """Log-probability of each picked token after its state; equal states are projected once."""
        if not states:
            return []
        wanted, which = torch.tensor(states).unique(return_inverse=True)
        order = which.argsort(stable=True)  # picks by state, so that a slice of states has a slice
        counts = which.bincount(minlength=len(wanted))
        tokens = torch.tensor(picks)[order].split(
            [int(part.sum()) for part in counts.split(LOGIT_ROWS)]
        )
        parts = []
        for begin, picked in zip(range(0, len(wanted), LOGIT_ROWS), tokens, strict=True):
            chosen = wanted[begin : begin + LOGIT_ROWS].to(hidden.device)
            logits = self.model.logits(hidden[chosen])
            norms = logits.logsumexp(-1)
            rows = torch.arange(len(chosen)).repeat_interleave(counts[begin : begin + LOGIT_ROWS])
            rows = rows.to(logits.device)
            parts.append((logits[rows, picked.to(logits.device)] - norms[rows]).cpu())
        values = torch.empty(len(picks))
        values[order] = torch.cat(parts)
        return [float(value) for value in values]


def merge(rows: Sequence[Row]) -> tuple[list[Text], list[int]]:
    """Find rows that are read along with a longer one.

    The last token of a row is judged, never read: "1" and "2" after one question make one text.

    Returns:
        A text a row, and for each row the one in whose text it is read.
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
