"""``fit``, ``validate`` and ``predict``: LightningCLI over the modules of this package."""

from __future__ import annotations

import errno
import logging
import os
import signal
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout
from jsonargparse import Namespace, _typehints
from jsonargparse._util import import_object
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from typing_extensions import override

from rlaif_pl.cli.commands.help_text import add_group_helps
from rlaif_pl.cli.commands.parsers import GIVEN, InPlainWords, expand_home
from rlaif_pl.models.device import computing_on
from rlaif_pl.slurm import is_requeued
from rlaif_pl.training import PreferenceDataModule, peers
from rlaif_pl.training.callbacks.default import DefaultCallbacks, callback_specs
from rlaif_pl.training.callbacks.preflight import preflight
from rlaif_pl.training.callbacks.slurm_requeue import add_requeue
from rlaif_pl.training.trainer_check import INSTEAD, check_sharding

DEFAULT_ROOT = "runs/fit"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems of some clusters
PATIENCE = 5.0  # seconds for another fit to leave the folder: one that was killed needs a moment
RESOLVED = "resolved_config.yaml"  # with every default, and the callbacks that were really used
# Warnings that say nothing to the user of a command, each with the reason it is left out.
UNHELPFUL = (
    r"LightningCLI's args parameter is intended",  # the words are ours, not those of a script
    r".*does not have many workers",  # batches are text: a worker would cost more than it saves
    r".*is smaller than the logging interval",  # stages are short; every step is logged anyway
    r"The `srun` command is available on your system but is not used",  # `run` starts the ranks
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # between Lightning and torch
)

TEXTS = {
    "fit": "Train a module: --model takes SFTModule, RewardModule, DPOModule or A2CModule "
    "(rlaif_pl.training), --config a file with everything. Without either, a reward model on AI "
    "labels.",
    "validate": "Measure a module on held-out data, as in its training.",
    "predict": "Label pairs with a LabelingModule, by as many processes as trainer.devices.",
}
OWN_RATES = "rlaif_pl.training.FineTuningAdamW"  # the modules' default optimizer
BY_CLASS = ("strategy", "accelerator", "profiler")  # of the trainer: a short name or a class
FSDP2 = "lightning.pytorch.strategies.ModelParallelStrategy"


keep_shared_settings = _typehints.discard_init_args_on_class_path_change


def forget_own_rates(parser: Any, before: Any, value: Any) -> None:
    """Let an optimizer that is named in place of the default one have its own class's defaults.

    jsonargparse hands on every setting that both classes have: ``eps`` of one kind to an optimizer
    that means another, and no weight decay to an AdamW. What was given on the command line stays.
    """
    if before and before.get("class_path") == OWN_RATES != value["class_path"]:
        options = (word.partition("=")[0].split(".") for word in GIVEN.get())
        given = {names[-1] for names in options if "optimizer" in names[:-1]}
        kept = vars(before.pop("init_args", None) or Namespace()).items()
        before["init_args"] = Namespace({name: each for name, each in kept if name in given})
    keep_shared_settings(parser, before, value)


_typehints.discard_init_args_on_class_path_change = forget_own_rates


class Parser(InPlainWords, LightningArgumentParser):
    """LightningCLI's parser, without configs inside of configs.

    The original reads any string that names a file as a config first: a data file from end to end, and
    an empty one means null.
    """

    @override
    def add_class_arguments(self, *args: Any, **options: Any) -> list[str]:
        return super().add_class_arguments(*args, **{**options, "sub_configs": False})

    @override
    def instantiate_classes(self, cfg: Any, **options: Any) -> Any:
        return self.instantiate(cfg, **options)  # Lightning calls it by its deprecated name


