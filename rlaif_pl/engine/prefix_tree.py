"""Token rows as a tree: what several rows begin with is one segment, so that it is computed once.

Rows of a labeling job begin alike at several depths: all of them with the preamble and its exemplars,
both orders of a pair with the post, the second calls of self-consistency with the first call's prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from rlaif_pl.engine.batch import PackedBatch, Segment, pack_segments, to_device
from rlaif_pl.engine.kv_cache import KVCache

LEAST_SHARED = 24  # tokens; a smaller segment costs more in calls than it saves


class Text(NamedTuple):
    """A row to be run."""

    ids: tuple[int, ...]  # its tokens, at least 1
    # leading tokens that may belong to a segment of several rows, below `len(ids)`; the states of
    # the others are wanted
    shareable: int


@dataclass(slots=True)
class Node:
    """Tokens that some rows have in common, after those of the node above."""

    start: int  # place of the first token in the rows
    ids: tuple[int, ...]  # the tokens
    members: list[int]  # rows that go through here; one for a leaf
    children: list[Node] = field(default_factory=list)  # nodes below; none for a leaf

    @property
    def stop(self) -> int:
        """Place after the last token."""
        return self.start + len(self.ids)

    def num_tokens(self) -> int:
        """Tokens of this node and all below."""
        return len(self.ids) + sum(child.num_tokens() for child in self.children)


class PackedTree(NamedTuple):
    """Trees in one row."""

    batch: PackedBatch  # layout
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
    nodes = []
    for run in _runs(texts, members, start + least):
        ids = texts[run[0]].ids
        if len(run) == 1:
            nodes.append(Node(start, ids[start:], run))
            continue
        stop = min(_shared(texts[one], texts[other]) for one, other in pairwise(run))
        nodes.append(Node(start, ids[start:stop], run, grow(texts, run, stop, least)))
    return nodes


def pack_trees(
    trees: Sequence[Node],
    device: torch.device,
    root: KVCache | None = None,
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
        deeper = any(node.children for node, _ in level)
        below: list[tuple[Node, int]] = []
        for place, (node, _) in enumerate(level):
            if node.ids and not node.children:
                leaves.append((node, len(ids)))
            ids += node.ids
            if node.children:
                below += [(child, place) for child in node.children]
            elif to_the_end and deeper:
                below.append((Node(node.stop, (), node.members), place))
        rows = [node.members[0] for node, _ in level]
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


def _runs(texts: Sequence[Text], members: Sequence[int], least: int) -> Iterator[list[int]]:
    run: list[int] = []
    for member in members:
        if run and _shared(texts[run[-1]], texts[member]) < least:
            yield run
            run = []
        run.append(member)
    if run:
        yield run
