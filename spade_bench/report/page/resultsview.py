"""What the page reads of results that were opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pandas as pd

    from spade_bench.report.pictures import Picture
    from spade_bench.report.series import Series
    from spade_bench.report.values import Resampler

__all__ = ["ResultsView"]


class ResultsView(Protocol):
    """Opened results, as `spade_bench.report.loadedresults.Results` are."""

    folders: tuple[Path, ...]
    problems: list[str]

    @property
    def series(self) -> Sequence[Series]:
        """The draws or folds of each encoder, task, head and number of shots."""

    @property
    def resampler(self) -> Resampler:
        """Evaluates metrics on the stored predictions."""

    def genes(self) -> pd.DataFrame:
        """Return a row per gene of every encoder and head on tasks of expression."""

    def coverage(self) -> pd.DataFrame:
        """Return what is missing."""

    def pictures(
        self,
        kind: str,
        *,
        task: str | None = None,
        head: str | None = None,
        a: str | None = None,
        b: str | None = None,
    ) -> Sequence[Picture]:
        """Return every picture of a kind, not drawn yet."""
