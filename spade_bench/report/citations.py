"""What results rest on: licences, terms and references of encoders, heads, tasks and data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from spade_bench.report.naming import card_of, card_title, head_title, task_title
from spade_bench.report.series import Series

if TYPE_CHECKING:
    from spade_bench.types import EncoderCard

__all__ = ["Used", "bibtex", "used"]

_UNKNOWN = "unknown"
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


def used(series: Sequence[Series]) -> list[Used]:
    """List encoders with their bases, heads, tasks and data sets, each once.

    Args:
        series: What :func:`spade_bench.report.series` found.
    """
    out = [_encoder(label) for label in sorted(_labels(series))]
    out += [_head(name) for name in sorted({one.head for one in series})]
    tasks = sorted({one.task for one in series})
    out += [_task(name) for name in tasks]
    out += _data(tasks)
    return list({(one.kind, one.name): one for one in out}.values())


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


def _labels(series: Sequence[Series]) -> set[str]:
    """Names of encoders, of what they sit on, and of untrained controls; not of other controls."""
    labels = {one.encoder for one in series if one.control in {"", "base", "random-weights"}}
    labels |= {str(row.inputs["base"]) for one in series for row in one.rows[:1]
               if row.inputs.get("base") and not one.control}  # fmt: skip
    return labels


def _encoder(label: str) -> Used:
    card, _ = card_of(label)
    if card is None:
        return Used("encoder", label, label, _UNKNOWN)
    entry = card.bibtex.strip() or _from_reference(card)
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
    from spade_bench.registry import heads

    if name not in heads.names():
        return Used("head", name, name, _UNKNOWN)
    reference = heads.get(name).card.reference
    entry = _misc(name, head_title(name), reference) if reference else ""
    return Used("head", name, head_title(name), "that of spade-bench", reference=reference,
                key=_key_of(entry), bibtex=entry)  # fmt: skip


def _task(name: str) -> Used:
    from spade_bench.registry import tasks

    card = tasks.get(name).card if name in tasks.names() else None
    if card is None:
        return Used("task", name, name, _UNKNOWN)
    return Used("task", name, task_title(name), card.data or _UNKNOWN,
                source=", ".join(card.sources))  # fmt: skip


def _data(names: Sequence[str]) -> list[Used]:
    """Data sets of the tasks; their terms are those that the tasks' cards state."""
    from spade_bench.registry import tasks

    cards = [tasks.get(name).card for name in names if name in tasks.names()]
    sources = dict.fromkeys(source for card in cards for source in card.sources)
    return [
        Used(
            "data", source, source, f"see {', '.join(c.name for c in cards if source in c.sources)}"
        )
        for source in sources
    ]


def _from_reference(card: EncoderCard) -> str:
    """Make an entry of what a card's reference says; an author list is cut as it is there."""
    text = card.reference
    if not text or text == "baseline":
        return ""
    found = _PAPER.match(text) or _PREPRINT.match(text)
    arxiv, doi = _ARXIV.search(text), _DOI.search(text)
    if found is None or text.startswith("Model card"):
        return _misc(card.name, card_title(card), text)
    values = found.groupdict()
    authors = values["authors"].replace(" et al.", " and others")
    fields = {"author": authors, "title": f"{{{card_title(card)}}}"}
    preprint = not values["venue"] or re.match(r"arXiv|medRxiv|bioRxiv", values["venue"])
    if not preprint:
        fields["journal"] = values["venue"]
    year = values.get("year") or (f"20{arxiv[1]}" if arxiv else "")
    fields |= {"year": year} if year else {}
    fields |= {"doi": doi[1]} if doi else {}
    fields |= {"eprint": arxiv[1] + arxiv[2], "archiveprefix": "arXiv"} if arxiv else {}
    if preprint and not arxiv:
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
