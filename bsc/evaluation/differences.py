"""Differences between coders with their intervals: paired over documents, apart over latents, across seeds. No torch in here.

A statistic is carried as its *replicates* (see `bootstrap.ratios`): the estimate first, then its value in each resample. Means
and differences of statistics are then taken entry by entry. Two statistics of the same units are paired when they are drawn
with the same seed (each resample takes the same units for both), and independent when their seeds differ.
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from bsc.evaluation.bootstrap import LEVEL, Interval, ends

Replicates = Float[np.ndarray, "estimate_and_resamples"]

HOLDS, FAILS, UNDECIDED, DIFFERS = "holds", "does not hold", "undecided", "differs by cell"
_NOTHING = 1e-12
"""What rounding may make of a difference of nothing."""


def over_seeds(statistics: Float[np.ndarray, "seeds estimate_and_resamples"], *, seed: int) -> Replicates:
    """The mean over seeds, which are resampled too where there are several.

    The spread of resampled means of S values is too narrow by √((S-1)/S), which matters for two or three seeds, so deviations
    from equal weights are widened by its inverse: the seeds' part of the variance is then s²/S as it should be. What units
    and seeds do together counts in both parts, as in every bootstrap of two crossed factors (Owen 2007), which makes the
    interval too wide rather than too narrow. But it is a normal's and no t's: where two or three seeds differ by much more
    than their units explain, it is narrower than its name says.
    """
    seeds, columns = statistics.shape
    weights = np.full((seeds, columns), 1 / seeds)
    if seeds > 1:
        drawn = np.random.default_rng(seed).multinomial(seeds, np.full(seeds, 1 / seeds), size=columns - 1).T / seeds
        weights[:, 1:] += np.sqrt(seeds / (seeds - 1)) * (drawn - 1 / seeds)
    return np.asarray((weights * statistics).sum(axis=0))


def interval(statistic: Replicates, units: int) -> Interval:
    """The estimate and its 95% interval, by `ends`. units: the fewest that any of its parts is a statistic of.

    What may be but rounding is 0, so that it has no sign.
    """
    statistic = np.where(np.abs(statistic) <= _NOTHING, 0.0, statistic)
    return Interval(float(statistic[0]), *ends(statistic[1:], units))


def verdict(difference: Interval, *, sign: int, margin: float = 0.0) -> str:
    """Whether a difference has the sign that a finding says, judged by its interval alone.

    It holds when the whole interval lies on that side of zero, fails when it lies on the other, and is undecided else or where
    it is undefined. margin: of a finding that says *no worse than*, how much worse still counts as a match; zero then moves
    by so much to the other side.
    """
    low, high = sorted((sign * difference.low + margin, sign * difference.high + margin))
    if low > _NOTHING:
        return HOLDS
    return FAILS if high < -_NOTHING else UNDECIDED


def widened(differences: Sequence[Interval]) -> list[Interval]:
    """Intervals of several cells, so wide that they can be searched for two cells on either side of a boundary.

    Of m cells one may be far on its side, and any of the m - 1 others seem to be on the other. Intervals of level
    1 - 0.05 / (m - 1) hold the chance of that to 2.5%, whichever units cells share: Bonferroni's correction in the range test
    of Piantadosi and Gail (1993). Two cells need none. Ends go out as a normal's would, for there are too few resamples for
    quantiles so far out.
    """
    tail, quantile = (1 - LEVEL) / 2, NormalDist().inv_cdf
    more = quantile(1 - tail / max(1, len(differences) - 1)) / quantile(1 - tail) - 1
    return [Interval(value, low - more * abs(value - low), high + more * abs(high - value)) for value, low, high in differences]


def over_cells(pooled: str, cells: Sequence[str]) -> str:
    """The verdict over several cells: that of their mean, but `DIFFERS` where a finding holds in one cell and fails in another.

    cells: the verdicts of their `widened` intervals. The mean's counts as one more cell's, for where it is on one side, so is
    some cell: a finding that holds on average and fails in a cell differs by cell.
    """
    return DIFFERS if {HOLDS, FAILS} <= {pooled, *cells} else pooled


def units_to_resolve(difference: Interval, units: int, boundary: float = 0.0) -> int | None:
    """About how many units would make the interval exclude the boundary if the difference stayed what it is; None if undefined.

    The distance from the difference to either end of its interval falls with the square root of the number of units.
    """
    apart = difference.value - boundary
    reach = difference.value - difference.low if apart > 0 else difference.high - difference.value
    if not np.isfinite(reach) or abs(apart) <= _NOTHING:
        return None
    return int(np.ceil(units * max(1.0, (reach / apart) ** 2)))
