"""States whose tensors are divided among processes: as they are written, put together, and placed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

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

    return _mapped(state, part)


def gathered(state: Any, keep: bool) -> Any:
    """Return a state with whole tensors on the CPU, None unless ``keep``; called on every process."""

    def whole(value: Tensor) -> Tensor | None:
        full = value.full_tensor() if isinstance(value, DTensor) else value
        return full.detach().cpu() if keep else None

    return _mapped(state, whole)


def joined(states: Sequence[Any]) -> Any:
    """Put the parts of all processes together, in the order of their ranks; see ``own_parts``."""
    first = states[0]
    if isinstance(first, dict):
        if LOCAL in first:
            rows = [state[LOCAL] for state in states if state[LOCAL].numel()]
            return torch.cat(rows).view(first[SHAPE])
        return {key: joined([state[key] for state in states]) for key in first}
    if isinstance(first, list | tuple):
        return type(first)(joined(each) for each in zip(*states, strict=True))
    return first


def placed(state: Any, mesh: DeviceMesh) -> Any:
    """Return a state with divided tensors in place of this process's rows."""
    if isinstance(state, dict):
        if LOCAL not in state:
            return {key: placed(value, mesh) for key, value in state.items()}
        shape = torch.Size(state[SHAPE])
        return DTensor.from_local(
            state[LOCAL].to(mesh.device_type),
            mesh,
            (Shard(0),),
            run_check=False,
            shape=shape,
            stride=torch.empty(shape, device="meta").stride(),
        )
    if isinstance(state, list | tuple):
        return type(state)(placed(value, mesh) for value in state)
    return state


def divided_like(value: Any, other: Tensor) -> Any:
    """Return a whole tensor divided as another of its shape is; anything else as it is."""
    if (
        not isinstance(value, Tensor)
        or isinstance(value, DTensor)
        or not isinstance(other, DTensor)
    ):
        return value
    if value.shape != other.shape:
        return value
    # every process has read all of it: none has to send
    return distribute_tensor(value, other.device_mesh, other.placements, src_data_rank=None)


def _mapped(state: Any, change: Callable[[Tensor], Any]) -> Any:
    """Change the tensors of a state, in the same order on every process."""
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, dict):
        return {key: _mapped(value, change) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_mapped(value, change) for value in state)
    return state
