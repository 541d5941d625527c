"""Who answers a labeler's calls: a model on this machine, or one behind an endpoint."""

from __future__ import annotations

import os

from torch import nn

from rlaif_pl.labeling.backends.endpoint import EndpointBackend
from rlaif_pl.labeling.backends.local import LocalBackend
from rlaif_pl.labeling.calls import Backend

__all__ = ["EndpointBackend", "LocalBackend", "as_backend"]


def as_backend(spec: Backend | str) -> Backend:
    """Return a back end, or a local one of a model's name.

    ``TypeError``: it is a model. ``ValueError``: the name is an address.
    """
    if not isinstance(spec, str | os.PathLike):
        if isinstance(spec, nn.Module) and not isinstance(spec, Backend):
            raise TypeError(
                f"expected a back end, or the name or folder of a model, got {type(spec).__name__}; "
                "save a model and name its folder"
            )
        return spec
    spec = os.fspath(spec)
    if spec.startswith(("http://", "https://")):
        raise ValueError(
            f"expected the name or folder of a model, got the address {spec!r}; a server also needs "
            "the name of its model: give class_path rlaif_pl.labeling.EndpointBackend and init_args"
        )
    return LocalBackend(spec)
