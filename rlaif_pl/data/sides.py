"""Which side a response stands on, where a data set has an order of its own."""

from __future__ import annotations

import hashlib


def chosen_is_first(seed: int, *texts: str) -> bool:
    """Toss a coin that depends on seed and texts only, so that the side tells nothing."""
    key = "\x00".join((str(seed), *texts)).encode()
    return hashlib.blake2b(key, digest_size=1).digest()[0] % 2 == 0
