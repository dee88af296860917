"""What was used, from the cards: encoders, tasks and heads with their licences and sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spade_bench.report.literature.citations import encoder_card, names_of, task_card, used_labels
from spade_bench.report.page.resultsview import ResultsView

__all__ = ["UsedEncoder", "UsedHead", "UsedTask", "exposures", "used_encoders", "used_heads",
           "used_tasks"]  # fmt: skip


@dataclass(frozen=True)
class UsedEncoder:
    """An encoder behind some number.

    Attributes:
        label: Label in the tables.
        name: Name in the registry, or that under which its features were taken.
        card: Its card; None for one outside the registry.
        pretrained_on: Data sets seen in pretraining, in words.
        identities: Digests of what made its features, where the rows say.
    """

    label: str
    name: str
    card: Any
    pretrained_on: str
    identities: tuple[str, ...]


@dataclass(frozen=True)
class UsedTask:
    """A task.

    Attributes:
        name: Its name.
        card: What its card says, by field; empty where nothing is stored or registered.
    """

    name: str
    card: Mapping[str, Any]


@dataclass(frozen=True)
class UsedHead:
    """A head.

    Attributes:
        name: Its name.
        description: One sentence; empty for one that is not registered here.
        reference: Paper of the method.
    """

    name: str
    description: str
    reference: str


def used_encoders(results: ResultsView, settings: Sequence[Mapping[str, Any]]) -> list[UsedEncoder]:
    """Return the encoders of the tables, and the bases and controls whose features they use.

    Args:
        results: The results.
        settings: What runs were asked for, which say what labels stand for.
    """
    return [
        UsedEncoder(label, name, card, _pretrained_on(card), identities)
        for label, identities in used_labels(results.series).items()
        for name in names_of(label, settings)
        for card in (encoder_card(name),)
    ]


def _pretrained_on(card: Any) -> str:
    if card is None or card.pretrained_on is None:
        return "unknown"
    seen = ", ".join(card.pretrained_on) or "nothing that is declared"
    return f"{seen}; not declared: {', '.join(card.undeclared)}" if card.undeclared else seen


def used_tasks(results: ResultsView, settings: Sequence[Mapping[str, Any]]) -> list[UsedTask]:
    """Return the tasks: as they were when they ran, else as they are registered here."""
    names = dict.fromkeys(one.task for one in results.series)
    return [UsedTask(name, task_card(name, settings)) for name in names]


def used_heads(results: ResultsView) -> list[UsedHead]:
    """Return the heads."""
    from spade_bench.registry import head_card

    out = []
    for name in dict.fromkeys(one.head for one in results.series):
        card = head_card(name)
        out.append(UsedHead(name, card.description if card else "", card.reference if card else ""))
    return out


def exposures(results: ResultsView) -> tuple[list[str], list[tuple[str, list[tuple[str, ...]]]]]:
    """Return what is known of contamination: encoders, and for each task the flags of each.

    Returns:
        Labels of the encoders, and a row per task with the flags of each encoder there; a cell
        is empty where the ledger knows of none, and `-` where the encoder was not run.
    """
    mains = [one for one in results.series if not one.control and (one.rows or one.failed)]
    labels = list(dict.fromkeys(one.encoder for one in mains))
    rows = []
    for task in dict.fromkeys(one.task for one in mains):
        cells: list[tuple[str, ...]] = []
        for label in labels:
            mine = [one for one in mains if (one.task, one.encoder) == (task, label)]
            flags = {f for one in mine for f in one.flags if f.startswith("contamination:")}
            cells.append(tuple(sorted(flags)) if mine else ("-",))
        rows.append((task, cells))
    return labels, rows
