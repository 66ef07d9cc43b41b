"""Numbers made of tables, with their 95 % intervals: over the samples of one network, and over networks (numpy only).

A claim's table has a row for each sample of one network. Of several networks the interval is Student's t on their own
values: networks are the unit, samples of one network share it. A bootstrap over five networks would cover 77 to 86 %.
Shares, which cannot leave 0 to 1, have it on the scale of the logit (delta method): on their own scale it
covers 89 % of five networks that differ by 0.1 about 0.9. Ratios have it on the scale of the logarithm, and their
number is the geometric mean: r and 1/r are then the same statement, and it covers 95 % of five lognormal ratios whose
logarithms differ by 1, where the interval of the plain mean covers 82 %. Kinds in `POOLED`, whose rows are networks
themselves, have one interval of all rows together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial as applied
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flatlens.claims import separation, survival, ways
from flatlens.records import intervals

Floats = NDArray[np.float64]
Table = Mapping[str, NDArray[np.generic]]
"""Column -> values of the samples ``[n]``."""

EXCEPTIONS = "exceptions"
CAUGHT = tuple(f"caught at {100 * rate:g} % false alarms" for rate in separation.RATES)
BOUNDED = ("share", "area under the curve", "accuracy", "transfer accuracy", *CAUGHT)
"""Kinds whose numbers lie within 0 to 1."""
RATIOS = ("ratio of medians", "ratio of lengths")
"""Kinds whose numbers are ratios, 1 being no difference."""
OF_WAYS, EXPLAINED = "correlation over ways", "explained over ways"
POOLED = (OF_WAYS, EXPLAINED)
"""Kinds whose rows are networks: the number is made of all rows together, and so is its interval."""
DRAWS = 1000
"""Resamples of a bootstrap over samples."""
FEWEST = 6
"""Samples below which there is no interval over samples."""
T_QUANTILE = (
    np.nan, 12.706204736174694, 4.302652729749462, 3.182446305283708, 2.776445105197793, 2.570581835636314,
    2.446911851144969, 2.364624251592784, 2.306004135204166, 2.262157162798205, 2.228138851986274, 2.200985160091638,
    2.178812829667228, 2.160368656462792, 2.144786687917803, 2.131449545559774, 2.119905299221255, 2.109815577833317,
    2.100922040241038, 2.093024054408309, 2.085963447265864, 2.079613844727680, 2.073873067904022, 2.068657610419048,
    2.063898561628021, 2.059538552753294, 2.055529438642872, 2.051830516480284, 2.048407141795244, 2.045229642132703,
    2.042272456301238,
)  # fmt: skip
"""The 97.5 % quantile of Student's t, by its degrees of freedom."""


class Estimate(NamedTuple):
    """A number with its 95 % interval; NaN where there is none. ``n``: samples."""

    value: float
    low: float
    high: float
    n: int


NONE = Estimate(np.nan, np.nan, np.nan, 0)


@dataclass(frozen=True)
class Statistic:
    """How a number is made of a table.

    Attributes:
        kind: one of `KINDS`.
        columns: the columns that it is made of, in the order that its kind asks for.
        given: a column of flags: only these rows; all when empty.
    """

    kind: str
    columns: tuple[str, ...]
    given: str = ""

    def __post_init__(self) -> None:
        KINDS[self.kind]

    def of(self, table: Table) -> Estimate:
        """The number of one network's table, with its interval over samples."""
        rows = np.ones(len(table[self.columns[0]]), bool) if not self.given else np.asarray(table[self.given], bool)
        values = [np.asarray(table[name], dtype=np.float64)[rows] for name in self.columns]
        there = np.all([~np.isnan(v) for v in values], axis=0)
        return KINDS[self.kind](*(v[there] for v in values))


def share(column: str, given: str = "") -> Statistic:
    """The share of the samples that have a flag."""
    return Statistic("share", (column,), given)


def mean(column: str, given: str = "") -> Statistic:
    """The mean over samples."""
    return Statistic("mean", (column,), given)


def exceptions(column: str, given: str = "") -> Statistic:
    """How many samples have the flag not: of an identity, which one exception refutes. A count has no interval."""
    return Statistic(EXCEPTIONS, (column,), given)


def median(column: str, given: str = "") -> Statistic:
    """The median over samples."""
    return Statistic("median", (column,), given)


def difference(first: str, second: str, given: str = "") -> Statistic:
    """How much more often the first flag is set than the second, of the same samples."""
    return Statistic("difference", (first, second), given)


def ratio_of_medians(first: str, second: str, given: str = "") -> Statistic:
    """The median of one column, over that of another of the same samples."""
    return Statistic("ratio of medians", (first, second), given)


