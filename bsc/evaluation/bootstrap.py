"""Intervals: the bootstrap for means and ratios over documents or latents, Wilson's for shares of latents. No torch in here.

All bootstraps are 95% percentile intervals from a seeded generator, expanded for few units (see `ends`). What is paired (a
document's cross-entropy with and without a coder) is resampled together, because a resample is a number of times that each unit
is taken.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
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
    values = np.concatenate([statistic(counts) for counts in _taken(units, resamples, seed)])
    return Interval(float(statistic(np.ones((1, units)))[0]), *ends(values, units))


def ends(values: Float[np.ndarray, " resamples"], units: int) -> tuple[float, float]:
    """The ends of the 95% interval of a statistic by its values in resamples of `units` units; NaN of one unit.

    Undefined values (NaN) are left out; where none is left, there are no ends. Resampled means vary by n - 1 over n less than
    means do, and as a normal does and no t: the percentiles are those that make up for both, Φ(∓√(n/(n-1)) t), 1.9% of 32
    units and 2.4% of 200 in the place of 2.5% (the expanded percentile interval, Hesterberg 2015). Of few and skewed units
    the interval is still too narrow.
    """
    from scipy.special import ndtr, stdtrit  # slow to import, and of no use to those who come for Wilson's

    defined = values[~np.isnan(values)]
    if units < 2 or not len(defined):
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
    (found,) = bootstrap_ratios([(numerators, denominators)], resamples=resamples, seed=seed)
    return found


def bootstrap_ratios(sums: Sequence[tuple[ArrayLike, ArrayLike]], *, resamples: int, seed: int) -> list[Interval]:
    """`bootstrap_ratio` of each pair of numerators and denominators, all of the same units, from one set of resamples."""
    units = np.size(sums[0][1])
    return [Interval(float(row[0]), *ends(row[1:], units)) for row in ratios(sums, resamples=resamples, seed=seed)]


def ratios(
    sums: Sequence[tuple[ArrayLike, ArrayLike]], *, resamples: int, seed: int
) -> Float[np.ndarray, "ratios estimate_and_resamples"]:
    """Σ numerators / Σ denominators of each pair: over the units first, then over each resample, which all pairs share.

    Each is what it is alone. NaN where nothing is below the line, and in all resamples of a single unit. Raises ValueError when
    there is no unit, or pairs have different numbers of them.
    """
    columns = [np.stack([np.asarray(one, dtype=np.float64) for one in pair], axis=1) for pair in sums]
    (units,) = {len(one) for one in columns}
    pieces = chain([np.ones((1, units))], _taken(units, resamples, seed))
    return np.concatenate([[_divided(counts @ one) for one in columns] for counts in pieces], axis=1)


def _divided(sums: Float[np.ndarray, "resamples 2"]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(sums[:, 1] == 0, np.nan, sums[:, 0] / sums[:, 1]))


def wilson(count: int, total: int) -> Interval:
    """Wilson's 95% interval for the share `count / total`: defined, and of some width, also at 0 and at `total`."""
    if total == 0:
        return Interval(np.nan, np.nan, np.nan)
    share, spread = count / total, _NORMAL_QUANTILE**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = np.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return Interval(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def _taken(units: int, resamples: int, seed: int) -> Iterator[Counts]:
    """How often each unit is taken in each resample, some resamples at a time; NaN where there is one unit alone."""
    if units < 1:
        raise ValueError("nothing to resample: there is no unit")
    generator = np.random.default_rng(seed)
    chunk = max(1, _COUNTS_AT_ONCE // units)
    for first in range(0, resamples, chunk):
        yield _counts(generator, min(chunk, resamples - first), units)


def _counts(generator: np.random.Generator, resamples: int, units: int) -> NDArray[Any]:
    """How often each unit is drawn in each resample of as many draws as there are units; NaN where there is one alone."""
    if units == 1:
        return np.full((resamples, 1), np.nan)
    drawn = generator.integers(0, units, size=(resamples, units))
    drawn += np.arange(resamples)[:, None] * units
    return np.bincount(drawn.ravel(), minlength=resamples * units).reshape(resamples, units).astype(np.float64)
