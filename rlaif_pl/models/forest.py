"""Read trees of token rows in one forward pass: every token once, side by side, without padding.

All layers work on one long row; only attention knows the trees. It goes to transformers as an attention
function under a name of its own (``AttentionInterface``), so that projections, norms and rotary
positions are the library's own. Exact where a row may attend to all of its earlier tokens; what a model
adds to that (soft caps, sinks, biases) is refused, and a sliding window must hold every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from rlaif_pl.models.prefix_tree import Node
from rlaif_pl.models.stack import Stack
from rlaif_pl.models.tree_run import Root

NAME = "rlaif_pl_forest"
# Said to every attention function and of no weight here: there is no cache, nothing is trained, and
# rows fit into the window.
WITHOUT_EFFECT = ("dropout", "is_causal", "position_ids", "sliding_window", "use_cache")


class Placed(NamedTuple):
    """A node in the long row.

    Attributes:
        own: Places of its tokens.
        above: Places of the nodes that it continues, from the top.
        mask: What is added to the scores of its tokens: 0 where a key may be attended to, else minus
            infinity. ``(len(ids), stop)``
    """

    own: slice
    above: tuple[slice, ...]
    mask: Tensor


class Forest:
    """Trees laid out in one row.

    Args:
        root: What all rows begin with, computed before; None where that is nothing.
        trees: Trees to read; their nodes start where the root ends.
        device: Where to compute.
        dtype: Type of the keys.

    Attributes:
        nodes: All nodes, each after those above it.
        starts: Place of each node's first token in the row.
        ids: ``(1, T)`` int64
        positions: Position of each token in its own text. ``(1, T)`` int64
    """

    def __init__(
        self, root: Root | None, trees: Sequence[Node], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.root = root
        self.nodes: list[Node] = []
        self.starts: list[int] = []
        self.places: list[Placed] = []
        self._end = 0
        for tree in trees:
            self._place(tree, (), device, dtype)
        ids = [id_ for node in self.nodes for id_ in node.ids]
        positions = [at for node in self.nodes for at in range(node.start, node.stop)]
        self.ids = torch.tensor([ids], device=device)
        self.positions = torch.tensor([positions], device=device)

    def _place(
        self, node: Node, above: tuple[slice, ...], device: torch.device, dtype: torch.dtype
    ) -> None:
        own = slice(self._end, self._end + len(node.ids))
        self._end = own.stop
        mask = torch.full((len(node.ids), node.stop), -torch.inf, device=device, dtype=dtype)
        self.nodes.append(node)
        self.starts.append(own.start)
        self.places.append(Placed(own, above, mask.triu(node.start + 1)))
        for child in node.children:
            self._place(child, (*above, own), device, dtype)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None
    ) -> Tensor:
        """Attend within each text.

        Args:
            layer: Place of the layer in the root's cache.
            query: ``(1, H, T, d)``
            key: ``(1, K, T, d)``, ``H`` a multiple of ``K``
            value: ``(1, K, T, e)``
            scale: Factor of the scores; ``d ** -0.5`` where None.

        Returns:
            ``(1, T, H, e)``
        """
        begin: list[tuple[Tensor, Tensor]] = []
        if self.root is not None:
            kept = cast(Any, self.root.cache.layers[layer])
            begin = [(kept.keys, kept.values)]
        result = query.new_empty(1, query.shape[2], query.shape[1], value.shape[-1])
        heads = (key.shape[1], query.shape[1] // key.shape[1])
        for own, above, mask in self.places:
            parts = begin + [(key[:, :, at], value[:, :, at]) for at in (*above, own)]
            keys, values = (torch.cat(part, 2).transpose(0, 1) for part in zip(*parts, strict=True))
            found = scaled_dot_product_attention(
                query[0, :, own].unflatten(0, heads),  # (K, H / K, n, d)
                keys.expand(-1, heads[1], -1, -1),
                values.expand(-1, heads[1], -1, -1),
                attn_mask=mask,
                scale=scale,
            )
            result[0, own] = found.flatten(0, 1).transpose(0, 1)
        return result


def read_forest(stack: Stack, root: Root | None, trees: Sequence[Node]) -> tuple[Forest, Tensor]:
    """Read trees after a root.

    Returns:
        The layout, and the hidden states of its tokens. ``(T, D)``

    Raises:
        NotImplementedError: The model's attention does more than this module knows.
    """
    weight = next(stack.parameters())
    forest = Forest(root, trees, weight.device, weight.dtype)
    with _attention(stack.decoder):
        output = stack.decoder(
            input_ids=forest.ids, position_ids=forest.positions, use_cache=False, forest=forest
        )
    return forest, cast(Tensor, output.last_hidden_state)[0]


@contextmanager
def _attention(decoder: PreTrainedModel) -> Iterator[None]:
    """Let a decoder attend by ``attention`` for a while."""
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation(NAME)
    try:
        if decoder.config._attn_implementation != NAME:
            raise NotImplementedError(f"{type(decoder).__name__} lets nobody change its attention")
        yield
    finally:
        decoder.set_attn_implementation(before)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - the forest says who sees whom
    *,
    forest: Forest,
    scaling: float | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Attend in a forest; the arguments are those of transformers' attention functions.

    Raises:
        NotImplementedError: The model asks for something that has an effect and is not known here.
    """
    unknown = [
        name for name, value in others.items() if value is not None and name not in WITHOUT_EFFECT
    ]
    if unknown:
        raise NotImplementedError(
            f"expected plain attention, got {unknown} from {type(module).__name__}; read level by level"
        )
    layer = cast(int, module.layer_idx)
    return forest.attend(layer, query, key, value, scaling), None


AttentionInterface.register(NAME, attention)
