"""Numbers of a folder of results beside published ones, which have their source with them.

The published numbers ship in `configs/published/numbers.yaml`. Their protocols differ from each
other and from the user's, so nothing is tested and nothing is ranked: they tell whether a number
lies where others have found it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from spade_bench import config
from spade_bench.errors import UserError, name_some

if TYPE_CHECKING:
    from spade_bench.report.leaderboard import ReportRow

__all__ = ["COLUMNS", "Beside", "PublishedNumber", "beside_published", "published_numbers"]

COLUMNS = ("task", "encoder", "metric", "yours", "how", "published", "source", "what differs")


@dataclass(frozen=True)
class PublishedNumber:
    """A number that somebody has published.

    Attributes:
        task: Named task, or the folder of a task of HEST-Bench.
        encoder: Registered name of the encoder.
        metric: Name of the metric.
        value: The number.
        source: Where it was published.
        note: What differs from the task and metric as they are here.
    """

    task: str
    encoder: str
    metric: str
    value: float
    source: str
    note: str = ""


@dataclass(frozen=True)
class _Content:
    numbers: tuple[PublishedNumber, ...]


@dataclass(frozen=True)
class Beside:
    """A published number with one of the user's, where there is one.

    Attributes:
        published: The published number.
        mean: The user's mean; None where this encoder has none.
        ci_low: Lower end of its 95% interval, where there is one.
        ci_high: Upper end.
        how: Head, protocol and shots of the user's number.
        flags: Its flags.
    """

    published: PublishedNumber
    mean: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    how: str = ""
    flags: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the pair ready for JSON."""
        own = {key: value for key, value in asdict(self).items() if key != "published"}
        return {**asdict(self.published), **own, "flags": list(self.flags)}

    def cells(self) -> tuple[str, ...]:
        """Return the pair as texts under `COLUMNS`."""
        mine = "-" if self.mean is None else f"{self.mean:.3f}"
        if self.ci_low is not None and self.ci_high is not None:
            mine += f" [{self.ci_low:.3f}, {self.ci_high:.3f}]"
        one = self.published
        place = (one.task, one.encoder, one.metric)
        return (*place, mine, self.how, f"{one.value:.3f}", one.source, one.note)


def published_numbers() -> tuple[PublishedNumber, ...]:
    """Read the numbers that ship with the package."""
    content = config.named_config("published", "numbers")
    return config.build(_Content, content, "configs/published/numbers.yaml").numbers


def beside_published(rows: Sequence[ReportRow]) -> list[Beside]:
    """Put numbers of a leaderboard beside published ones of the same task and metric.

    Args:
        rows: Rows of the leaderboard, with every metric that is wanted.

    Returns:
        A pair for each published number and each row of its encoder; one without a number of the
        user's where the encoder was not run. Controls are left out.

    Raises:
        UserError: When no number is known for any task and metric of the rows.
    """
    known = published_numbers()
    here = {(row.task, row.metric) for row in rows}
    found: list[Beside] = []
    for number in known:
        if (number.task, number.metric) not in here:
            continue
        place = (number.task, number.encoder, number.metric)
        mine = [
            row for row in rows if (row.task, row.encoder, row.metric) == place and not row.control
        ]
        found += [
            Beside(number, row.mean, row.ci_low, row.ci_high, _how(row), row.flags) for row in mine
        ] or [Beside(number)]
    if not found:
        raise UserError(
            f"no published number is known of {name_some(sorted({task for task, _ in here}))}",
            where="--published",
            fix=f"There are some of {', '.join(sorted({number.task for number in known}))}",
        )
    return found


def _how(row: ReportRow) -> str:
    shots = "" if row.k_shot is None else f", k = {row.k_shot}"
    where = "".join(f", {text}" for text in row.condition)
    return f"{row.head}, {row.protocol}{shots}{where}"
