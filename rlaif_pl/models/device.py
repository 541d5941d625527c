"""Where models compute: which device a name means on this machine, and which type suits it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from rlaif_pl.device_names import KINDS, parse_device
from rlaif_pl.engine.allocator import keep_freed_memory

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
HALVES = (torch.bfloat16, torch.float16)
_current: ContextVar[torch.device | None] = ContextVar("device", default=None)


def devices_here() -> list[str]:
    """Return the devices of this machine that torch can use: cpu, then cuda:0, cuda:1, ... or mps."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *(f"cuda:{number}" for number in range(count)), *mps]


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device that a name means here; ``ValueError`` where there is none.

    ``cuda`` is the process's own GPU; ``auto`` the device of the enclosing ``computing_on``, else a GPU
    (cuda before mps) where there is one.
    """
    parse_device(name)
    here = devices_here()
    if name == "auto":
        best = "cuda" if "cuda:0" in here else here[-1]  # mps, or cpu alone
        return _current.get() or torch.device(best)
    if name in here or (name == "cuda" and "cuda:0" in here):
        return torch.device(name)
    without = " (this torch is built without CUDA)" if torch.version.cuda is None else ""
    raise ValueError(
        f"expected device to be {KINDS}; this machine has {', '.join(here)}, got {name!r}"
        f"{without if name.startswith('cuda') else ''}; take one of those, or auto"
    )


@contextmanager
def computing_on(name: str) -> Iterator[torch.device]:
    """Let ``auto`` mean a device for a while: of models that are built, and of their type."""
    device = resolve_device(str(name))  # in Python a torch.device, too
    token = _current.set(device)
    try:
        yield device
    finally:
        _current.reset(token)


def on_device(function: Callable[P, R]) -> Callable[P, R]:
    """Check a command's argument ``device`` first and run the command with it as ``auto``."""
    signature = inspect.signature(function)
    default = signature.parameters["device"].default

    @functools.wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> R:
        given = signature.bind_partial(*args, **options).arguments
        with computing_on(str(given.get("device", default))) as device:
            if device.type == "cpu":
                keep_freed_memory()
            return function(*args, **options)

    return run


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where a device computes it fast, else float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:  # mps: bfloat16 needs macOS 14 and has not been measured
        fast = False
    return torch.bfloat16 if fast else torch.float32


def widened(states: Tensor) -> Tensor:
    """Return states in float32 where they have 16 bits, else as they are."""
    return states.float() if states.dtype in HALVES else states


@contextmanager
def own_precision(device_type: str) -> Iterator[None]:
    """Compute in the types that models and data have, whatever precision a trainer has set.

    A labeler's labels belong to the precision that its fingerprint names, which autocast
    (``bf16-mixed``) and a default type of 16 bits (``bf16-true``) would change.
    """
    default = torch.get_default_dtype()
    if default in HALVES:
        torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(default)


def put(thing: T, device: torch.device) -> T:
    """Move a reward or labeler that is a network; others hold models that were placed when built."""
    return thing.to(device) if isinstance(thing, nn.Module) else thing