def length(column: str, event: str, given: str = "") -> Statistic:
    """The median length at which something happens, by the product-limit estimate.

    Args:
        column: the length at which it happened, or up to which it had not.
        event: the flag of whether it happened.
        given: only these rows.
    """
    return Statistic("length", (column, event), given)


def ratio_of_lengths(first: tuple[str, str], second: tuple[str, str], given: str = "") -> Statistic:
    """The median length of one column, over that of another of the same samples; each with its flag, as `length`."""
    return Statistic("ratio of lengths", (*first, *second), given)


def correlation(first: str, second: str, given: str = "") -> Statistic:
    """Spearman's rank correlation."""
    return Statistic("correlation", (first, second), given)


def partial(first: str, second: str, third: str, given: str = "") -> Statistic:
    """Spearman's partial rank correlation of the first two, given the third."""
    return Statistic("partial correlation", (first, second, third), given)


def auc(clean: str, adversarial: str) -> Statistic:
    """How often an adversarial score is above a clean one, ties a half."""
    return Statistic("area under the curve", (clean, adversarial))


def accuracy(clean: str, adversarial: str, fold: str) -> Statistic:
    """How often a stump on a score is right, set on the pairs of other folds."""
    return Statistic("accuracy", (clean, adversarial, fold))


def transfer(clean: str, adversarial: str, other: str, fold: str) -> Statistic:
    """How often a stump on a score that is set on one attack is right on another one, by folds."""
    return Statistic("transfer accuracy", (clean, adversarial, clean, other, fold))


def advantage(first: tuple[str, str], second: tuple[str, str], fold: str) -> Statistic:
    """How much more often a stump on one score is right than one on another score; clean and adversarial of each."""
    return Statistic("difference of accuracies", (*first, *second, fold))


def caught(clean: str, adversarial: str, rate: float) -> Statistic:
    """The share of adversarial inputs that a threshold finds, at 1 or 5 % false alarms."""
    return Statistic(CAUGHT[separation.RATES.index(rate)], (clean, adversarial))


def partial_of_ways(first: str, second: str, *given: str, way: str, among: str = "") -> Statistic:
    """Spearman's correlation of two columns over ways of training, given others; rows are networks, with a flag."""
    return Statistic(OF_WAYS, (first, second, *given, way), among)


def explained_by_ways(first: str, *others: str, way: str) -> Statistic:
    """The share of a column's variance, of ranks and over ways of training, that others explain."""
    return Statistic(EXPLAINED, (first, *others, way))


def over_nets(statistic: Statistic, tables: Sequence[Table]) -> tuple[Estimate, list[float]]:
    """A number over networks, with its interval, and the networks' own values.

    Of one network it is the interval over its samples; so it is, over all samples together, where all networks have
    the very same value, as shares of 0 or 1 have: their spread tells nothing then.

    Args:
        statistic: what to make.
        tables: of the networks; one that has no such rows does not count.
    """
    each = [found for found in (statistic.of(table) for table in tables) if not np.isnan(found.value)]
    values = [found.value for found in each]
    if not each:
        return NONE, []
    if len(each) == 1:
        return each[0], values
    if statistic.kind in POOLED:
        return statistic.of(joined(tables)), values
    n = sum(found.n for found in each)
    if statistic.kind == EXCEPTIONS:
        total = float(sum(values))
        return Estimate(total, total, total, n), values
    if max(values) == min(values):
        pooled = statistic.of(joined(tables))
        return Estimate(values[0], min(pooled.low, values[0]), max(pooled.high, values[0]), n), values
    if statistic.kind in RATIOS and min(values) > 0:
        return ratio(np.array(values), n), values
    return student(np.array(values), n, bounded=statistic.kind in BOUNDED), values


def ratio(values: Floats, n: int) -> Estimate:
    """The geometric mean of networks' ratios with Student's interval of their logarithms.

    Args:
        values: of the networks, at least two, above 0; an infinite one leaves no interval.
        n: samples in all.
    """
    if not np.isfinite(values).all():
        return Estimate(np.inf, np.nan, np.nan, n)
    value, low, high = (float(np.exp(at)) for at in student(np.log(values), n)[:3])
    return Estimate(value, low, high, n)


def student(values: Floats, n: int, *, bounded: bool = False) -> Estimate:
    """The mean of networks' values with Student's interval.

    Args:
        values: of the networks, at least two.
        n: samples in all.
        bounded: they are shares: the interval is made on the scale of the logit, and lies within 0 to 1.
    """
    k = len(values)
    centre = float(values.mean())
    freedom = min(k - 1, len(T_QUANTILE) - 1)
    half = T_QUANTILE[freedom] * float(values.std(ddof=1)) / np.sqrt(k)
    if not bounded:
        return Estimate(centre, centre - half, centre + half, n)
    logit, reach = np.log(centre / (1 - centre)), half / (centre * (1 - centre))
    low, high = (float(1 / (1 + np.exp(-at))) for at in (logit - reach, logit + reach))
    return Estimate(centre, low, high, n)


