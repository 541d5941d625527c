"""Intervals, tests, calibration and length control; pure functions over arrays."""

from rlaif_pl.statistics.agreement import binomial_test, cohen_kappa, mcnemar
from rlaif_pl.statistics.calibration import (
    Binning,
    ReliabilityBin,
    brier,
    expected_calibration_error,
    fit_temperature,
    fold,
    reliability_table,
)
from rlaif_pl.statistics.intervals import (
    Interval,
    bootstrap_by_group,
    empty_interval,
    paired_difference,
    proportion_by_group,
    ratio_of_means,
    weighted_mean,
    wilson,
)
from rlaif_pl.statistics.length_control import length_controlled_win_rate

__all__ = [
    "Binning",
    "Interval",
    "ReliabilityBin",
    "binomial_test",
    "bootstrap_by_group",
    "brier",
    "cohen_kappa",
    "empty_interval",
    "expected_calibration_error",
    "fit_temperature",
    "fold",
    "length_controlled_win_rate",
    "mcnemar",
    "paired_difference",
    "proportion_by_group",
    "ratio_of_means",
    "reliability_table",
    "weighted_mean",
    "wilson",
]
