"""Experiments: stages with skip and resume. Without torch or lightning, so it starts fast."""

from rlaif_pl.pipeline.experiment import COMMANDS, Experiment, Stage, load_experiment
from rlaif_pl.pipeline.plan import FolderInUseError
from rlaif_pl.pipeline.runner import run

__all__ = ["COMMANDS", "Experiment", "FolderInUseError", "Stage", "load_experiment", "run"]
