"""Splits by prompt, and sides of responses, that stay the same whatever else is in the data set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from rlaif_pl.data.disk_rows import Row, select


def split_by_group(
    rows: Sequence[Row], fraction: float, seed: int = 0
) -> tuple[Sequence[Row], Sequence[Row]]:
    """Hold out about a fraction, in [0, 1), of the groups, all rows of a group on one side.

    The side of a group follows from its name and the seed alone (unless a side would stay empty).
    Returns ``(training rows, held-out rows)``, each in the order given.
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"expected a fraction in [0, 1), got {fraction}")
    if fraction == 0.0:
        return rows, []
    place = np.fromiter((group_position(row.group, seed) for row in rows), np.float64, len(rows))
    count = len(np.unique(place))
    if count < 2:
        raise ValueError(
            f"expected at least 2 prompts to hold out a share of {fraction}, got {count}; set "
            "the fraction to 0 or give held-out data of its own"
        )
    bound = min(max(fraction, place.min() + 2.0**-49), place.max())
    is_held_out = place < bound
    return select(rows, np.flatnonzero(~is_held_out)), select(rows, np.flatnonzero(is_held_out))


def group_position(group: str, seed: int) -> float:
    """Return a number in [0, 1) that looks random and depends on group and seed only."""
    digest = hashlib.blake2b(f"{seed}/{group}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "little") / 2.0**48


def chosen_is_first(seed: int, *texts: str) -> bool:
    """Toss a coin that depends on seed and texts only, so that the side tells nothing."""
    key = "\x00".join((str(seed), *texts)).encode()
    return hashlib.blake2b(key, digest_size=1).digest()[0] % 2 == 0
