"""In which order a person sees the responses to a prompt: at random, and the same every time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def shown_order(seed: int, rater: str, task: str, num_items: int) -> tuple[int, ...]:
    """Return the item at each place of the page, from the top.

    Depends on nothing but the arguments, so a page that is opened again looks the same.

    Args:
        seed: Shuffles all again.
        rater: Name of the person; capitals do not matter.
        task: ``Task.id``.
        num_items: Items to put in order.
    """

    def place(item: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{rater.casefold()}/{task}/{item}".encode()).digest()

    return tuple(sorted(range(num_items), key=place))


def ranks_by_item(shown: Sequence[int], ranks: Sequence[int]) -> tuple[int, ...]:
    """Turn ranks by place on the page into ranks by item.

    Args:
        shown: Item at each place.
        ranks: Rank of the item at each place, 1 for the best.

    Raises:
        ValueError: The ranks are not 1..n, each once.
    """
    if sorted(ranks) != list(range(1, len(shown) + 1)):
        raise ValueError(
            f"expected ranks 1 to {len(shown)}, each once, got {list(ranks)}; rank every response"
        )
    by_item = dict(zip(shown, ranks, strict=True))
    return tuple(by_item[item] for item in range(len(shown)))
