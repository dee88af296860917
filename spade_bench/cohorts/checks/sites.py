"""How much of the label the contributing hospital gives away, without any image.

Hospitals differ in patients, in scanners and in staining. Where the site alone predicts the label,
an encoder that recognises sites does too, and random folds reward it. Without any signal the
leave-one-out AUROC lies a little below one half, because a case's own label is taken out of its
site's rate; the permutation p value allows for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spade_bench.cohorts.checks.issues import Issue, note, warning
from spade_bench.cohorts.checks.tablerows import case_labels
from spade_bench.cohorts.labels.barcodes import site_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["SiteSignal", "case_sites", "check_sites", "leave_one_out", "site_correlation",
           "site_hazard", "site_signal"]  # fmt: skip

_STRONG = 0.6
_PERMUTATIONS = 200


@dataclass(frozen=True)
class SiteSignal:
    """How well the site predicts one class.

    Attributes:
        auroc: AUROC of the leave-one-out rate of the class at the site.
        p: Share of label permutations that reach it, one-sided.
        n_sites: Sites.
        pure: Whether every site holds one class only.
    """

    auroc: float
    p: float
    n_sites: int
    pure: bool


def case_sites(frame: pd.DataFrame) -> pd.Series | None:
    """Site of each case: the column `site`, or the TCGA barcode; None when neither says."""
    if "site" in frame and frame["site"].notna().any():
        return case_labels(frame, "site")
    cases = frame["case_id"].dropna().drop_duplicates()
    if not len(cases) or not cases.str.startswith("TCGA-").all():
        return None
    return cases.set_axis(cases).map(site_of)


def leave_one_out(site: NDArray[np.int64], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the other cases of the same site, pulled towards the overall mean by one case.

    Args:
        site: (n,) site number of each case.
        value: (P, n) values, such as 1 for the class and 0 for the rest.

    Returns:
        (P, n) predictions that never contain a case's own value except through the overall mean.
    """
    import numpy as np

    member = np.zeros((len(site), int(site.max()) + 1))  # (n, S)
    member[np.arange(len(site)), site] = 1.0
    others = value @ member @ member.T - value  # (P, n)
    count = member.sum(axis=0)[site] - 1.0  # (n,)
    return np.asarray((others + value.mean(axis=1, keepdims=True)) / (count + 1.0))


def site_signal(site: NDArray[np.int64], positive: NDArray[np.bool_], seed: int = 0) -> SiteSignal:
    """Predict a class from the site alone.

    Args:
        site: (n,) site number of each case.
        positive: (n,) True for cases of the class; both kinds must occur.
        seed: Seed of the permutations.
    """
    import numpy as np
    from scipy.stats import rankdata

    rng = np.random.default_rng(seed)
    labels = np.stack([positive, *(rng.permutation(positive) for _ in range(_PERMUTATIONS))])
    scores = leave_one_out(site, labels.astype(float))  # (P + 1, n)
    m = int(positive.sum())
    n = len(positive) - m
    ranks = rankdata(scores, axis=1)  # (P + 1, n)
    aurocs = ((ranks * labels).sum(axis=1) - m * (m + 1) / 2) / (m * n)  # (P + 1,)
    p = float((1 + (aurocs[1:] >= aurocs[0]).sum()) / (1 + _PERMUTATIONS))
    pure = all(len(np.unique(positive[site == one])) == 1 for one in np.unique(site))
    return SiteSignal(float(aurocs[0]), p, len(np.unique(site)), pure)


