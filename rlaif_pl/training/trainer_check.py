"""What modules ask of their trainer: batches of their kind, and a strategy tested with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

if TYPE_CHECKING:
    from rlaif_pl.training.base import TrainableModule

FLOAT32: tuple[object, ...] = (None, 32, "32", "32-true")
PRECISIONS: dict[object, torch.dtype | None] = {
    **dict.fromkeys(FLOAT32, None),
    "bf16": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
}  # of a trainer, and what layers compute in; None: in the type of their weights
INSTEAD = (
    "take the strategy ddp; for less memory a GPU, train adapters (lora) on a bfloat16 backbone with "
    "gradient_checkpointing and micro_batch_tokens: see docs/scaling.md"
)


def check_sharding(
    module: type,
    data_parallel: object,
    tensor_parallel: object,
    ranks: int | None,
    precision: object,
    micro_batch_tokens: object,
    *,
    draws_here: bool = False,
) -> None:
    """Refuse what cannot be trained with divided weights."""
    name = ModelParallelStrategy.__name__
    if getattr(module, "divided", None) is None:
        raise ValueError(
            f"expected SFTModule, RewardModule or A2CModule with {name}, got {module.__name__}, which "
            "runs its model another number of times on each process: with divided weights one would "
            f"wait for the others for ever; {INSTEAD}"
        )
    if draws_here:
        raise ValueError(
            f"expected servers that draw responses with {name}, got {module.__name__} without, where "
            "each token would gather all weights; set model.init_args.rollout to "
            f"rlaif_pl.rl.VLLMGenerator, or {INSTEAD}"
        )
    is_sized = isinstance(data_parallel, int) and tensor_parallel == 1
    if not is_sized or (ranks is not None and data_parallel != ranks):
        raise ValueError(
            f"expected data_parallel_size: {ranks or 'the number of processes'} and "
            f"tensor_parallel_size: 1 in trainer.strategy.init_args of {name}, got {data_parallel!r} "
            f"and {tensor_parallel!r}; weights are divided among all processes, no layer is cut"
        )
    if precision not in PRECISIONS:
        raise ValueError(
            f"expected trainer.precision of 32-true or bf16-mixed with {name}, got {precision!r}; "
            "weights that are trained stay float32"
        )
    if micro_batch_tokens is not None:
        raise ValueError(
            f"expected no micro_batch_tokens with {name}, got {micro_batch_tokens}: processes would "
            "cut their batches into unlike numbers of parts and wait for each other's weights; lower "
            "data.batch_size and raise trainer.accumulate_grad_batches"
        )


def check_strategy(trainer: Trainer, module: TrainableModule) -> None:
    """Refuse FSDP1, DeepSpeed, weights in float16, and what ``check_sharding`` does."""
    if trainer.precision == "16-true":
        raise ValueError(
            "expected trainer.precision of 32-true, bf16-mixed, bf16-true or 16-mixed, got 16-true: "
            "squares of small gradients, and AdamW's eps, are 0 in float16, so that weights are no "
            "numbers after a step; take bf16-mixed, or 16-mixed where the GPU has no bfloat16"
        )
    strategy = trainer.strategy
    name = type(strategy).__name__
    if isinstance(strategy, FSDPStrategy | DeepSpeedStrategy):
        raise ValueError(
            f"expected DDPStrategy or ModelParallelStrategy (FSDP2), got {name}; {INSTEAD}"
        )
    if not isinstance(strategy, ModelParallelStrategy):
        return
    data, tensor = strategy._data_parallel_size, strategy._tensor_parallel_size
    data = strategy.num_nodes if data == "auto" else data
    tensor = strategy.num_processes if tensor == "auto" else tensor
    given = trainer.world_size, trainer.precision, module.micro_batch_tokens
    check_sharding(type(module), data, tensor, *given, draws_here=module.draws_here)
    if module.is_given:
        raise ValueError(
            f"expected models by name with {name}, got some in memory, which would be left without "
            "their weights; name the folder that Policy.save_pretrained(folder) writes"
        )


def most_parts(trainer: Trainer) -> int:
    """Return the most micro-batches that an optimizer step of a run accumulates."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    plans = [c.scheduling for c in callbacks if isinstance(c, GradientAccumulationScheduler)]
    return max([trainer.accumulate_grad_batches, *(n for plan in plans for n in plan.values())])


def check_served(module: LightningModule, wanted: str) -> None:
    """Refuse a data module that serves another kind of batch than the module reads."""
    served = getattr(getattr(module.trainer, "datamodule", None), "task", wanted)
    if wanted and served != wanted:
        raise ValueError(
            f"expected data.task to be {wanted!r} for {type(module).__name__}, got {served!r}; "
            f"set data.task and name its data"
        )
