"""Refusals of arguments that ops cannot take; no message is made before something is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlaif_pl.ops._library import has_values

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check(
    op: str,
    name: str,
    tensor: Tensor,
    shape: Sequence[int | str],
    dtypes: Sequence[torch.dtype],
    like: Tensor | None = None,
) -> None:
    """Refuse (ValueError) a tensor of another shape or type, or on another device than ``like``.

    A letter in ``shape`` stands for any number.
    """
    fits = tensor.shape == shape or _fits(tensor.shape, shape)
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


def _fits(found: Sequence[int], wanted: Sequence[int | str]) -> bool:
    return len(found) == len(wanted) and all(
        isinstance(size, str) or size == own for own, size in zip(found, wanted, strict=True)
    )


def check_values(
    op: str, name: str, tensor: Tensor, least: float, most: float, meaning: str
) -> None:
    """Refuse (ValueError) a value outside ``[least, most]``, NaN too, and say what it must do.

    Only a CPU is looked at: a GPU would have to be waited for.
    """
    if not has_values(tensor) or tensor.device.type != "cpu" or tensor.numel() == 0:
        return
    lowest, highest = (bound.item() for bound in tensor.aminmax())
    if not least <= lowest <= highest <= most:
        row = int((~((tensor >= least) & (tensor <= most))).int().argmax())
        raise ValueError(
            f"{op}: {name} must {meaning}, got {tensor[row].item()} at index {row}; mend or drop it"
        )


def rows_or_whole(
    op: str, first: Tensor, lengths: Tensor | None, bootstrap: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Check lengths and bootstrap of the rows of ``first``; None stands for whole rows and for 0."""
    count, width = first.shape
    if lengths is None:
        lengths = first.new_full((count,), width, dtype=torch.int64)
    else:
        check(op, "lengths", lengths, (count,), (torch.int64,), first)
        check_values(op, "lengths", lengths, 0, width, f"lie in [0, {width}]")
    if bootstrap is None:
        return lengths, first.new_zeros(count)
    check(op, "bootstrap", bootstrap, (count,), (first.dtype,), first)
    return lengths, bootstrap