class CommandLine(LightningCLI):
    """LightningCLI that looks for what the last step needs before it prepares the first.

    Its models know while they are built whether they are for the CPU or a GPU. A strategy and the like
    may also be the path of a class: the trainer's types allow any text there, which Lightning would
    then look up among its short names.
    """

    peers: peers.Peers | None = None
    fitting: Trainer | None = None
    lock: BaseFileLock | None = None  # of the folder that a fit works in
    restarted_by = ""  # torchrun or SLURM, which give the same words again
    command = "fit"

    @classmethod
    @override
    def subcommands(cls) -> dict[str, set[str]]:
        """Only the command that is given: to make a parser of each of the four takes seconds."""
        return {cls.command: LightningCLI.subcommands()[cls.command]}

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_default_callbacks(parser)
        add_group_helps(parser)
        told = "seconds without a sign of life after which another process is given up; 0: never"
        parser.add_argument("--peer_timeout", type=float, default=60.0, help=told)

    @override
    def before_instantiate_classes(self) -> None:
        """Complete the callbacks, and say where a fit works and logs; see ``default_callbacks``."""
        if self.subcommand is not None:
            expand_home(self.config[self.subcommand])
        if self.subcommand not in ("fit", "validate"):
            return
        config = self.config[self.subcommand]
        trainer, options = config.trainer, config.default_callbacks
        listed = trainer.callbacks or []
        listed = list(listed) if isinstance(listed, list | tuple) else [listed]
        given = [each for each in listed if "class_path" in each]
        saves = trainer.enable_checkpointing is not False
        module = import_object(config.model.class_path)
        specs = callback_specs(module, given, DefaultCallbacks(**vars(options)), saves)
        arguments = [spec.get("init_args") or {} for spec in specs]
        made = [each if isinstance(each, Namespace) else Namespace(**each) for each in arguments]
        specs = [{**spec, "init_args": each} for spec, each in zip(specs, made, strict=True)]
        trainer.callbacks = [Namespace(**spec) for spec in specs]
        if any(spec["class_path"].endswith(".RunLoggers") for spec in specs):
            trainer.logger = trainer.logger or False  # RunLoggers adds them
            trainer.default_root_dir = trainer.default_root_dir or DEFAULT_ROOT

    def before_fit(self) -> None:
        """Keep what is really used, and see ``preflight``; before data are labeled."""
        preflight(self.trainer, self.model)
        type(self).fitting = self.trainer
        if self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            type(self).lock = held_alone(folder)
            text = self._parser("fit").dump(self.config["fit"], skip_validation=True)
            (folder / RESOLVED).write_text(text, encoding="utf-8")
        add_requeue(self.trainer)
        starter = type(self).restarted_by
        last = newest_checkpoint(self.trainer) if starter else None
        if last is not None:
            self.config_init[str(self.subcommand)]["ckpt_path"] = last
            rank_zero_info(f"restarted by {starter}: going on from {last}")

    @override
    def instantiate_classes(self) -> None:
        """Build, and watch the other processes from the moment that they know each other.

        Lightning has no hook there: what follows, labeling on one rank, may already wait for ever.
        """
        config = self.config.get(str(self.subcommand), self.config)
        for key in BY_CLASS:
            value = config.get(f"trainer.{key}")
            if isinstance(value, str) and "." in value:
                config[f"trainer.{key}"] = Namespace(class_path=value, init_args=Namespace())
        refuse_sharding(config)
        with computing_on("cpu" if config.get("trainer.accelerator") == "cpu" else "auto"):
            super().instantiate_classes()
        strategy, patience = self.trainer.strategy, self.config_init.get(str(self.subcommand))
        set_up = strategy.setup_environment

        def set_up_and_watch() -> None:
            set_up()
            type(self).peers = peers.join(patience["peer_timeout"])

        strategy.setup_environment = set_up_and_watch  # type: ignore[method-assign]