def joined(tables: Sequence[Table]) -> Table:
    """The rows of several tables, one after the other; the columns that all have."""
    names = [name for name in tables[0] if all(name in table for table in tables)]
    return {name: np.concatenate([np.asarray(table[name]) for table in tables]) for name in names}


# ---- kinds: values of the samples -> a number with its interval over samples ------------------------------------


def _share(flags: Floats) -> Estimate:
    found = intervals.wilson(int(flags.sum()), len(flags))
    return Estimate(found.value, found.low, found.high, found.n)


def _exceptions(flags: Floats) -> Estimate:
    count = float((flags <= 0).sum())
    return Estimate(count, count, count, len(flags)) if len(flags) else NONE


def _mean(values: Floats) -> Estimate:
    return Estimate(*intervals.mean(values))


def _median(values: Floats) -> Estimate:
    return Estimate(*intervals.median(values))


def _difference(first: Floats, second: Floats) -> Estimate:
    return Estimate(*intervals.paired(first > 0, second > 0))


def _resampled(of: Callable[..., float], *values: Floats) -> Estimate:
    """A statistic with its bootstrap percentile interval over samples."""
    n = len(values[0])
    centre = of(*values) if n else np.nan
    if n < FEWEST or not np.isfinite(centre):
        return Estimate(centre, np.nan, np.nan, n)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        rows = rng.integers(n, size=n)
        drawn.append(of(*(v[rows] for v in values)))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Estimate(centre, float(low), float(high), n)


def _ratio(first: Floats, second: Floats) -> Estimate:
    def of(one: Floats, other: Floats) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.median(one) / np.median(other))

    return _resampled(of, first, second)


def _length(lengths: Floats, events: Floats) -> Estimate:
    return _of_draws(lambda weights: survival.median(lengths, events, weights), len(lengths))


def _ratio_of_lengths(first: Floats, event: Floats, second: Floats, other_event: Floats) -> Estimate:
    def of(weights: Floats | None) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return survival.median(first, event, weights) / survival.median(second, other_event, weights)

    return _of_draws(of, len(first))


def _of_draws(of: Callable[[Floats | None], Floats], n: int) -> Estimate:
    """What is made of all samples, and the percentiles of what is made of resamples; none where one is infinite."""
    if n == 0:
        return NONE
    centre = float(of(None)[0])
    if n < FEWEST or not np.isfinite(centre):
        return Estimate(centre, np.nan, np.nan, n)
    found = of(survival.resampled(n, DRAWS))
    low, high = np.quantile(found[~np.isnan(found)], [0.025, 0.975], method="nearest")
    return Estimate(centre, float(low), float(high), n) if np.isfinite(high) else Estimate(centre, np.nan, np.nan, n)


def _pearson(first: Floats, second: Floats) -> float:
    a, b = first - first.mean(), second - second.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else np.nan


def _correlation(first: Floats, second: Floats) -> Estimate:
    return _resampled(lambda a, b: _pearson(ways.ranks(a), ways.ranks(b)), first, second)


def _partial(first: Floats, second: Floats, third: Floats) -> Estimate:
    def of(a: Floats, b: Floats, c: Floats) -> float:
        a, b, c = ways.ranks(a), ways.ranks(b), ways.ranks(c)
        ab, ac, bc = _pearson(a, b), _pearson(a, c), _pearson(b, c)
        size = (1 - ac**2) * (1 - bc**2)
        return (ab - ac * bc) / float(np.sqrt(size)) if size > 1e-12 else np.nan

    return _resampled(of, first, second, third)


def _of(made: Callable[..., intervals.Fraction | intervals.Mean]) -> Callable[..., Estimate]:
    """A kind of another module, whose result is an interval of `flatlens.records`."""

    def kind(*values: Floats) -> Estimate:
        found = made(*values)
        return Estimate(found.value, found.low, found.high, found.n)

    return kind


KINDS: Mapping[str, Callable[..., Estimate]] = {
    "share": _share,
    EXCEPTIONS: _exceptions,
    "mean": _mean,
    "median": _median,
    "difference": _difference,
    "ratio of medians": _ratio,
    "length": _length,
    "ratio of lengths": _ratio_of_lengths,
    "correlation": _correlation,
    "partial correlation": _partial,
    "area under the curve": _of(separation.area),
    "accuracy": _of(separation.accuracy),
    "transfer accuracy": _of(separation.transfer),
    OF_WAYS: _of(ways.partial),
    EXPLAINED: _of(ways.explained),
    "difference of accuracies": _of(separation.advantage),
    **{name: _of(applied(separation.rate_caught, rate)) for name, rate in zip(CAUGHT, separation.RATES, strict=True)},
}
