"""Intervals, tests, calibration and length control; pure functions over arrays."""

from rlaif_pl.statistics.agreement import binomial_test as binomial_test
from rlaif_pl.statistics.agreement import cohen_kappa as cohen_kappa
from rlaif_pl.statistics.agreement import fleiss_kappa as fleiss_kappa
from rlaif_pl.statistics.agreement import kendall_w as kendall_w
from rlaif_pl.statistics.agreement import rank_correlation as rank_correlation
from rlaif_pl.statistics.calibration import ReliabilityBin as ReliabilityBin
from rlaif_pl.statistics.calibration import brier as brier
from rlaif_pl.statistics.calibration import (
    expected_calibration_error as expected_calibration_error,
)
from rlaif_pl.statistics.calibration import fit_temperature as fit_temperature
from rlaif_pl.statistics.calibration import fold as fold
from rlaif_pl.statistics.calibration import reliability_table as reliability_table
from rlaif_pl.statistics.hypothesis_tests import holm as holm
from rlaif_pl.statistics.hypothesis_tests import (
    minimum_detectable_effect as minimum_detectable_effect,
)
from rlaif_pl.statistics.hypothesis_tests import standard_error_at_half as standard_error_at_half
from rlaif_pl.statistics.hypothesis_tests import standard_error_of as standard_error_of
from rlaif_pl.statistics.hypothesis_tests import two_sided_p_value as two_sided_p_value
from rlaif_pl.statistics.intervals import Estimator as Estimator
from rlaif_pl.statistics.intervals import Interval as Interval
from rlaif_pl.statistics.intervals import empty_interval as empty_interval
from rlaif_pl.statistics.intervals import flat_metrics as flat_metrics
from rlaif_pl.statistics.intervals import ratio_of_means as ratio_of_means
from rlaif_pl.statistics.intervals import standard_error_by_group as standard_error_by_group
from rlaif_pl.statistics.intervals import wilson as wilson
from rlaif_pl.statistics.regression import length_controlled_win_rate as length_controlled_win_rate
