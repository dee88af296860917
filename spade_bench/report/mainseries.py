"""The few series worth a picture: of each encoder its main head, at its most training cases."""

from __future__ import annotations

from collections.abc import Sequence

from spade_bench.report.series import Series
from spade_bench.report.values import Resampler

__all__ = ["is_survival", "main_series"]


def main_series(
    series: Sequence[Series], resampler: Resampler
) -> dict[tuple[str, ...], list[Series]]:
    """Choose series by task, head, protocol and condition, one an encoder, without controls.

    The main head of a task is the default one of its kind where it was run, else the first by
    name. Of several shots the largest counts, of cross-validation the ensemble of the fold models
    where there is one, and of several versions of one name the one that was run last.

    Args:
        series: What :func:`spade_bench.report.series` found.
        resampler: Reads predictions.
    """
    mains = [one for one in series if one.rows and not one.control]
    out: dict[tuple[str, ...], list[Series]] = {}
    for place in dict.fromkeys((one.task, one.protocol, one.condition) for one in mains):
        alike = [one for one in mains if (one.task, one.protocol, one.condition) == place]
        task, protocol, condition = place
        head = _main_head(alike, resampler)
        best: dict[str, Series] = {}
        for one in alike:
            if one.head == head and (
                one.encoder not in best or _rank(one) > _rank(best[one.encoder])
            ):
                best[one.encoder] = one
        out[task, head, protocol, *condition] = list(best.values())
    return out


def is_survival(series: Series, resampler: Resampler) -> bool:
    """Whether the predictions of a series with finished rows are risks."""
    return resampler.predictions(series.rows[0]).survival


def _main_head(alike: Sequence[Series], resampler: Resampler) -> str:
    from spade_bench.registry import kinds

    kind = resampler.predictions(alike[0].rows[0]).kind
    usual = str(kinds.get(kind).card.default_head)
    there = sorted({one.head for one in alike})
    return usual if usual in there else there[0]


def _rank(one: Series) -> tuple[bool, int, str]:
    return "ensemble" in one.flags, one.k_shot or 0, max(row.created_utc for row in one.rows)
