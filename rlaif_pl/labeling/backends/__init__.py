"""Back ends: what answers the calls of labelers."""

from __future__ import annotations

from rlaif_pl.labeling.calls import Backend


def as_backend(spec: Backend | str) -> Backend:
    """Return a back end as it is."""
    if isinstance(spec, str):
        raise ValueError(f"expected a back end, got the name {spec!r}")
    return spec
