"""Intervals by group, never by row, since responses to one prompt are not independent; their tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtrit

Array = NDArray[np.float64]
Statistic = Callable[[Array, Array], Array]
Groups = Sequence[str] | Sequence[int] | NDArray[np.generic]

LEVEL = 0.95  # coverage of every interval
Z = float(ndtri((1 + LEVEL) / 2))  # half width of it in standard errors, 1.96
FEWEST_GROUPS = 6  # below, no limit taken from resamples could have the coverage
FEW_GROUPS = 30  # below, resamples vary too little; their percentiles are moved outward
MANY_GROUPS = 2000  # groups up to which a mean's limits are the bootstrap's
SAME = 1e-12  # means that differ by less are equal but for the order of a sum
CHUNK_NUMBERS = 4_000_000  # weights alive at once: 32 MB of float64


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence limits."""

    value: float  # the estimate; NaN where there was nothing to estimate it from
    low: float  # lower limit; NaN where the data cannot tell (a single group)
    high: float  # upper limit; NaN likewise
    n: int  # rows behind the estimate

    def to_metrics(self, name: str) -> dict[str, float]:
        """Return ``name``, ``name_low`` and ``name_high``; what does not exist is left out."""
        return {key: value for key, value in self.to_record(name).items() if value is not None}

    @classmethod
    def read(cls, metrics: Mapping[str, float], name: str) -> Interval | None:
        """Return what ``to_metrics`` wrote, with ``name_n`` rows; None where it was not measured."""
        if name not in metrics:
            return None
        low, high = (metrics.get(f"{name}_{side}", math.nan) for side in ("low", "high"))
        return cls(metrics[name], low, high, int(metrics.get(f"{name}_n", 0)))

    def to_record(self, name: str) -> dict[str, float | None]:
        """Return the same three, always; what does not exist is None."""
        named = {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}
        return {key: value if math.isfinite(value) else None for key, value in named.items()}

    def text(self, form: str, scale: float = 1.0, unit: str = "") -> str:
        """Return the estimate times ``scale``, its unit and its limits where it has some."""
        value, low, high = (f"{scale * x:{form}}" for x in (self.value, self.low, self.high))
        return f"{value}{unit}" + (f" [{low}, {high}]" if math.isfinite(self.low) else "")

    def percent(self) -> str:
        """Return for example ``74.6 % [69.0, 80.1]``."""
        return self.text(".1f", 100, " %") if math.isfinite(self.value) else "not measured"

    def points(self) -> str:
        """Return a difference of shares in percentage points, for example ``+3.1 [-1.0, 7.2]``."""
        return self.text("+.1f", 100) if math.isfinite(self.value) else "not measured"

    def number(self, form: str = ".2f") -> str:
        """Return for example ``0.41 [0.22, 0.58]``."""
        return self.text(form) if math.isfinite(self.value) else "n/a"


