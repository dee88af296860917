"""What results rest on: licences, terms and references of encoders, heads, tasks and data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from spade_bench.report.literature.papers import DATA_PAPERS, PAPERS, Paper
from spade_bench.report.naming import card_of, card_title, head_title
from spade_bench.report.series import Series

if TYPE_CHECKING:
    from spade_bench.types import EncoderCard

__all__ = [
    "Used",
    "bibtex",
    "encoder_card",
    "entry_of",
    "names_of",
    "task_card",
    "used",
    "used_labels",
]

_UNKNOWN = "unknown"
_SIMULATED = "simulated data: no slide or label is anybody's, and no terms apply"
_ARXIV = re.compile(r"arXiv[: ]\s*(\d{2})(\d{2}\.\d{4,5})", re.IGNORECASE)
_DOI = re.compile(r"doi (10\.\d{4,9}/[^\s,;]+[^\s,;.)])")
_PAPER = re.compile(r"^(?P<authors>[^,]+), (?:(?P<venue>[^,]+) )?(?P<year>(?:19|20)\d\d)\b")
_PREPRINT = re.compile(r"^(?P<authors>[^,;]+), (?P<venue>(?:arXiv|medRxiv|bioRxiv) \S+)")


@dataclass(frozen=True)
class Used:
    """One thing that results rest on.

    Attributes:
        kind: `encoder`, `head`, `task` or `data`.
        name: Registry name, or name of a data set.
        title: What people write.
        licence: Licence of weights; terms of data in their own words; `unknown` where no card says.
        gated: Whether the licence must be accepted before a download.
        source: Where it comes from.
        reference: Paper or page.
        key: Key of its BibTeX entry; empty where there is nothing to cite.
        bibtex: Its BibTeX entry.
    """

    kind: str
    name: str
    title: str
    licence: str
    gated: bool = False
    source: str = ""
    reference: str = ""
    key: str = ""
    bibtex: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, ready for JSON."""
        return asdict(self)


def used(series: Sequence[Series], settings: Sequence[Mapping[str, Any]] = ()) -> list[Used]:
    """List encoders with their bases, heads, tasks and data sets, each once.

    Args:
        series: What :func:`spade_bench.report.series` found.
        settings: What runs were asked for, from beside their results; where they say nothing, the
            registry does.
    """
    out = [_encoder(name) for label in used_labels(series) for name in names_of(label, settings)]
    out += [_head(name) for name in sorted({one.head for one in series})]
    cards = {name: task_card(name, settings) for name in sorted({one.task for one in series})}
    # A series that is missing says nothing of the data.
    real = {one.task for one in series if (one.rows or one.failed) and not _is_simulated(one)}
    real |= cards.keys() - {one.task for one in series if _is_simulated(one)}
    out += [_task(name, card, name in real) for name, card in cards.items()]
    out += _data({name: card for name, card in cards.items() if name in real})
    if cards.keys() - real:
        made_for = ", ".join(sorted(cards.keys() - real))
        out.append(Used("data", "simulated", "simulated data", _SIMULATED, source=made_for))
    return list({(one.kind, one.name): one for one in out}.values())


def used_labels(series: Sequence[Series]) -> dict[str, tuple[str, ...]]:
    """Labels of encoders, of the bases whose features are used, and of untrained controls.

    Args:
        series: What :func:`spade_bench.report.series` found.

    Returns:
        Label -> digests of what made its features where the rows say, by label.
    """
    labels: dict[str, set[str]] = {}
    for one in series:
        if one.control in {"", "base", "random-weights"}:
            labels.setdefault(one.encoder, set())
        for row in (*one.rows, *one.failed):
            if row.identity and not one.control:
                labels[one.encoder].add(row.identity)
            if base := row.inputs.get("base"):
                labels.setdefault(str(base), set())
    return {label: tuple(sorted(labels[label])) for label in sorted(labels)}


