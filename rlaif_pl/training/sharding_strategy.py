"""Lightning's FSDP2 strategy with the checkpoints of this package: what is trained, with checksums.

Lightning's own pickle their index, want every weight of the model in the file, and write in place.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch.nn import Parameter
from torch.optim import Optimizer
from typing_extensions import override

from rlaif_pl.data.checksum import part_name
from rlaif_pl.training import checkpoints
from rlaif_pl.training.sharding import DIVIDED, divided_like, gathered, own_parts, placed

if TYPE_CHECKING:
    from rlaif_pl.training.base import TrainableModule


class ShardingStrategy(ModelParallelStrategy):
    """What a ``ModelParallelStrategy`` becomes when it trains a module of this package.

    ``save_distributed_checkpoint`` decides the form: a folder with a file a process, or one file.
    Either is read again by any number of processes, whose weights are divided or not.
    """

    @property
    @override
    def lightning_restore_optimizer(self) -> bool:
        return True

    def _trained(self) -> dict[str, Parameter]:
        return cast("TrainableModule", self.lightning_module).trained()

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        return self._written(self._trained())

    @override
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return self._written(plain.state_dict())

    def _written(self, state: dict[str, Any]) -> dict[str, Any]:
        is_parts = self._save_distributed_checkpoint
        written: Any = own_parts(state) if is_parts else gathered(state, self.is_global_zero)
        return dict(written)

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        place = self.broadcast(filepath)
        if not self._save_distributed_checkpoint:
            super(ParallelStrategy, self).save_checkpoint(checkpoint, place, storage_options)
            return
        checkpoints.refuse_address(place)
        path = Path(place)
        work = path.with_name(f".{path.name}.partial")
        if self.is_global_zero:
            shutil.rmtree(work, ignore_errors=True)  # of an attempt that was killed
        self.barrier()
        failure: OSError | None = None
        try:
            part = part_name(self.global_rank, self.world_size)
            checkpoints.write_checkpoint(checkpoint, work / part)
        except OSError as error:
            failure = error
        if not self.reduce_boolean_decision(failure is None):
            if self.is_global_zero:
                shutil.rmtree(work, ignore_errors=True)
            raise failure or OSError(
                f"expected every process to write its part of {path}, another one could not (its own "
                "message says why); the checkpoint before it is as it was"
            )
        if self.is_global_zero:
            checkpoints.put_in_place(work, path)

    @override
    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        place = self.broadcast(checkpoint_path)
        if checkpoints.is_remote(place):
            return dict(self.checkpoint_io.load_checkpoint(place))
        path = Path(place)
        own = path / part_name(self.global_rank, self.world_size)
        if not own.is_file():  # whole, or of another number of processes
            return checkpoints.read_checkpoint(path, mmap=True)
        mesh = self.device_mesh["data_parallel"]
        content = checkpoints.read_checkpoint(own)
        return content | {key: placed(content[key], mesh) for key in DIVIDED if key in content}

    @override
    @torch.no_grad()
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        state = checkpoint["state_dict"]
        for name, parameter in self._trained().items():
            parameter.copy_(divided_like(state[name], parameter))

    @override
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            state = {
                number: {key: divided_like(value, trained[number]) for key, value in own.items()}
                for number, own in saved["state"].items()
            }
            optimizer.load_state_dict(saved | {"state": state})