def flat_metrics(prefix: str, values: Mapping[str, Interval | float | None]) -> dict[str, float]:
    """Return numbers as ``prefix/name``, intervals with limits; what does not exist is left out."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Interval):
            found |= value.to_metrics(f"{prefix}/{name}")
        elif value is not None and math.isfinite(value):
            found[f"{prefix}/{name}"] = value
    return found


def empty_interval() -> Interval:
    """Return the interval of no data."""
    return Interval(math.nan, math.nan, math.nan, 0)


def weighted_mean(values: Array, weights: Array) -> Array:
    """Mean of ``values (N,)`` under each row of ``weights (draws, N)``; ``(draws,)``."""
    return np.asarray(weights @ values / weights.sum(1))


def ratio_of_means(values: Array, weights: Array) -> Array:
    """Mean of column 0 over mean of column 1 of ``values (N, 2)``, by row of weights."""
    sums = weights @ values
    return np.asarray(sums[:, 0] / sums[:, 1])


def standard_error_by_group(values: ArrayLike, groups: Groups) -> float:
    """Cluster-robust standard error of a mean; NaN of a single group.

    ``sqrt(G / (G - 1) * sum_g (sum of group g - rows of g * mean)^2) / N`` (Cameron and Miller 2015,
    for a constant as the only regressor). With groups of one row this is ``std(ddof=1) / sqrt(N)``.
    ``values`` and ``groups`` are ``(N,)``. ``ValueError``: lengths differ.
    """
    rows = np.asarray(values, np.float64)
    if rows.ndim != 1 or len(rows) != len(groups):
        raise ValueError(f"expected one group per value, got {rows.shape} and {len(groups)}")
    if not len(rows):
        return math.nan
    member = np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(member.max()) + 1
    if count < 2:
        return math.nan
    residuals = np.bincount(member, rows) - np.bincount(member) * rows.mean()
    return math.sqrt(count / (count - 1) * float((residuals**2).sum())) / len(rows)


@dataclass(frozen=True, slots=True)
class Estimator:
    """Estimates with intervals of coverage ``LEVEL`` by group; where there are no rows, empty ones.

    Every method raises ``ValueError`` where there is not one group a row or a value is not finite.
    """

    draws: int = 2000  # resamples, at least 1
    seed: int = 0  # seeds them

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"expected draws >= 1, got {self.draws}")

    def bootstrap(
        self, values: ArrayLike, groups: Groups, statistic: Statistic = weighted_mean
    ) -> Interval:
        """Estimate a statistic with an interval from resampled groups.

        Cluster bootstrap (Davison and Hinkley 1997, section 3.8) with bias-corrected and accelerated
        limits (BCa, Efron 1987), the acceleration from leaving out one group at a time; plain
        percentiles where BCa does not exist (no spread, or the estimate beyond every draw). Below
        ``FEW_GROUPS`` groups the percentiles are those of Student's t (Hesterberg 2015, section 5.3);
        below ``FEWEST_GROUPS``, whose resamples never leave the range of what was seen, the limits are
        the estimate and t times its jackknife error. They are NaN for a single group, and where the
        statistic is NaN in more than half of the resamples.

        Args:
            values: One row per observation. ``(N,)`` or ``(N, columns)``
            groups: Group of each row; rows of a group are drawn together. ``(N,)``
            statistic: Maps values and weights ``(draws, N)`` to the statistic under each row of
                weights ``(draws,)``; a row's weight counts how often it was drawn.
        """
        rows = np.asarray(values, np.float64)
        if not len(rows):
            return empty_interval()
        member = _membership(rows, groups)
        count = int(member.max()) + 1
        value = float(statistic(rows, np.ones((1, len(rows))))[0])
        if count == 1:
            return Interval(value, math.nan, math.nan, len(rows))
        generator = np.random.default_rng(self.seed)
        chunk = max(1, CHUNK_NUMBERS // len(rows))
        sizes = [min(chunk, self.draws - start) for start in range(0, self.draws, chunk)]
        drawn = (generator.multinomial(count, np.full(count, 1 / count), size) for size in sizes)
        replicates = np.concatenate(
            [statistic(rows, weights[:, member].astype(float)) for weights in drawn]
        )
        replicates = replicates[np.isfinite(replicates)]
        if not math.isfinite(value) or 2 * len(replicates) < self.draws:
            return Interval(value, math.nan, math.nan, len(rows))
        jackknife = _jackknife(rows, member, statistic, chunk)
        if count < FEWEST_GROUPS:
            error = math.sqrt((count - 1) * float(np.var(jackknife)))
            half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * error
            return Interval(value, value - half, value + half, len(rows))
        low, high = np.quantile(replicates, _bca_tails(value, replicates, jackknife))
        return Interval(value, float(low), float(high), len(rows))

    def mean(self, values: ArrayLike, groups: Groups) -> Interval:
        """Estimate a mean, of any number of rows.

        Beyond ``MANY_GROUPS`` groups, where the bootstrap's cost grows with the square, the limits are
        those it converges to: normal with ``standard_error_by_group``.
        """
        rows = np.asarray(values, np.float64)
        if not len(rows):
            return empty_interval()
        member = _membership(rows, groups)
        if int(member.max()) < MANY_GROUPS:
            return self.bootstrap(rows, member)
        mean, half = float(rows.mean()), Z * standard_error_by_group(rows, member)
        return Interval(mean, mean - half, mean + half, len(rows))

    def share(self, values: ArrayLike, groups: Groups) -> Interval:
        """Estimate a mean of numbers in [0, 1], honest also where all rows agree.

        Where every group has the same mean a bootstrap would claim certainty; there, and below
        ``FEWEST_GROUPS`` groups, the limits are Wilson's, a trial a group. Beyond ``MANY_GROUPS``,
        where normal limits could leave [0, 1], they are too, with as many trials as would give
        ``standard_error_by_group``.
        """
        rows = np.asarray(values, np.float64)
        if not len(rows):
            return empty_interval()
        if rows.min() < 0 or rows.max() > 1:
            raise ValueError(f"expected values in [0, 1], got {rows.min():.3g} to {rows.max():.3g}")
        member = _membership(rows, groups)
        means = np.bincount(member, rows) / np.bincount(member)
        share, trials = float(rows.mean()), float(len(means))
        if np.ptp(means) > SAME and len(means) >= FEWEST_GROUPS:
            if len(means) <= MANY_GROUPS:
                return self.bootstrap(rows, member)
            trials = share * (1 - share) / standard_error_by_group(rows, member) ** 2
        bound = wilson(share * trials, trials)
        return Interval(share, bound.low, bound.high, len(rows))

    def difference(self, a: ArrayLike, b: ArrayLike, groups: Groups) -> Interval:
        """Estimate the mean of ``a - b`` over the same rows; see ``mean``."""
        left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if left.shape != right.shape:
            raise ValueError(f"expected paired values, got shapes {left.shape} and {right.shape}")
        return self.mean(left - right, groups)

    def share_difference(self, a: ArrayLike, b: ArrayLike, groups: Groups) -> Interval:
        """Estimate the mean of ``a - b`` of numbers in [0, 1], honest also where all groups agree.

        There the limits are those of Newcombe (1998, method 10) from the limits of both shares, which
        pairing can only narrow.
        """
        paired = self.difference(a, b, groups)
        if not paired.high - paired.low <= SAME:  # there is spread, or there are no limits
            low, high = np.clip([paired.low, paired.high], -1, 1).tolist()  # keeps NaN
            return Interval(paired.value, low, high, paired.n)
        first, second = self.share(a, groups), self.share(b, groups)
        down = math.hypot(first.value - first.low, second.high - second.value)
        up = math.hypot(first.high - first.value, second.value - second.low)
        low, high = max(-1.0, paired.value - down), min(1.0, paired.value + up)
        return Interval(paired.value, low, high, paired.n)


def wilson(successes: float, n: float) -> Interval:
    """Score interval (Wilson 1927) of ``successes`` in [0, n], ties half, of ``n >= 1`` trials.

    Where rows are not independent, ``n`` is the size of an independent sample as good as they are.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"expected n >= 1 and successes in [0, n], got {n} and {successes}")
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, n, alpha=1 - LEVEL, method="wilson")
    return Interval(successes / n, max(0.0, float(low)), min(1.0, float(high)), round(n))