def names_of(label: str, settings: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the encoders that a label stands for: as runs stored it, else the label itself.

    Args:
        label: Label of the results.
        settings: What runs were asked for; two that differ are both named.
    """
    stored = [str(e["name"]) for one in settings for e in one["encoders"] if e["label"] == label]
    return tuple(dict.fromkeys(stored)) or (label,)


def encoder_card(name: str) -> EncoderCard | None:
    """Return the card of the registered encoder that a name is or begins with."""
    from spade_bench.registry import encoders

    return encoders.get(name).card if name in encoders else card_of(name)[0]


def task_card(name: str, settings: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return a task's card by field: as it was when it ran, else as it is registered here.

    Args:
        name: Name of the task.
        settings: What runs were asked for.

    Returns:
        Its fields; none where nothing is stored or registered.
    """
    from spade_bench.registry import tasks

    for one in reversed(settings):
        for card in one.get("tasks", ()):
            if card["name"] == name:
                return dict(card)
    return asdict(tasks.get(name).card) if name in tasks else {}


def bibtex(items: Sequence[Used]) -> str:
    """Write the BibTeX entries, each once, and that of the program itself at the end."""
    from spade_bench.version import __version__

    entries = dict.fromkeys(one.bibtex for one in items if one.bibtex)
    own = _entry("software", "spade-bench", {
        "title": "spade-bench: a benchmark harness for computational pathology encoders",
        "author": "{spade-bench developers}",
        "version": __version__,
    })  # fmt: skip
    return "\n\n".join([*entries, own])


def entry_of(card: EncoderCard) -> str:
    """Return the BibTeX entry of a card: its own, else one made of its reference; may be empty."""
    return card.bibtex.strip() or _from_reference(card)


def _encoder(name: str) -> Used:
    card = encoder_card(name)
    if card is None:
        return Used("encoder", name, name, _UNKNOWN)
    entry = entry_of(card)
    return Used(
        kind="encoder",
        name=card.name,
        title=card_title(card),
        licence=card.licence or _UNKNOWN,
        gated=card.gated,
        source=card.source,
        reference=card.reference,
        key=_key_of(entry),
        bibtex=entry,
    )


def _head(name: str) -> Used:
    from spade_bench.registry import head_card

    card = head_card(name)
    if card is None:
        return Used("head", name, name, _UNKNOWN)
    reference = card.reference
    entry = _misc(name, head_title(name), reference) if reference else ""
    return Used("head", name, head_title(name), "that of spade-bench", reference=reference,
                key=_key_of(entry), bibtex=entry)  # fmt: skip


def _is_simulated(one: Series) -> bool:
    """Whether every row of a series says that its data are simulated."""
    rows = [*one.rows, *one.failed]
    return bool(rows) and all("simulated" in row.flags for row in rows)


def _task(name: str, card: Mapping[str, Any], real: bool) -> Used:
    """A task; the terms on its card speak of the real data, not of what was simulated for it."""
    title = card.get("title") or name
    if not real:
        return Used("task", name, title, _SIMULATED)
    return Used("task", name, title, card.get("data") or _UNKNOWN,
                source=", ".join(card.get("sources") or ()))  # fmt: skip


def _data(cards: Mapping[str, Mapping[str, Any]]) -> list[Used]:
    """Data sets of the tasks; their terms are those that the tasks' cards state."""
    tasks_of: dict[str, list[str]] = {}
    for name, card in cards.items():
        for source in card.get("sources") or ():
            tasks_of.setdefault(source, []).append(name)
    return [_data_set(source, names) for source, names in tasks_of.items()]


def _data_set(name: str, tasks: Sequence[str]) -> Used:
    """A data set, with its paper where it is one of the ledger's."""
    terms, paper = f"see {', '.join(tasks)}", DATA_PAPERS.get(name)
    if paper is None:
        return Used("data", name, name, terms)
    fields = {"author": paper.authors, "title": f"{{{paper.title}}}", "year": paper.year}
    if paper.journal:
        fields |= {"journal": paper.journal, "doi": paper.doi}
    else:
        fields |= {"eprint": paper.doi, "archiveprefix": "arXiv"}
    entry = _entry("article" if paper.journal else "misc", f"data-{name}", fields)
    first = paper.authors.split(",")[0]
    reference = f"{first} et al., {paper.journal or f'arXiv {paper.doi}'} {paper.year}"
    return Used("data", name, name, terms, reference=reference, key=_key_of(entry), bibtex=entry)


def _from_reference(card: EncoderCard) -> str:
    """Make an entry of what a card's reference says; an author list is cut as it is there."""
    text = card.reference
    if not text or text == "baseline":
        return ""
    found = _PAPER.match(text) or _PREPRINT.match(text)
    arxiv, doi = _ARXIV.search(text), _DOI.search(text)
    paper = PAPERS.get(doi[1] if doi else "") or PAPERS.get(arxiv[1] + arxiv[2] if arxiv else "")
    if text.startswith("Model card") or (found is None and paper is None):
        return _misc(card.name, card_title(card), text)
    values = found.groupdict() if found else {"authors": "", "venue": "", "year": ""}
    if paper is None:  # the name of the encoder stands for a title that is not known here
        paper = Paper(values["authors"].replace(" et al.", " and others"), card_title(card))
    fields = {"author": paper.authors, "title": f"{{{paper.title}}}"}
    preprint = not values["venue"] or re.match(r"arXiv|medRxiv|bioRxiv", values["venue"])
    if not preprint:
        fields["journal"] = values["venue"]
    year = values.get("year") or paper.year or (f"20{arxiv[1]}" if arxiv else "")
    fields |= {"year": year} if year else {}
    fields |= {"doi": doi[1]} if doi else {}
    fields |= {"eprint": arxiv[1] + arxiv[2], "archiveprefix": "arXiv"} if arxiv else {}
    if (preprint and not arxiv) or len(_ARXIV.findall(text)) > 1:
        fields["note"] = text
    return _entry("misc" if preprint else "article", card.name, fields)


def _misc(name: str, title: str, text: str) -> str:
    arxiv = _ARXIV.search(text)
    fields = {"title": f"{{{title}}}", "note": text}
    if arxiv:
        fields |= {"year": f"20{arxiv[1]}", "eprint": arxiv[1] + arxiv[2], "archiveprefix": "arXiv"}
    return _entry("misc", name, fields)


def _entry(kind: str, name: str, fields: dict[str, str]) -> str:
    from spade_bench.escaping import latex_cell

    raw = {"doi", "eprint"}
    lines = [f"@{kind}{{{re.sub(r'[^A-Za-z0-9_.:-]', '-', name)},"]
    for key, value in fields.items():
        braced = value.startswith("{") and value.endswith("}")
        inner = value[1:-1] if braced else value
        text = inner if key in raw else latex_cell(inner)
        lines.append(f"  {key} = {{{f'{{{text}}}' if braced else text}}},")
    return "\n".join([*lines, "}"])


def _key_of(entry: str) -> str:
    found = re.match(r"@\w+\{([^,]+),", entry)
    return found[1] if found else ""
