"""The README.md of a model that is passed on, with the front matter that the hub reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from spade_bench.escaping import markdown_cell
from spade_bench.report.literature.citations import encoder_card
from spade_bench.version import __version__

__all__ = ["ModelFacts", "Validation", "licence_lines", "model_card"]

_UNSTATED = "not stated by who made it"
_NAMES = {
    "hashed": "They are withheld. A salted, slow hash stands in the place of each, so that "
    "spade-bench flags your own patients among them. The hashes hide names from readers, not from "
    "somebody who holds a list of candidates and tries each.",
    "none": "They are withheld, hashes included. Whether your patients are among them cannot be "
    "checked: results on any cohort are marked `contamination:unknown`, and `predict` leaves "
    "`trained_on` empty.",
    "named": "They are named in the files.",
}


@dataclass(frozen=True)
class Validation:
    """One figure of a model on cases that it was not trained on.

    Attributes:
        what: Metric, and what it was measured on.
        value: The figure.
        low: Lower end of its 95% interval; None where there is none.
        high: Upper end.
        n: On how many of what.
    """

    what: str
    value: float
    low: float | None = None
    high: float | None = None
    n: str = ""


@dataclass(frozen=True)
class ModelFacts:
    """What a card says of a model.

    Attributes:
        title: Heading.
        kind: `spade`, `model` or `head`.
        does: What it is, in a sentence.
        use: Commands that use it; ``DIR`` is the folder that `pull` made.
        encoders: Encoders whose features it takes, from the one that sees images upward.
        trained: Label -> what it was trained on, counted.
        datasets: Data sets that it saw; None when unknown.
        simulated: Whether it was trained on simulated data.
        validation: Figures on held-out data.
        validated: A sentence on them, or on why there are none.
        limits: Sentences on what it must not be used for.
        notes: Notes of the training.
        versions: Package -> version.
    """

    title: str
    kind: str
    does: str
    use: tuple[str, ...]
    encoders: tuple[str, ...]
    trained: dict[str, str]
    datasets: tuple[str, ...] | None = None
    simulated: bool = False
    validation: tuple[Validation, ...] = ()
    validated: str = ""
    limits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)


def model_card(facts: ModelFacts, names: str, licence: str) -> str:
    """Write the card.

    Args:
        facts: What the model is.
        names: What became of the names of patients and cases: `hashed`, `none` or `named`.
        licence: Licence of the model itself; empty where nobody stated one.
    """
    said = "unknown" if facts.datasets is None else ", ".join(facts.datasets) or "none"
    trained = {**facts.trained, "data sets": said, **({"simulated": "yes: made by a simulator"}
               if facts.simulated else {})}  # fmt: skip
    parts = [
        _front_matter(facts, licence),
        f"# {facts.title}",
        facts.does,
        "## Use",
        "```bash\n" + "\n".join(("spade-bench pull SOURCE --out DIR", *facts.use)) + "\n```",
        "`pull` checks every file against `manifest.json` before it takes the folder's name.",
        "## Trained on",
        _table(("what", "how many or which"), list(trained.items())),
        f"Names of samples, patients and cases: {_names(facts.kind, names)}",
        "## Validation",
        facts.validated,
        _figures(facts.validation),
        "## Limits",
        "\n".join(f"- {line}" for line in (*_LIMITS, *facts.limits)),
        *(
            ("## Notes of the training", "\n".join(f"- {markdown_cell(n)}" for n in facts.notes))
            if facts.notes
            else ()
        ),
        "## Licence",
        "\n".join(f"- {line}" for line in licence_lines(facts.encoders, licence)),
        "## Made with",
        _table(("package", "version"), list(facts.versions.items())),
        f"Card written by spade-bench {__version__}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _names(kind: str, names: str) -> str:
    """Say what became of names; nothing holds a bare head against anybody's patients by itself."""
    if kind != "head" or names == "named":
        return _NAMES[names]
    if names == "none":
        return "They are withheld. Whether yours are among them cannot be checked."
    return (
        "They are withheld. A salted, slow hash of each stands in cell.json; no command compares "
        "them with yours, `KnownNames` of `spade_bench.cohorts.hiddennames` does. The hashes hide "
        "names from readers, not from somebody who holds a list of candidates and tries each."
    )


_LIMITS = (
    "A research model. It was not tested for, and must not be used in, the care of patients.",
    "Figures speak of the data that they were measured on; stains and populations differ.",
)


def licence_lines(encoders: Sequence[str], licence: str) -> list[str]:
    """Say whose terms bind the user of a model, in sentences.

    Args:
        encoders: Encoders below it.
        licence: Its own licence; empty where none was stated.
    """
    lines = [f"This model: {licence or _UNSTATED}."]
    for name in encoders:
        card = encoder_card(name)
        terms = (card.licence if card is not None else "") or "unknown"
        gate = (
            "; its licence must be accepted on the hub" if card is not None and card.gated else ""
        )
        lines.append(
            f"Features come from `{name}`: {terms}{gate}. Its terms bind whoever uses this model, "
            "and may forbid what the line above allows."
        )
    return lines


def _front_matter(facts: ModelFacts, licence: str) -> str:
    import yaml

    bases = [repo for name in facts.encoders if (repo := _repository(name))]
    content: dict[str, Any] = {
        "library_name": "spade-bench",
        "license": "other",
        "license_name": licence or "not-stated",
        "tags": ["pathology", "spade-bench", facts.kind],
        **({"base_model": bases} if bases else {}),
    }
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---"


def _repository(name: str) -> str:
    card = encoder_card(name)
    return card.needs.repos[0] if card is not None and card.needs.repos else ""


def _figures(figures: Sequence[Validation]) -> str:
    if not figures:
        return ""
    rows = [
        (one.what, f"{one.value:.3f}", "-" if one.low is None or one.high is None
         else f"{one.low:.3f} to {one.high:.3f}", one.n)
        for one in figures
    ]  # fmt: skip
    return _table(("figure", "value", "95% interval", "on"), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(markdown_cell(c) for c in line) + " |" for line in lines)
