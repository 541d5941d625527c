"""Lightning callbacks and loggers that keep a run's records."""

from rlaif_pl.training.callbacks.alarm_rules import AlarmLimits
from rlaif_pl.training.callbacks.compact_memory import CompactMemory
from rlaif_pl.training.callbacks.default import DefaultCallbacks, default_callbacks
from rlaif_pl.training.callbacks.export_model import ExportModel
from rlaif_pl.training.callbacks.hacking_alarm import HackingAlarm
from rlaif_pl.training.callbacks.history import HistoryFile
from rlaif_pl.training.callbacks.metrics_file import MetricsFile
from rlaif_pl.training.callbacks.run_metadata import RunMetadata
from rlaif_pl.training.callbacks.sample_table import SampleTable
from rlaif_pl.training.callbacks.terminate_on_nan import NonFiniteError, TerminateOnNaN
from rlaif_pl.training.callbacks.wandb_logger import RunLoggers, default_loggers

__all__ = [
    "AlarmLimits",
    "CompactMemory",
    "DefaultCallbacks",
    "ExportModel",
    "HackingAlarm",
    "HistoryFile",
    "MetricsFile",
    "NonFiniteError",
    "TerminateOnNaN",
    "RunMetadata",
    "RunLoggers",
    "SampleTable",
    "default_callbacks",
    "default_loggers",
]
