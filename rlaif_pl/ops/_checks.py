"""Refusals of arguments that ops cannot take; no message is made before something is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check(
    op: str,
    name: str,
    tensor: Tensor,
    shape: Sequence[int | str],
    dtypes: Sequence[torch.dtype],
    like: Tensor | None = None,
) -> None:
    """Refuse (ValueError) another shape (a letter is any number), dtype, or device than ``like``'s."""
    fits = tensor.shape == shape or (
        tensor.dim() == len(shape)
        and all(
            isinstance(size, str) or size == n for n, size in zip(tensor.shape, shape, strict=True)
        )
    )
    is_here = like is None or tensor.device == like.device
    if fits and is_here and tensor.dtype in dtypes:
        return
    kinds = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    sizes = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    what = "reshape" if not fits else "move" if not is_here else "cast"
    raise ValueError(
        f"{op}: {name} must be ({sizes}) in {kinds} on {(tensor if like is None else like).device}, "
        f"got {tuple(tensor.shape)} in {str(tensor.dtype)[6:]} on {tensor.device}; {what} it"
    )


def has_values(tensor: Tensor) -> bool:
    """Return True if elements can be looked at: no tracing, no fake or meta tensor."""
    if torch.compiler.is_compiling() or tensor.device.type == "meta":
        return False
    return type(tensor) in (Tensor, torch.nn.Parameter)


def check_values(
    op: str, name: str, tensor: Tensor, least: float, most: float, meaning: str
) -> None:
    """Refuse (ValueError) a value outside ``[least, most]``, NaN too; only a CPU is looked at."""
    if not has_values(tensor) or tensor.device.type != "cpu" or tensor.numel() == 0:
        return
    lowest, highest = (bound.item() for bound in tensor.aminmax())
    if not least <= lowest <= highest <= most:
        row = int((~((tensor >= least) & (tensor <= most))).int().argmax())
        raise ValueError(
            f"{op}: {name} must {meaning}, got {tensor[row].item()} at index {row}; mend or drop it"
        )
