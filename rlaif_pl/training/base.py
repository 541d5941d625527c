"""What the LightningModules share: one optimizer, checks before a fit, checkpoints, an export."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn
from torch.optim import Optimizer
from typing_extensions import override

from rlaif_pl.models.adapter_export import Form, check_export, export_policy
from rlaif_pl.models.causal import CausalModel
from rlaif_pl.models.model_info import weights_digest
from rlaif_pl.training import checkpoints
from rlaif_pl.training.optimizers import LinearDecay, mark_adapters
from rlaif_pl.training.sharding import Division, Sharded
from rlaif_pl.training.sharding_strategy import ShardingStrategy
from rlaif_pl.training.step_mean import StepMeanModule
from rlaif_pl.training.trainer_check import PRECISIONS, check_served, check_strategy, most_parts
from rlaif_pl.types import Batch

Model = TypeVar("Model", bound=nn.Module)
# Warnings of Lightning about what is meant so, wherever a trainer was made.
MEANT = (
    r"Found \d+ module\(s\) in eval mode",  # dropout is off in every stage
    r"You have overridden `(transfer_batch_to_device|on_before_batch_transfer)` in",  # batches are text
    r"Total length of `list` across ranks is zero",  # no row is held out
)
CUTTABLE = (SingleDeviceStrategy, DDPStrategy)  # backward passes before the last stay on the rank


class TrainableModule(StepMeanModule):
    """A LightningModule with one optimizer, which checkpoints and exports only what it trains.

    Args:
        optimizer: Builds the optimizer from parameters.
        scheduler: Builds the learning-rate schedule, stepped every batch.
        micro_batch_tokens: Tokens of a batch that are trained on at a time, forward and backward (see
            ``backward_parts``), prompts once for all their responses, at least 1; None for all.
    """

    task: ClassVar[str] = ""  # kind of batch that the module reads; empty for any
    export_folder: ClassVar[str] = "policy"  # of the default callbacks, below the folder of a fit
    samples_while_training: ClassVar[bool] = False  # whether a step leaves ``latest_samples``
    divided: ClassVar[Division | None] = None  # what FSDP2 may divide; None: weights stay whole

    def __init__(
        self,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable,
        micro_batch_tokens: int | None = None,
    ) -> None:
        super().__init__()
        if micro_batch_tokens is not None and micro_batch_tokens < 1:
            raise ValueError(
                f"expected micro_batch_tokens of at least 1, got {micro_batch_tokens}; leave it out to "
                "train on whole batches"
            )
        self.micro_batch_tokens = micro_batch_tokens
        makers = {"optimizer": optimizer, "scheduler": scheduler}
        if made := [name for name, maker in makers.items() if not callable(maker)]:
            raise TypeError(
                f"expected {made[0]} to be what makes one, such as a class or a function, got "
                f"{type(makers[made[0]]).__name__}; give the class, or "
                "`lambda given: CLASS(given, ...)` with its settings"
            )
        self.optimizer, self.scheduler = optimizer, scheduler
        self.strict_loading = False
        # Models given as objects: no config names those, so that a checkpoint, which holds what is
        # trained, records a hash of the frozen weights beside it.
        self.is_given = False
        self.draws_here = False  # whether training samples responses in this process
        self._frozen: str | None = None
        self._loops: dict[str, Any] | None = None  # of the trainer, as the last batch left them
        self._is_between = True  # whether no batch is being trained on or validated after
        self._shards: list[Sharded] = []  # one where weights are divided; a list is no part of this

    def build_optimizer(self) -> Optimizer:
        """Build the one optimizer; modules with several learning rates give it groups."""
        return self.optimizer(self.trained().values())

    @override
    def setup(self, stage: str) -> None:
        for message in MEANT:
            warnings.filterwarnings("ignore", message=message)
        if stage == "predict":
            raise ValueError(
                f"expected a LabelingModule for predict, got {type(self).__name__}, which predicts "
                "nothing; fit trains it and validate measures it"
            )
        check_served(self, self.task)
        check_strategy(self.trainer, self)
        strategy = self.trainer.strategy
        if type(strategy) is ModelParallelStrategy:
            strategy.__class__ = ShardingStrategy  # which adds methods only
        known = (*CUTTABLE, ShardingStrategy)
        if isinstance(strategy, known) and type(strategy.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = checkpoints.ChecksumCheckpointIO()
        if stage != "fit":
            return
        self._loops = None
        if self.is_given:
            self.frozen_digest()  # now: a trainer in 16 bits casts the weights next
        self.check_inputs(self.trainer)
        for rows in self.data_rows():
            self.check_lengths(rows)
        if most_parts(self.trainer) > 1:
            self.check_accumulation()
        if self.micro_batch_tokens is not None and not isinstance(strategy, CUTTABLE):
            raise ValueError(
                f"expected micro_batch_tokens with one device or the strategy ddp, got "
                f"{type(strategy).__name__}, which moves gradients in every backward pass; leave it out"
            )

    @override
    def configure_model(self) -> None:
        # Lightning calls this without a trainer too, where it loads a checkpoint.
        strategy = None if self._trainer is None else self.trainer.strategy
        if not isinstance(strategy, ModelParallelStrategy) or self._shards or self.divided is None:
            return
        self.before_division()
        mesh = strategy.device_mesh["data_parallel"]
        dtype = PRECISIONS[self.trainer.precision]
        self._shards.append(Sharded(self, self.divided, mesh, strategy.root_device, dtype))

    def before_division(self) -> None:
        """Take out of what is divided what others read."""

    def gather_weights(self) -> None:
        """Put divided weights together for ``export`` on rank 0; to be called on every rank."""
        for shards in self._shards:
            shards.gather(self.trainer.is_global_zero)

    def whole(self, trained: Model) -> Model:
        """Return ``divided.exported``, or the gathered copy of what is divided."""
        return cast(Model, self._shards[0].whole()) if self._shards else trained

    def check_inputs(self, trainer: Trainer) -> None:
        """Refuse what the last step would miss, before the first; maybe not attached to it yet."""

    def check_lengths(self, rows: Sequence[Any]) -> None:
        """Refuse rows that cannot be trained on (a text too long), before work is spent."""

    def data_rows(self) -> list[Sequence[Any]]:
        """Return the rows of a fit, those to train on and those held out; empty without our data."""
        data = getattr(self.trainer, "datamodule", None)
        return [getattr(data, name, ()) for name in ("train_rows", "validation_rows")]

    def warn_of_cut(
        self, model: CausalModel, texts: Iterable[str], most: int | None, kind: str, effect: str
    ) -> None:
        """Warn, before work is spent, of texts of a kind that a limit of tokens cuts."""
        cut = 0 if most is None else model.count_cut(texts, most)
        if cut:
            rank_zero_warn(f"max_response_tokens cuts {cut} {kind} to {most} tokens: {effect}")

    def check_accumulation(self) -> None:
        """Refuse what could not be a mean over the whole batch of a step that is cut into parts."""
        strategy = self.trainer.strategy
        if strategy.handles_gradient_accumulation:
            raise ValueError(
                f"expected trainer.accumulate_grad_batches of 1 with {type(strategy).__name__}, which "
                f"averages parts as if all were alike, got {most_parts(self.trainer)}; raise "
                "data.batch_size instead, or take the strategy ddp"
            )

    @override
    def configure_optimizers(self) -> Any:
        mark_adapters(self.trained())
        optimizer = self.build_optimizer()
        schedule = self.scheduler(optimizer)
        if isinstance(schedule, LinearDecay) and (self._trainer or not schedule.total_steps):
            schedule.end_at(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = self.trained().keys()
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in state if name in kept}
        checkpoint[checkpoints.MODELS] = checkpoints.models_of(self)
        if self._is_between and self._loops is not None:
            # At the end of a fit Lightning counts the epoch as over, though max_steps or an alarm may
            # have ended it before its last batch: whoever goes on would miss the rest.
            checkpoint["loops"]["fit_loop"] = self._loops
        if self.is_given:
            checkpoint[checkpoints.FROZEN] = self.frozen_digest()

    def frozen_digest(self) -> str:
        """Return a hash of the frozen weights as they came."""
        if self._frozen is None:
            frozen = [(n, p) for n, p in self.named_parameters() if not p.requires_grad]
            self._frozen = weights_digest(frozen, {})
        return self._frozen

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoints.FROZEN in checkpoint:
            checkpoints.check_frozen(checkpoint, self.frozen_digest(), type(self).__name__)
        checkpoints.check_fits(self, self.trained(), checkpoint)
        self._loops = checkpoint.get("loops", {}).get("fit_loop")

    @override
    def on_train_start(self) -> None:
        # Dropout stays off in every stage: the log-ratio must be 0 at the first step. Not at the
        # start of an epoch: a fit that resumes within one has no such start.
        self.eval()
        # But trained layers that recompute activations, which transformers does in train mode alone.
        # Frozen ones recompute nothing, and in train mode would keep no cache.
        for module in self.modules():
            recomputes = getattr(module, "gradient_checkpointing", False)
            if recomputes and any(p.requires_grad for p in module.parameters()):
                module.train()
        self._is_between = True
        if self._trainer is None:
            return
        # After a resume from the last batch of an epoch Lightning 2.6 begins the next one uncounted;
        # another such resume counts one twice.
        loop = self.trainer.fit_loop
        for counts in (loop.epoch_progress.total, loop.epoch_progress.current):
            counts = cast(_ProcessedTracker, counts)
            counts.completed = counts.processed
            if loop.restarted_mid_epoch:  # else they are counted when the epoch begins
                counts.ready = counts.started = counts.processed + 1
        checkpoints.note_resumed(self.trainer)

    @override
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not isinstance(batch, Batch):
            raise ValueError(
                f"expected batches of a PreferenceDataModule for {type(self).__name__}, got "
                f"{type(batch).__name__}; give the trainer one (datamodule=) in place of a DataLoader"
            )
        return batch

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._is_between = False

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._loops = self.trainer.fit_loop.state_dict()

    @override
    def on_train_epoch_end(self) -> None:
        self._is_between = True

    @override
    def on_train_end(self) -> None:
        # Lightning does this only where it saved nothing in the whole fit.
        checkpoints.save_last(self.trainer)

    def export(self, folder: Path, form: Form = "whole") -> Path:
        """Write the trained policy as a transformers folder, or its adapters alone as one of PEFT's."""
        return export_policy(folder, self.whole(self._policy), form)

    def check_export(self, form: Form = "whole") -> int:
        """Refuse, before training, what ``export`` could not write; bytes that it will take."""
        return check_export(self._policy, form)

    @property
    def _policy(self) -> CausalModel:
        assert self.divided is not None
        return cast(CausalModel, self.get_submodule(self.divided.exported))