def site_hazard(
    site: NDArray[np.int64], event: NDArray[np.bool_], days: NDArray[np.float64], seed: int = 0
) -> SiteSignal:
    """Predict survival from the site alone: concordance of the other cases' event rate there.

    Args:
        site: (n,) site number of each case.
        event: (n,) True where the event happened.
        days: (n,) days to the event or to the last contact.
        seed: Seed of the permutations.

    Returns:
        The signal; its ``auroc`` is Harrell's concordance index.
    """
    import numpy as np

    from spade_bench.statistics.riskscores import resampled_c_index

    rng = np.random.default_rng(seed)
    once = np.ones((1, len(site)))
    values = []
    for repeat in range(1 + _PERMUTATIONS // 2):
        order = rng.permutation(len(site)) if repeat else np.arange(len(site))
        happened, lasted = event[order], days[order]
        sums = leave_one_out(site, np.stack([happened.astype(float), lasted]))  # (2, n)
        rate = sums[0] / np.maximum(sums[1], 1e-9)  # (n,)
        values.append(resampled_c_index(happened, lasted, rate, once)[0])
    p = float((1 + sum(value >= values[0] for value in values[1:])) / len(values))
    return SiteSignal(float(values[0]), p, len(np.unique(site)), pure=False)


def site_correlation(
    site: NDArray[np.int64], value: NDArray[np.float64], seed: int = 0
) -> SiteSignal:
    """Predict a measured value from the site alone: the mean of the other cases there.

    Args:
        site: (n,) site number of each case.
        value: (n,) values, not all equal.
        seed: Seed of the permutations.

    Returns:
        The signal; its ``auroc`` is Pearson's correlation.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    shuffled = np.stack([value, *(rng.permutation(value) for _ in range(_PERMUTATIONS))])
    said = leave_one_out(site, shuffled)  # (P + 1, n)
    a = said - said.mean(axis=1, keepdims=True)  # (P + 1, n)
    b = shuffled - value.mean()  # (P + 1, n)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))  # (P + 1,)
    r = (a * b).sum(axis=1) / np.maximum(scale, 1e-300)  # (P + 1,)
    p = float((1 + (r[1:] >= r[0]).sum()) / (1 + _PERMUTATIONS))
    return SiteSignal(float(r[0]), p, len(np.unique(site)), pure=False)


def check_sites(frame: pd.DataFrame, outcome: pd.DataFrame) -> list[Issue]:
    """Check whether the site gives the label away.

    Args:
        frame: The table.
        outcome: By case, `label`, `value`, or `event` as True and False and `days`.
    """
    import pandas as pd

    sites = case_sites(frame)
    if sites is None:
        return [note("sites", "no site given: site confounding cannot be judged", count=0)]
    both = outcome.assign(site=sites).dropna()
    number = pd.factorize(both["site"])[0]
    if number.max(initial=0) < 1:
        return [note("sites", "all cases come from one site", count=1)]
    if "event" in both:
        event = both["event"].to_numpy(dtype=bool)
        if not event.any():
            return []
        signal = site_hazard(number, event, both["days"].to_numpy(dtype=float))
        return [_issue("survival", "concordance index", signal)]
    if "value" in both:
        values = both["value"].to_numpy(dtype=float)
        if len(set(values)) < 2:
            return []
        return [_issue("the value", "correlation", site_correlation(number, values), 0.3)]
    sizes = both["label"].value_counts(ascending=True)
    if len(sizes) < 2:
        return []
    # Two classes mirror each other: the rarer one is shown.
    shown = list(sizes.index[:1]) if len(sizes) == 2 else sorted(sizes.index)
    return [
        _issue(name, "AUROC", site_signal(number, (both["label"] == name).to_numpy()))
        for name in shown
    ]


def _issue(name: object, metric: str, signal: SiteSignal, strong: float = _STRONG) -> Issue:
    text = (
        f"the site alone ({signal.n_sites} sites) predicts {name} with a leave-one-out {metric} "
        f"of {signal.auroc:.2f} (permutation p = {signal.p:.3f})"
    )
    if signal.auroc < strong or signal.p > 0.05:
        return note("sites", text, count=signal.n_sites)
    fix = "Group folds by site, and say so"
    if signal.pure:
        text += "; every site holds one class only"
        fix = "TCGA gives site codes per project: map them to hospitals before judging"
    return warning("sites", text, count=signal.n_sites, fix=fix)
