"""``fit``, ``validate`` and ``predict``: LightningCLI over the modules of this package."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from typing_extensions import override

from rlaif_pl.cli.commands.usage import OneSentence
from rlaif_pl.models.device import computing_on
from rlaif_pl.training import PreferenceDataModule
from rlaif_pl.training.callbacks.preflight import preflight

# Warnings that say nothing to the user of a command, each with the reason it is left out.
UNHELPFUL = (
    r"LightningCLI's args parameter is intended",  # the words are ours, not those of a script
    r".*does not have many workers",  # batches are text: a worker would cost more than it saves
    r".*is smaller than the logging interval",  # stages are short; every step is logged anyway
    r"Found \d+ module\(s\) in eval mode",  # on purpose: dropout is off in every stage
    r"You have overridden `transfer_batch_to_device` in",  # on purpose: pairs for a labeler are text
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # between Lightning and torch
)

BY_CLASS = (
    "strategy",
    "accelerator",
    "profiler",
)  # options of the trainer: a short name or a class


class Parser(OneSentence, LightningArgumentParser):
    """LightningCLI's parser, without configs inside of configs.

    The original would read any string that names a file as a config first: a data file is then read
    as YAML from end to end, and an empty one means null.
    """

    @override
    def add_class_arguments(self, *args: Any, **options: Any) -> list[str]:
        return super().add_class_arguments(*args, **{**options, "sub_configs": False})


class CommandLine(LightningCLI):
    """LightningCLI that looks for what the last step needs before it prepares the first.

    Its models know while they are built whether they are for the CPU or a GPU. A strategy and the like
    may also be the path of a class: the trainer's types allow any text there, which Lightning would
    then look up among its short names.
    """

    def before_fit(self) -> None:
        """See ``preflight``; called by LightningCLI, before data are labeled."""
        preflight(self.trainer, self.model)

    @override
    def instantiate_classes(self) -> None:
        config = self.config.get(str(self.subcommand), self.config)
        for key in BY_CLASS:
            value = config.get(f"trainer.{key}")
            if isinstance(value, str) and "." in value:
                config[f"trainer.{key}"] = Namespace(class_path=value, init_args=Namespace())
        on_cpu = config.get("trainer.accelerator") == "cpu"
        with computing_on("cpu" if on_cpu else "auto"):
            super().instantiate_classes()


def train(words: list[str]) -> int:
    """Run a LightningCLI command.

    Args:
        words: ``fit``, ``validate`` or ``predict``, and its options.
    """
    for message in UNHELPFUL:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_no_advertisement)
    CommandLine(
        LightningModule,
        PreferenceDataModule,
        subclass_mode_model=True,
        seed_everything_default=0,
        parser_class=Parser,
        parser_kwargs={"prog": "python -m rlaif_pl"},
        auto_configure_optimizers=False,  # modules take optimizer and scheduler themselves
        save_config_callback=None,  # `run` keeps the resolved config; a lone fit has its file
        args=words,
    )
    return 0


def is_no_advertisement(record: logging.LogRecord) -> bool:
    """Keep log lines except Lightning's tip to install a logging service."""
    return "litlogger" not in record.getMessage()
