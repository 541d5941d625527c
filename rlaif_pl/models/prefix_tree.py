"""Token rows as a tree: what several rows begin with is one node, so that it is computed once.

Rows of a labeling job begin alike at several depths: all of them with the preamble and its exemplars,
both orders of a pair with the post, the second calls of self-consistency with the first call's prompt.
This module only finds the nodes; ``tree_run`` computes them level by level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

LEAST_SHARED = 24  # tokens; a smaller node costs more in calls and copies than it saves


class Text(NamedTuple):
    """A row to be read.

    Attributes:
        ids: Its tokens, at least 1.
        shareable: Leading tokens that may belong to a node of several rows, below ``len(ids)``; the
            states of the others are wanted.
    """

    ids: tuple[int, ...]
    shareable: int


@dataclass(slots=True)
class Node:
    """Tokens that some rows have in common, after those of the node above.

    Attributes:
        start: Place of the first token in the rows.
        ids: The tokens.
        members: Rows that go through here; one for a leaf.
        children: Nodes below; none for a leaf.
    """

    start: int
    ids: tuple[int, ...]
    members: list[int]
    children: list[Node] = field(default_factory=list)

    @property
    def stop(self) -> int:
        """Place after the last token."""
        return self.start + len(self.ids)

    def tokens(self) -> int:
        """Tokens of this node and all below."""
        return len(self.ids) + sum(child.tokens() for child in self.children)

    def longest(self) -> int:
        """Tokens of the longest row, what is above this node included."""
        return max((child.longest() for child in self.children), default=self.stop)


class Placed(NamedTuple):
    """A node in a level, with the place of its parent in the level above (0 in the first)."""

    node: Node
    parent: int


def grow(
    texts: Sequence[Text], members: Sequence[int], start: int = 0, least: int = LEAST_SHARED
) -> list[Node]:
    """Group rows by what they have in common from a place on.

    Args:
        texts: All rows.
        members: Rows to group, sorted by their tokens; all are the same before ``start``.
        start: Where to begin.
        least: Fewest tokens of a node that several rows share.

    Returns:
        Sibling nodes, each row below exactly one of them.
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


def levels(nodes: Sequence[Node], to_the_end: bool = False) -> Iterator[list[Placed]]:
    """Walk down a forest, all nodes of a depth at a time.

    Args:
        nodes: The first level.
        to_the_end: Carry leaves on through the levels below as nodes without tokens, so that the last
            level has every row.
    """
    level = [Placed(node, 0) for node in nodes]
    while level:
        yield level
        deeper = any(placed.node.children for placed in level)
        below = []
        for place, (node, _) in enumerate(level):
            if node.children:
                below += [Placed(child, place) for child in node.children]
            elif to_the_end and deeper:
                below.append(Placed(Node(node.stop, (), node.members), place))
        level = below


def common_start(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the tokens that two rows begin with alike."""
    both = zip(one, other, strict=False)
    least = min(len(one), len(other))
    return next((place for place, (a, b) in enumerate(both) if a != b), least)


def _shared(one: Text, other: Text) -> int:
    """Count leading tokens that may be one node of both rows."""
    return min(common_start(one.ids, other.ids), one.shareable, other.shareable)


def _runs(texts: Sequence[Text], members: Sequence[int], least: int) -> Iterator[list[int]]:
    """Cut sorted rows where neighbors begin with fewer than ``least`` tokens alike."""
    run: list[int] = []
    for member in members:
        if run and _shared(texts[run[-1]], texts[member]) < least:
            yield run
            run = []
        run.append(member)
    if run:
        yield run
