"""States whose tensors are divided among processes: as they are written, put together, and placed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils._pytree import tree_map, tree_map_only

LOCAL, SHAPE = "rlaif_pl_local", "rlaif_pl_shape"  # keys of what stands for a divided tensor
DIVIDED = ("state_dict", "optimizer_states")  # entries of a checkpoint that hold such tensors


def own_parts(state: Any) -> Any:
    """Return a state with this process's rows in place of divided tensors, on the CPU."""

    def part(value: Tensor) -> Any:
        if not isinstance(value, DTensor):
            return value.detach().cpu()
        if value.placements != (Shard(0),):
            return value.full_tensor().detach().cpu()
        return {LOCAL: value.to_local().detach().cpu().clone(), SHAPE: list(value.shape)}

    return tree_map_only(Tensor, part, state)


def gathered(state: Any, keep: bool) -> Any:
    """Return a state with whole tensors on the CPU, None unless ``keep``; called on every process."""

    def whole(value: Tensor) -> Tensor | None:
        full = value.full_tensor() if isinstance(value, DTensor) else value
        return full.detach().cpu() if keep else None

    return tree_map_only(Tensor, whole, state)


def joined(states: Sequence[Any]) -> Any:
    """Put the parts of all processes together, in the order of their ranks; see ``own_parts``."""

    def whole(first: Any, *others: Any) -> Any:
        if not _is_part(first):
            return first
        rows = [part[LOCAL] for part in (first, *others) if part[LOCAL].numel()]
        return torch.cat(rows).view(first[SHAPE])

    return tree_map(whole, *states, is_leaf=_is_part)


def placed(state: Any, mesh: DeviceMesh) -> Any:
    """Return a state with divided tensors in place of this process's rows."""

    def part(value: Any) -> Any:
        if not _is_part(value):
            return value
        shape = torch.Size(value[SHAPE])
        return DTensor.from_local(
            value[LOCAL].to(mesh.device_type),
            mesh,
            (Shard(0),),
            run_check=False,
            shape=shape,
            stride=torch.empty(shape, device="meta").stride(),
        )

    return tree_map(part, state, is_leaf=_is_part)


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and LOCAL in value


def divided_like(value: Any, other: Tensor) -> Any:
    """Return a whole tensor divided as another of its shape is; anything else as it is."""
    is_whole = isinstance(value, Tensor) and not isinstance(value, DTensor)
    if not (is_whole and isinstance(other, DTensor) and value.shape == other.shape):
        return value
    # every process has read all of it: none has to send
    return distribute_tensor(value, other.device_mesh, other.placements, src_data_rank=None)
