"""Divide a model among processes by FSDP2, and put it together again for an export.

Each decoder layer is a unit whose weights are gathered while it runs; embeddings, last norm and heads
are gathered for a whole pass. FSDP2 gathers in front of ``forward``. Losses here read the output
embedding outside of any ``forward``, so the one method that computes from tokens to what a loss reads
(``TrainableModule.sharded``) is made a forward of the model that holds all units.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from rlaif_pl.engine.decoder_layers import layers_of, text_part
from rlaif_pl.engine.generation_state import runners_of
from rlaif_pl.engine.runner import DecoderRunner
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.scalar_head import ScalarHead
from rlaif_pl.training.shards import gathered
from rlaif_pl.training.trainer_check import INSTEAD


class Sharded:
    """A model whose weights are divided among the processes of a mesh.

    Raises:
        ValueError: The architecture can only be run in groups of texts, unlike on each process.
    """

    def __init__(
        self,
        root: nn.Module,
        method: str,
        mesh: DeviceMesh,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        self.root = root
        self.plain = without_weights(root)
        # Ways of running a decoder are tried on whole weights of the type that probes know.
        for runner in _runners(root.to(device)):
            found = runner.capabilities
            if not (found.packs or found.pads):
                raise ValueError(
                    f"expected a decoder that runs texts of unlike lengths at once to divide its "
                    f"weights, got {type(runner.decoder).__name__} ({found.reason}); {INSTEAD}"
                )
        self._divide(mesh, dtype)
        register_fsdp_forward_method(root, method)
        # What the method returns may be a view; nothing here changes it in place.
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")

    def _divide(self, mesh: DeviceMesh, dtype: torch.dtype | None) -> None:
        """Divide layers, heads and what is left, each a unit."""
        root = self.root
        policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
        exact = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        # Decoder layers, those of a trunk first.
        for layer in (one for each in _runners(root) for one in layers_of(text_part(each.decoder))):
            if dtype is not None:
                layer.register_forward_pre_hook(_cast_to(dtype), with_kwargs=True)
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        for unit in _others(root):
            fully_shard(unit, mesh=mesh, mp_policy=exact)
        # Divided again after each pass, so that whoever lists parameters finds what is trained.
        fully_shard(root, mesh=mesh, mp_policy=exact, reshard_after_forward=True)
        for model in _models(
            root
        ):  # FSDP2 would gather what ran before, which has no backward pass
            first = cast(FSDPModule, layers_of(text_part(model.top.decoder))[0])
            first.set_modules_to_backward_prefetch([first])
        if dist.get_backend() == "gloo":  # which adds up, and takes no means
            for unit in root.modules():
                if isinstance(unit, FSDPModule):
                    unit.set_force_sum_reduction_for_comms(True)

    def gather(self, is_wanted: bool) -> None:
        """Fill the undivided copy, on the CPU; to be called on every process."""
        # one at a time: of all weights only the largest is whole on a device
        found = {name: gathered(p, is_wanted) for name, p in self.root.named_parameters()}
        if is_wanted:
            fill(self.plain, found)

    def whole(self) -> nn.Module:
        """Return the undivided copy.

        Raises:
            RuntimeError: ``gather`` was not called for it.
        """
        if any(p.is_meta for p in self.plain.parameters()):
            raise RuntimeError(
                "expected weights that were gathered, got divided ones; call gather_weights() on every "
                "process first"
            )
        return self.plain


def without_weights(module: nn.Module) -> nn.Module:
    """Return a copy of a module with parameters that hold nothing, shared where they were shared."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
        for p in module.parameters()
    }
    for each in module.modules():
        if isinstance(each, CausalModel):
            memo[id(each.tokenizer)] = each.tokenizer
    return copy.deepcopy(module, memo)


@torch.no_grad()
def fill(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Put weights into a module by name; one name of those that share a weight is enough."""
    made = {
        id(old): nn.Parameter(weights[name], old.requires_grad)
        for name, old in module.named_parameters()
    }
    for name, old in list(module.named_parameters(remove_duplicate=False)):
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, made[id(old)])


def _models(root: nn.Module) -> Iterator[CausalModel]:
    return (each for each in root.modules() if isinstance(each, CausalModel))


def _runners(root: nn.Module) -> Iterator[DecoderRunner]:
    return (runner for model in _models(root) for runner in runners_of(model))


def _others(root: nn.Module) -> Iterator[nn.Module]:
    """Scalar heads, and output embeddings of models that write nothing, which nobody reads."""
    yield from (each for each in root.modules() if isinstance(each, ScalarHead))
    for model in _models(root):
        inside = {id(p) for runner in runners_of(model) for p in runner.parameters()}
        if model is not root and id(model.unembedding.weight) not in inside:
            yield model.unembedding


def _cast_to(dtype: torch.dtype) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Return a hook that brings what enters a layer to a type.

    FSDP2 has one too. It makes new layouts of packed batches for each layer, whose plans are then made
    anew.
    """

    def cast(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value.to(dtype)
        return tuple(map(cast, value)) if type(value) is tuple else value

    def hook(_: nn.Module, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return cast(args), {key: cast(value) for key, value in options.items()}

    return hook
