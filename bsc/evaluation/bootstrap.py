"""Intervals: the bootstrap for means and ratios over documents or latents, Wilson's for shares of latents. No torch in here.

All bootstraps are 95% percentile intervals from a seeded generator, expanded for few units (see `ends`). What is paired (a
document's cross-entropy with and without a coder) is resampled together, because a resample is a number of times that each unit
is taken.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
_NORMAL_QUANTILE = 1.959963984540054
_COUNTS_AT_ONCE = 1 << 17
"""So few that they stay in the processor's cache."""

Counts = Float[np.ndarray, "resamples units"]
Statistic = Callable[[Counts], Float[np.ndarray, "resamples"]]
"""From how often each unit is taken in each resample to the statistic of each resample; NaN where it is undefined."""


class Interval(NamedTuple):
    """A value and the ends of its 95% interval; NaN where undefined."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        """`value`, `low` and `high`, with null for what is undefined."""
        return {name: float(number) if np.isfinite(number) else None for name, number in self._asdict().items()}


def bootstrap(statistic: Statistic, units: int, *, resamples: int, seed: int) -> Interval:
    """The percentile bootstrap over `units` exchangeable units.

    Resamples in which the statistic is undefined are left out of the percentiles. Of a single unit the interval is undefined:
    nothing says how much units differ. Memory does not grow with `resamples`. Raises ValueError when there is no unit.
    """
    if units < 1:
        raise ValueError("nothing to resample: there is no unit")
    generator = np.random.default_rng(seed)
    chunk = max(1, _COUNTS_AT_ONCE // units)
    sizes = [min(chunk, resamples - first) for first in range(0, resamples, chunk)]
    values = np.concatenate([statistic(_counts(generator, size, units)) for size in sizes])
    return Interval(float(statistic(np.ones((1, units)))[0]), *ends(values, units))


def ends(values: Float[np.ndarray, " resamples"], units: int) -> tuple[float, float]:
    """The ends of the 95% interval of a statistic by its values in resamples of `units` units; NaN where none is defined.

    Undefined values (NaN) are left out. Resampled means vary by n - 1 over n less than means do, and as a normal does and no
    t: the percentiles are those that make up for both, Φ(∓√(n/(n-1)) t), 1.9% of 32 units and 2.4% of 200 in the place of 2.5%
    (the expanded percentile interval, Hesterberg 2015). Of few and skewed units the interval is still too narrow.
    """
    from scipy.special import ndtr, stdtrit  # slow to import, and of no use to those who come for Wilson's

    defined = values[~np.isnan(values)]
    if not len(defined):
        return np.nan, np.nan
    tail = ndtr(np.sqrt(units / (units - 1)) * stdtrit(units - 1, (1 - LEVEL) / 2))
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_mean(values: ArrayLike, *, weights: ArrayLike | None = None, resamples: int, seed: int) -> Interval:
    """The mean of `values`, weighted by `weights` where given; a value and its weight are resampled together."""
    data = np.asarray(values, dtype=np.float64)
    weight = np.ones_like(data) if weights is None else np.asarray(weights, dtype=np.float64)
    return bootstrap_ratio(data * weight, weight, resamples=resamples, seed=seed)


def bootstrap_ratio(numerators: ArrayLike, denominators: ArrayLike, *, resamples: int, seed: int) -> Interval:
    """Σ numerators / Σ denominators, a ratio of resampled sums; both are resampled together, unit by unit."""
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)

    def ratio(counts: Counts) -> NDArray[np.float64]:
        sums = counts @ np.stack([above, below], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(sums[:, 1] == 0, np.nan, sums[:, 0] / sums[:, 1]))

    return bootstrap(ratio, len(above), resamples=resamples, seed=seed)


def wilson(count: int, total: int) -> Interval:
    """Wilson's 95% interval for the share `count / total`: defined, and of some width, also at 0 and at `total`."""
    if total == 0:
        return Interval(np.nan, np.nan, np.nan)
    share, spread = count / total, _NORMAL_QUANTILE**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = np.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return Interval(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def _counts(generator: np.random.Generator, resamples: int, units: int) -> NDArray[Any]:
    """How often each unit is drawn in each resample of as many draws as there are units; NaN where there is one alone."""
    if units == 1:
        return np.full((resamples, 1), np.nan)
    drawn = generator.integers(0, units, size=(resamples, units))
    drawn += np.arange(resamples)[:, None] * units
    return np.bincount(drawn.ravel(), minlength=resamples * units).reshape(resamples, units).astype(np.float64)