def refuse_sharding(config: Mapping[str, Any]) -> None:
    """Refuse (ValueError) strategies that divide weights among ranks, except FSDP2 where supported."""
    trainer, model = config.get("trainer") or {}, config.get("model") or {}
    strategy: Any = trainer.get("strategy")
    options: Any = {}
    if isinstance(strategy, dict | Namespace):
        strategy, options = strategy.get("class_path"), strategy.get("init_args") or {}
    name = str(strategy)
    if any(word in name.lower() for word in ("fsdp", "deepspeed")):
        raise ValueError(
            f"expected a trainer.strategy of auto, ddp or {FSDP2}, got {name}; {INSTEAD}"
        )
    if name.rpartition(".")[2] != FSDP2.rpartition(".")[2]:
        return
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes") or 1
    kind, arguments = import_object(model["class_path"]), model.get("init_args") or {}
    check_sharding(
        kind,
        options.get("data_parallel_size", "auto"),
        options.get("tensor_parallel_size", "auto"),
        devices * nodes if isinstance(devices, int) and devices > 0 else None,
        trainer.get("precision"),
        arguments.get("micro_batch_tokens"),
        draws_here=getattr(kind, "samples_while_training", False) and not arguments.get("rollout"),
    )


def newest_checkpoint(trainer: Trainer) -> str | None:
    """Return the newest ``last*.ckpt`` of a trainer's callbacks; None where there is none."""
    found: set[str] = set()
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            found |= callback._find_last_checkpoints(trainer)
    return max(found, key=os.path.getmtime, default=None)


def add_default_callbacks(parser: LightningArgumentParser) -> None:
    """Let a parser take the options of the default callbacks."""
    parser.add_argument("--default_callbacks", type=DefaultCallbacks, default=DefaultCallbacks())


def train(words: list[str]) -> int:
    """Run a LightningCLI command."""
    for message in UNHELPFUL:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_no_advertisement)
    by_torchrun = peers.meet()
    CommandLine.restarted_by = "torchrun" if by_torchrun else "SLURM" if is_requeued() else ""
    CommandLine.peers, CommandLine.fitting, CommandLine.command = None, None, words[0]
    CommandLine.lock = None
    try:
        CommandLine(
            LightningModule,
            PreferenceDataModule,
            subclass_mode_model=True,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={
                "prog": "python -m rlaif_pl",
                words[0]: {"description": TEXTS[words[0]]},
            },
            auto_configure_optimizers=False,  # modules take optimizer and scheduler themselves
            save_config_callback=None,  # `run` keeps the resolved config; a lone fit has its file
            args=words,
        )
    except BaseException as error:
        stopped = stopped_by(error)
        if stopped is not None and isinstance(error, SystemExit):
            error.code = 128 + stopped  # Lightning's 1 or 0 would let what waits for the fit go on
            if CommandLine.fitting is not None:
                rank_zero_info(how_to_go_on(newest_checkpoint(CommandLine.fitting)))
        others = CommandLine.peers
        if others is None:
            raise
        if peers.is_of_collectives(error):
            message = peers.explained(error, others)
            others.stop("lost another process")
            raise RuntimeError(message) from error
        others.stop(str(error) or type(error).__name__)
        raise
    finally:
        if CommandLine.lock is not None:
            CommandLine.lock.release()
    if CommandLine.peers is not None:
        CommandLine.peers.stop()
    return 0


def held_alone(folder: Path) -> BaseFileLock:
    """Keep other fits, which would mix checkpoints, out of a folder; ValueError: one is in it."""
    lock = FileLock(folder / ".fit.lock", timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"expected a folder that no other fit works in, got {folder}; wait for that to end, or "
            "name another with --trainer.default_root_dir"
        ) from error
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        warnings.warn(
            f"the file system of {folder} has no locks: no other fit may work there at the same time",
            stacklevel=2,
        )
    return lock


def stopped_by(error: BaseException) -> int | None:
    """Return the number of the signal with which Lightning ended a fit; None where none did."""
    if isinstance(error, SIGTERMException):
        return signal.SIGTERM
    return signal.SIGINT if isinstance(error.__context__, KeyboardInterrupt) else None


def how_to_go_on(last: str | None) -> str:
    """Say after an interrupt how a fit goes on from its last checkpoint."""
    if last is None:
        return "fit was interrupted before its first checkpoint; the same command begins anew"
    return f"fit was interrupted; it goes on with the same command and --ckpt_path {last}"


def is_no_advertisement(record: logging.LogRecord) -> bool:
    """Keep log lines except Lightning's tip to install a logging service."""
    return "litlogger" not in record.getMessage()
