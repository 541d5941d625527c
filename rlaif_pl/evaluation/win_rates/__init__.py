"""Several policies on the same prompts, each against each, by several judges.

::

    measure     win rates with intervals, adjusted for their number; rewards as judges
    report      the matrix for the terminal, as Markdown, CSV, flat numbers and a heat map
"""

from rlaif_pl.evaluation.win_rates.measure import (
    PolicyColumns,
    RewardJudge,
    WinMatrix,
    measure_matrix,
)

__all__ = ["PolicyColumns", "RewardJudge", "WinMatrix", "measure_matrix"]
