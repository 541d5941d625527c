"""Divide a model among processes by FSDP2, and put it together again for an export.

Each decoder layer is a unit whose weights are gathered while it runs; embeddings, last norm and heads
are gathered for a whole pass. FSDP2 gathers in front of ``forward``, so the methods that compute from
tokens to what a loss reads (``Division.forwards``) are made forwards of the model that holds all units.
Roles that share frozen weights get a part of their own each: a weight belongs to one unit.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import fsdp
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils._pytree import tree_map, tree_map_only

from rlaif_pl.engine.decoder_layers import layers_of, text_part
from rlaif_pl.engine.runner import DecoderRunner
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.scalar_head import ScalarHead
from rlaif_pl.training.trainer_check import INSTEAD

LOCAL, SHAPE = "rlaif_pl_local", "rlaif_pl_shape"  # keys of what stands for a divided tensor
DIVIDED = ("state_dict", "optimizer_states")  # entries of a checkpoint that hold such tensors


class Division(NamedTuple):
    """What FSDP2 divides of a module, by the names of its attributes."""

    root: str  # holds all of it
    forwards: tuple[str, ...]  # methods that run layers, on each process as often as on the others
    exported: str  # is put together again, the root or a part of it
    unread: tuple[str, ...] = ()  # weights of the root that nobody reads


class Sharded:
    """A module's weights, divided among a mesh's processes; of one that runs unlike texts at once."""

    def __init__(
        self,
        module: nn.Module,
        division: Division,
        mesh: DeviceMesh,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        self.root = root = module.get_submodule(division.root)
        self.exported = module.get_submodule(division.exported)
        self.plain = _without_weights(self.exported)
        self._is_filled = False
        unread = [root.get_submodule(name) for name in division.unread]
        # Ways of running a decoder are tried on whole weights, in the type that layers will compute in.
        for runner in _runners(root.to(device)):
            runner.computes_in = dtype or next(runner.parameters()).dtype
            found = runner.capabilities
            if not (found.packs or found.pads):
                raise ValueError(
                    f"expected a decoder that runs texts of unlike lengths at once to divide its "
                    f"weights, got {type(runner.decoder).__name__} ({found.reason}); {INSTEAD}"
                )
        self._divide(mesh, dtype, unread)
        for method in division.forwards:
            fsdp.register_fsdp_forward_method(root, method)
        # What a method returns may be a view; nothing here changes it in place.
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")

    def _divide(self, mesh: DeviceMesh, dtype: torch.dtype | None, unread: list[nn.Module]) -> None:
        root = self.root
        policy = fsdp.MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
        exact = fsdp.MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        # Decoder layers, those of a trunk first.
        owned: set[int] = set()
        for layer in (one for each in _runners(root) for one in layers_of(text_part(each.decoder))):
            _own_weights(layer, owned)
            if dtype is not None:
                layer.register_forward_pre_hook(_cast_to(dtype), with_kwargs=True)
            fsdp.fully_shard(layer, mesh=mesh, mp_policy=policy)
        for unit in _others(root, unread):
            fsdp.fully_shard(unit, mesh=mesh, mp_policy=exact)
        # Divided again after each pass, so that whoever lists parameters finds what is trained.
        fsdp.fully_shard(root, mesh=mesh, mp_policy=exact, reshard_after_forward=True)
        # FSDP2 would gather what ran before, which may have no backward pass.
        for runner in _runners(root):
            first = cast(fsdp.FSDPModule, layers_of(text_part(runner.decoder))[0])
            first.set_modules_to_backward_prefetch([first])
        if dist.get_backend() == "gloo":  # which adds up, and takes no means
            for unit in root.modules():
                if isinstance(unit, fsdp.FSDPModule):
                    unit.set_force_sum_reduction_for_comms(True)

    def gather(self, is_wanted: bool) -> None:
        """Fill the undivided copy, on the CPU, frozen weights once; to be called on every process."""
        # one at a time: of all weights only the largest is whole on a device
        found = {
            name: gathered(p, is_wanted)
            for name, p in self.exported.named_parameters()
            if p.requires_grad or not self._is_filled
        }
        self._is_filled = True
        if is_wanted:
            _fill(self.plain, found)

    def whole(self) -> nn.Module:
        """Return the undivided copy, once it was gathered."""
        if any(p.is_meta for p in self.plain.parameters()):
            raise RuntimeError(
                "expected weights that were gathered, got divided ones; call gather_weights() on every "
                "process first"
            )
        return self.plain


def _without_weights(module: nn.Module) -> nn.Module:
    """Return a copy of a module with parameters that hold nothing, shared where they were shared."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
        for p in module.parameters()
    }
    for each in module.modules():
        if isinstance(each, CausalModel):
            memo[id(each.tokenizer)] = each.tokenizer
    return copy.deepcopy(module, memo)


def _own_weights(unit: nn.Module, owned: set[int]) -> None:
    """Give a unit parameters of its own for those in ``owned``, by identity; values stay shared."""
    # An identity may be that of a parameter that is gone: then a copy is made that nobody needs.
    made: dict[int, nn.Parameter] = {}
    for name, old in list(unit.named_parameters(remove_duplicate=False)):
        if id(old) in owned:
            _put(unit, name, made.setdefault(id(old), nn.Parameter(old.data, old.requires_grad)))
    owned |= {id(p) for p in unit.parameters()}


@torch.no_grad()
def _fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a module by name; one name of those that share a weight is enough."""
    made = {
        id(old): nn.Parameter(weights[name], old.requires_grad) if name in weights else old
        for name, old in module.named_parameters()
    }
    for name, old in list(module.named_parameters(remove_duplicate=False)):
        _put(module, name, made[id(old)])


def _put(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, parameter)


def _runners(root: nn.Module) -> Iterator[DecoderRunner]:
    return (each for each in root.modules() if isinstance(each, DecoderRunner))


def _others(root: nn.Module, unread: list[nn.Module]) -> Iterator[nn.Module]:
    """Scalar heads, and what nobody reads unless an input embedding is tied to it."""
    yield from (each for each in root.modules() if isinstance(each, ScalarHead))
    inside = {id(p) for runner in _runners(root) for p in runner.parameters()}
    yield from (m for m in unread if not any(id(p) in inside for p in m.parameters()))


def _cast_to(dtype: torch.dtype) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Return a hook that brings what enters a layer to a type; FSDP2's own copies packed layouts."""

    def cast(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(dtype)
        return tuple(map(cast, value)) if type(value) is tuple else value

    def hook(_: nn.Module, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return cast(args), {key: cast(value) for key, value in options.items()}

    return hook


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
