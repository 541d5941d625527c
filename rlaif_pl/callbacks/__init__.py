"""Lightning callbacks and loggers that keep a run's records."""

from rlaif_pl.callbacks.alarm_rules import AlarmLimits
from rlaif_pl.callbacks.compact_memory import CompactMemory
from rlaif_pl.callbacks.export_model import ExportModel
from rlaif_pl.callbacks.hacking_alarm import HackingAlarm
from rlaif_pl.callbacks.history import HistoryFile
from rlaif_pl.callbacks.metrics_file import MetricsFile
from rlaif_pl.callbacks.non_finite import NonFiniteError, NonFiniteStop
from rlaif_pl.callbacks.reward_cost import RewardCost
from rlaif_pl.callbacks.run_facts import RunFacts
from rlaif_pl.callbacks.sample_table import SampleTable
from rlaif_pl.callbacks.wandb_logger import RunLoggers, default_loggers

__all__ = [
    "AlarmLimits",
    "CompactMemory",
    "ExportModel",
    "HackingAlarm",
    "HistoryFile",
    "MetricsFile",
    "NonFiniteError",
    "NonFiniteStop",
    "RewardCost",
    "RunFacts",
    "RunLoggers",
    "SampleTable",
    "default_loggers",
]
