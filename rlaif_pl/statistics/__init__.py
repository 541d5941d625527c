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
    holm,
    minimum_detectable_effect,
    ratio_of_means,
    standard_error_by_group,
    standard_error_of,
    two_sided_p_value,
    wilson,
)
from rlaif_pl.statistics.regression import length_controlled_win_rate