def _membership(rows: Array, groups: Groups) -> NDArray[np.intp]:
    """Check the arguments and return the index of each row's group, ``(N,)``."""
    if len(groups) != len(rows):
        raise ValueError(f"expected one group per row, got {len(rows)} rows, {len(groups)} groups")
    if not np.isfinite(rows).all():
        raise ValueError("expected finite values, got NaN or infinity; leave those rows out")
    return np.unique(np.asarray(groups), return_inverse=True)[1]


def _jackknife(rows: Array, member: NDArray[np.intp], statistic: Statistic, chunk: int) -> Array:
    """Statistic without each group in turn, ``(groups,)``."""
    groups = np.arange(int(member.max()) + 1)
    parts = (groups[start : start + chunk] for start in range(0, len(groups), chunk))
    return np.concatenate(
        [statistic(rows, (member != left_out[:, None]).astype(float)) for left_out in parts]
    )


def _bca_tails(value: float, replicates: Array, jackknife: Array) -> Array:
    """Percentiles of the limits, shifted by bias and acceleration (Efron 1987, eq. 2.3 and 6.6)."""
    count, z = len(jackknife), Z
    if count < FEW_GROUPS:
        z = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * math.sqrt(count / (count - 1))
    normal = np.array([-z, z])
    tails: Array = ndtr(normal)
    same = np.isclose(replicates, value, rtol=1e-12, atol=1e-12)  # equal but for the order of a sum
    below = float(np.mean((replicates < value) & ~same) + np.mean(same) / 2)
    spread = jackknife.mean() - jackknife
    scale = float((spread**2).sum()) ** 1.5
    if not 0 < below < 1 or scale < 1e-300:
        return tails
    bias = ndtri(below)
    acceleration = float((spread**3).sum()) / (6 * scale)
    shift = bias + normal
    shifted: Array = ndtr(bias + shift / (1 - acceleration * shift))
    return shifted if np.isfinite(shifted).all() and (acceleration * shift < 1).all() else tails
