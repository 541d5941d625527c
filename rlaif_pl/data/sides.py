"""Which side the better response stands on, where a data set has an order of its own."""

from __future__ import annotations

import hashlib

from rlaif_pl.types import Preference, Provenance


def chosen_is_first(seed: int, *texts: str) -> bool:
    """Toss a coin that depends on seed and texts only, so that the side tells nothing."""
    key = "\x00".join((str(seed), *texts)).encode()
    return hashlib.blake2b(key, digest_size=1).digest()[0] % 2 == 0


def gold_pair(prompt: str, group: str, better: str | None, worse: str | None) -> Preference:
    """Return two written responses as a labeled pair; which comes first is a hash of the group."""
    if better is None or worse is None:
        raise ValueError(f"expected a row with better and worse, {group} has none")
    is_first = chosen_is_first(0, group)
    first, second = (better, worse) if is_first else (worse, better)
    gold = Provenance(strategy="gold")
    return Preference(
        prompt, first, second, group, p_first=float(is_first), source="synthetic", provenance=gold
    )
