"""Which type to compute in: what has to stay in float32 under a trainer's 16 bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

HALVES = (torch.bfloat16, torch.float16)


def widened(states: Tensor) -> Tensor:
    """Return states in float32 where they have 16 bits, else as they are."""
    return states.float() if states.dtype in HALVES else states


@contextmanager
def own_precision(device_type: str) -> Iterator[None]:
    """Compute in the types that models and data have, whatever precision a trainer has set.

    A labeler's labels belong to the precision that its fingerprint names. Autocast (``bf16-mixed``)
    and a default type of 16 bits (``bf16-true``) would change them.
    """
    default = torch.get_default_dtype()
    if default in HALVES:
        torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(default)
