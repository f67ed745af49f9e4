"""Confidence intervals over subjects, and limits of agreement.

Photographs of one person are alike, and pixels of one photograph even more so. What varies
independently is the subject, so subjects are what is drawn here: the percentile bootstrap of
Efron and Tibshirani (1993, An Introduction to the Bootstrap, chapter 13,
doi:10.1201/9780429246593) with all photographs of a subject drawn together (Davison and Hinkley
1997, section 3.8, doi:10.1017/CBO9780511802843).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..spec import check_integer

__all__ = ["RELIABLE_SUBJECTS", "RESAMPLES", "Agreement", "Difference", "Interval"]

RESAMPLES = 2000
"""How many times subjects are drawn."""

RELIABLE_SUBJECTS = 10
"""With fewer subjects, intervals are clearly too narrow."""


class Interval(NamedTuple):
    """Lower and upper end of a 95 % confidence interval, NaN if it is not defined."""

    low: float
    high: float


class Difference(NamedTuple):
    """A figure minus the same figure of another evaluation, and the 95 % interval of that."""

    value: float
    low: float
    high: float


class Agreement(NamedTuple):
    """How a measure of the masks differs from that of the labels, over `number` photographs.

    `bias` is the mean of mask minus label, and `low` and `high` are the 95 % limits of agreement,
    1.96 standard deviations below and above it (Bland and Altman 1986,
    doi:10.1016/S0140-6736(86)90837-8). NaN if there are too few photographs.
    """

    number: int
    bias: float
    low: float
    high: float


def bootstrap(
    names: Sequence[str],
    summarise: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    subjects: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, Interval]:
    """Intervals of figures by name, NaN if all photographs are of one subject.

    `subjects` has the subject of each photograph. `summarise` takes how often each photograph
    counts in each resample (resamples, N) and returns the figures (resamples, number of names).
    """
    if len(set(subjects)) < 2:
        return dict.fromkeys(names, Interval(math.nan, math.nan))
    columns = summarise(_draw_subjects(subjects, resamples, seed)).T
    return {name: _to_interval(column) for name, column in zip(names, columns, strict=True)}


def _draw_subjects(subjects: Sequence[str], resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each photograph counts in each resample (resamples, N).

    As many subjects are drawn as there are, with replacement. The same subjects and seed give the
    same draws, so that two evaluations can be compared in pairs.
    """
    resamples = check_integer("resamples", resamples, most=10**6)
    seed = check_integer("seed", seed, 0, allowed="an integer, 0 or more")
    names, place = np.unique(subjects, return_inverse=True)
    number = len(names)
    generator = np.random.default_rng(seed)
    times = generator.multinomial(number, np.full(number, 1 / number), size=resamples)
    return times[:, place].astype(np.float64)


def _to_interval(values: NDArray[np.float64]) -> Interval:
    """The middle 95 % of resampled values, leaving out NaN."""
    defined = values[~np.isnan(values)]
    if not defined.size:
        return Interval(math.nan, math.nan)
    low, high = np.percentile(defined, (2.5, 97.5))
    return Interval(float(low), float(high))


def agree(pairs: Sequence[tuple[float, float]]) -> Agreement:
    """Bias and limits of agreement of (mask, label) for each photograph, leaving out NaN."""
    differences = np.array([mask - label for mask, label in pairs])
    differences = differences[~np.isnan(differences)]
    number = len(differences)
    bias = float(differences.mean()) if number else math.nan
    spread = 1.96 * float(differences.std(ddof=1)) if number > 1 else math.nan
    return Agreement(number, bias, bias - spread, bias + spread)
