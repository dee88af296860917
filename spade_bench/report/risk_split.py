"""Log-rank test of the median-risk split: do the cases called high-risk have the worse outcome?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spade_bench.report.leaderboard import ReportRow, status
from spade_bench.report.mainseries import is_survival
from spade_bench.report.series import Series
from spade_bench.report.values import Resampler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["METRIC", "CaseRisks", "RiskSplit", "as_report_rows", "case_risks", "risk_splits"]

METRIC = "logrank_p"


@dataclass(frozen=True)
class CaseRisks:
    """One risk a case, from all rows of a series that tested it.

    Attributes:
        event: (n,) True where the event happened.
        days: (n,) days to the event or to the last contact.
        risk: (n,) mean rank of the case's risk in 0..1, higher is worse.
    """

    event: NDArray[np.bool_]
    days: Floats
    risk: Floats

    @property
    def high(self) -> NDArray[np.bool_]:
        """(n,) True for the cases above the median, as the log-rank test splits them."""
        import numpy as np

        return np.asarray(self.risk > np.median(self.risk))


@dataclass(frozen=True)
class RiskSplit:
    """The test of one series.

    Attributes:
        series: The series.
        n_high: Cases above the median risk.
        n_low: The others.
        events_high: Events among the former.
        events_low: Events among the latter.
        statistic: Chi-squared with one degree of freedom; None where undefined.
        p: Two-sided p value; None where undefined. Over folds of cross-validation it is a guide
            only, because the risks of different folds share training cases.
    """

    series: Series
    n_high: int
    n_low: int
    events_high: int
    events_low: int
    statistic: float | None
    p: float | None


def case_risks(series: Series, resampler: Resampler) -> CaseRisks:
    """Average the risk of each case over draws, folds or repeats.

    Models of different draws and folds have risks on scales of their own, so what is averaged is
    the rank among the test cases of a row. Where cases are slides, those of one patient with one
    outcome are averaged too, because the log-rank test takes cases to be independent.

    Args:
        series: A survival series with finished rows.
        resampler: Reads predictions.
    """
    import numpy as np

    from spade_bench.statistics.ranks import middle_ranks

    ranks: dict[tuple[str, ...], list[float]] = {}
    of_rows = [resampler.predictions(row) for row in series.rows]
    first = of_rows[0]
    alike = all(one.case_ids == first.case_ids and np.array_equal(one.target, first.target)
                for one in of_rows)  # fmt: skip
    if alike and not first.patients:
        scores = np.stack([one.scores[:, 0] for one in of_rows])  # (D, m)
        places = (middle_ranks(scores, axis=1) - 0.5) / len(first.case_ids)  # (D, m)
        risk = np.array([np.mean(of_case) for of_case in np.ascontiguousarray(places.T)])
        return CaseRisks(first.target[:, 0] > 0, first.target[:, 1], risk)
    for predictions in of_rows:
        place = (middle_ranks(predictions.scores[:, 0]) - 0.5) / len(predictions.case_ids)  # (m,)
        units = predictions.patients or predictions.case_ids
        for unit, outcome, rank in zip(units, predictions.target.tolist(), place, strict=True):
            ranks.setdefault((unit, *outcome), []).append(float(rank))
    known = np.array([outcome for _, *outcome in ranks])  # (n, 2)
    risk = np.array([np.mean(of_case) for of_case in ranks.values()])
    return CaseRisks(known[:, 0] > 0, known[:, 1], risk)


def risk_splits(series: Sequence[Series], resampler: Resampler) -> list[RiskSplit]:
    """Test every survival series that has finished rows, controls included."""
    import numpy as np

    from spade_bench.statistics.riskscores import logrank_median_split

    out = []
    for one in series:
        if not one.rows or not is_survival(one, resampler):
            continue
        cases = case_risks(one, resampler)
        test = logrank_median_split(cases.event, cases.days, cases.risk)
        defined = bool(np.isfinite(test.p))
        out.append(
            RiskSplit(
                series=one,
                n_high=test.n_high,
                n_low=test.n_low,
                events_high=int(cases.event[cases.high].sum()),
                events_low=int(cases.event[~cases.high].sum()),
                statistic=test.statistic if defined else None,
                p=test.p if defined else None,
            )
        )
    return out


def as_report_rows(splits: Sequence[RiskSplit]) -> list[ReportRow]:
    """Write tests as rows of the leaderboard: metric `logrank_p`, without an interval."""
    return [
        ReportRow(
            encoder=split.series.encoder,
            task=split.series.task,
            head=split.series.head,
            protocol=split.series.protocol,
            k_shot=split.series.k_shot,
            metric=METRIC,
            mean=split.p,
            ci_low=None,
            ci_high=None,
            n_cases=split.n_high + split.n_low,
            n_draws=split.series.n_draws,
            flags=(
                *split.series.flags,
                *status(split.series),
                *(("undefined",) if split.p is None else ()),
            ),
            condition=split.series.condition,
            tested_on=split.series.tested_on,
            control=split.series.control,
            control_of=split.series.control_of,
        )
        for split in splits
    ]
