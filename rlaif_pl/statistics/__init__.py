"""Intervals, tests, calibration and length control; pure functions over arrays."""

from rlaif_pl.statistics.agreement import (
    binomial_test,
    cohen_kappa,
    fleiss_kappa,
    kendall_w,
    rank_correlation,
)
from rlaif_pl.statistics.calibration import (
    ReliabilityBin,
    brier,
    expected_calibration_error,
    fit_temperature,
    fold,
    reliability_table,
)
from rlaif_pl.statistics.intervals import (
    Estimator,
    Interval,
    empty_interval,
    flat_metrics,
    ratio_of_means,
    standard_error_by_group,
    wilson,
)
from rlaif_pl.statistics.length_control import length_controlled_win_rate
from rlaif_pl.statistics.power import (
    holm,
    minimum_detectable_effect,
    standard_error_of,
    two_sided_p_value,
)

__all__ = [
    "Estimator",
    "Interval",
    "ReliabilityBin",
    "binomial_test",
    "brier",
    "cohen_kappa",
    "empty_interval",
    "expected_calibration_error",
    "fit_temperature",
    "flat_metrics",
    "fleiss_kappa",
    "fold",
    "holm",
    "kendall_w",
    "length_controlled_win_rate",
    "minimum_detectable_effect",
    "rank_correlation",
    "ratio_of_means",
    "reliability_table",
    "standard_error_by_group",
    "standard_error_of",
    "two_sided_p_value",
    "wilson",
]
