"""Lightning callbacks and loggers that keep a run's records."""

from rlaif_pl.training.callbacks.alarm_rules import AlarmLimits
from rlaif_pl.training.callbacks.compact_memory import CompactMemory
from rlaif_pl.training.callbacks.default import DefaultCallbacks, default_callbacks
from rlaif_pl.training.callbacks.export_model import ExportModel
from rlaif_pl.training.callbacks.hacking_alarm import HackingAlarm
from rlaif_pl.training.callbacks.loggers import HistoryFile, RunLoggers, default_loggers
from rlaif_pl.training.callbacks.run_records import MetricsFile, RunMetadata, SampleTable
from rlaif_pl.training.callbacks.terminate_on_nan import NonFiniteError, TerminateOnNaN

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
